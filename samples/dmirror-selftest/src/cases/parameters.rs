// SPDX-License-Identifier: GPL-2.0

//! Invalid parameters of the module.

use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

use dmirror_client::Module;
use dmirror_client::module::Loader;
use dmirror_client::place::Place;
use nix::fcntl::OFlag;

use crate::prelude::*;
use crate::reload::Unloaded;

cases! { "coherent":
    wrong_parameters = "One address alone, a size alone, an address or a size out of place, and memory in use are refused with a line in the log.",
}

/// Runs `body`, and returns its result and the lines that the kernel logs meanwhile.
fn logged<T>(body: impl FnOnce() -> T) -> Result<(T, String)> {
    let mut log = File::options()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open("/dev/kmsg")?;
    let mut record = vec![0; 8192];
    let mut rest = || -> Result<String> {
        let mut lines = String::new();
        loop {
            match log.read(&mut record) {
                Ok(length) => lines.push_str(&String::from_utf8_lossy(&record[..length])),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(lines),
                // The record was overwritten before it was read.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(error) => return Err(error.into()),
            }
        }
    };
    rest()?;
    Ok((body(), rest()?))
}

/// Returns a loader of the module's file, which reports an errno if loading fails.
fn file_of(loader: &Loader, module: &Module) -> Result<Loader> {
    let path = if let Loader::File { path, .. } = loader {
        path.clone()
    } else {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let (release, name) = (release.trim(), module.name());
        let path = format!("/lib/modules/{release}/extra/{name}.ko");
        if !fs::exists(&path)? {
            return skip(format!("there is no {path}"));
        }
        path.into()
    };
    let parameters = Vec::new();
    Ok(Loader::File { path, parameters })
}

fn wrong_parameters(context: &Context) -> Result<()> {
    needs_ours("checks of its parameters")?;
    let (module, loader) = context.module()?;
    let file = file_of(loader, &module)?;
    // A frame of this process lies in memory that the system uses.
    let memory = Memory::new(1)?;
    let frame = match Survey::of(memory.region.range())?.places() {
        [Place::System { frame }] if *frame != 0 => *frame,
        places => return skip(format!("the kernel shows no frames: {places:?}")),
    };
    let used = frame * page_size() as u64 / hpage_pmd_size() as u64 * hpage_pmd_size() as u64;
    let next = format!("spm_addr_dev1={:#x}", used + hpage_pmd_size() as u64);
    let used = format!("spm_addr_dev0={used:#x}");
    let size = format!("spm_size={}", hpage_pmd_size());
    let low = ["spm_addr_dev0=0x1000", "spm_addr_dev1=0x2000", &size];
    let wrong: [(&[&str], Errno); 6] = [
        (&[&size], Errno::EINVAL),
        (&[&used, &size], Errno::EINVAL),
        (&[&next, &size], Errno::EINVAL),
        (&low, Errno::EINVAL),
        (&[&used, &next, "spm_size=4096"], Errno::EINVAL),
        (&[&used, &next, &size], Errno::EBUSY),
    ];
    let unloaded = Unloaded::new(&module, loader)?;
    for (parameters, errno) in wrong {
        let (answer, lines) = logged(|| file.load(&module, parameters))?;
        let seen = answer.err().and_then(|error| error.raw_os_error());
        let what = format!("errno of loading with {parameters:?}");
        equal(&what, seen, Some(errno as i32))?;
        let told = lines.contains("dmirror");
        ensure!(told, "{parameters:?}: nothing in the log");
    }
    unloaded.load_again()?;
    context.open().map(drop)
}
