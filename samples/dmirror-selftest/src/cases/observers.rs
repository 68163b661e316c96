// SPDX-License-Identifier: GPL-2.0

//! Resident pages looked at from outside: by the kernel's own files about
//! memory, and by other processes.

use std::collections::HashSet;
use std::io::{IoSlice, IoSliceMut};

use dmirror_client::place::Usage;
use dmirror_client::{Pattern, Place};
use nix::sys::uio;
use nix::sys::uio::RemoteIoVec;
use nix::unistd::Pid;

use crate::prelude::*;

cases! { "observers":
    pagemap = "/proc/self/pagemap shows each resident page as one frame of device memory of its own.",
    smaps = "smaps counts resident pages as Rss, and none as Swap.",
    pagemap_of_another = "/proc/PID/pagemap of another process shows its resident pages, and leaves them there.",
    process_vm_readv = "Another process reads resident pages by process_vm_readv.",
    process_vm_writev = "Another process writes resident pages by process_vm_writev.",
    proc_mem = "Another process reads and writes resident pages through /proc/PID/mem.",
}

const PAGES: usize = 32;

fn pagemap(context: &Context) -> Result<()> {
    if !is_root() {
        return skip("page frames are shown to root only");
    }
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    let before = Survey::of(memory.region.range())?;
    at("before", &before, Where::System)?;
    memory.move_out(&device, memory.all())?;

    let survey = Survey::of(memory.region.range())?;
    let mut frames = HashSet::new();
    for place in survey.places() {
        let Place::Device { frame, entry } = place else {
            bail!("expected a page on the device, seen {place:?}");
        };
        ensure!(
            frames.insert(*frame),
            "two pages have the device's frame {frame:#x}"
        );
        ensure!(
            entry.is_some(),
            "private memory is mapped for the CPU at frame {frame:#x}"
        );
    }
    let memories: Vec<_> = survey.devices().collect();
    ensure!(
        !memories.is_empty(),
        "no device memory in /proc/iomem holds the pages"
    );
    for memory in memories {
        println!("{} holds frames {:x?}", memory.name, memory.frames);
    }
    memory.verify(memory.all())
}

fn smaps(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let before = Usage::of(memory.region.range())?;
    equal("Rss before", before.rss, memory.region.len() as u64)?;
    memory.move_out(&device, memory.all())?;
    equal(
        "smaps of resident pages",
        Usage::of(memory.region.range())?,
        before,
    )?;
    memory.move_back(&device, 0..PAGES / 2, PAGES / 2)?;
    equal(
        "smaps after half of them came back",
        Usage::of(memory.region.range())?,
        before,
    )
}

fn pagemap_of_another(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    let (range, parent) = (memory.region.range(), std::process::id() as i32);
    helper(|| {
        at(
            "seen from another process",
            &Survey::of_process(parent, range)?,
            Where::Device,
        )
    })?
    .join()?;
    memory.expect("after being looked at", memory.all(), Where::Device)
}

/// Runs `look` in a child process, on this process's memory, after the child has
/// lost its own copy of it. Skips where processes may not look at each other.
fn from_outside(memory: &Memory, look: impl FnOnce(Pid, usize) -> Result<()>) -> Result<()> {
    let verdict = Gate::new()?;
    let (parent, addr) = (Pid::this(), memory.region.addr() as usize);
    let child = helper(|| match look(parent, addr) {
        Err(error) if forbidden(&error) => verdict.send(1),
        answer => answer.and_then(|()| verdict.send(0)),
    })?;
    child.join()?;
    match verdict.receive()? {
        0 => Ok(()),
        _ => skip("a process may not look at another one here"),
    }
}

fn forbidden(error: &anyhow::Error) -> bool {
    let forbidden = |errno| matches!(errno, Errno::EPERM | Errno::EACCES | Errno::ENOSYS);
    match error.downcast_ref::<std::io::Error>() {
        Some(error) => error
            .raw_os_error()
            .map(Errno::from_raw)
            .is_some_and(forbidden),
        None => error
            .downcast_ref::<Errno>()
            .copied()
            .is_some_and(forbidden),
    }
}

fn process_vm_readv(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    from_outside(&memory, |parent, addr| {
        let mut bytes = vec![0; PAGES * page_size()];
        let remote = [RemoteIoVec {
            base: addr,
            len: bytes.len(),
        }];
        let read = uio::process_vm_readv(parent, &mut [IoSliceMut::new(&mut bytes)], &remote)?;
        equal("bytes read", read, bytes.len())?;
        Ok(memory.data().check_bytes(&bytes, 0)?)
    })?;
    memory.verify(memory.all())
}

fn process_vm_writev(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    let fresh = memory.data().round(2);
    from_outside(&memory, |parent, addr| {
        // Half a page to half a page: the other halves must stay.
        let half = page_size() / 2;
        let bytes: Vec<u8> = (0..PAGES)
            .flat_map(|page| (0..half / 8).map(move |word| fresh.word(page, word)))
            .flat_map(u64::to_ne_bytes)
            .collect();
        let remote: Vec<_> = (0..PAGES)
            .map(|page| RemoteIoVec {
                base: addr + page * page_size(),
                len: half,
            })
            .collect();
        let written = uio::process_vm_writev(parent, &[IoSlice::new(&bytes)], &remote)?;
        equal("bytes written", written, bytes.len())
    })?;
    halves_are(&memory, fresh)
}

/// Checks that the first half of each page is `fresh`, the second as it was.
fn halves_are(memory: &Memory, fresh: Pattern) -> Result<()> {
    let words = Region::words_per_page();
    for page in memory.all() {
        for word in 0..words {
            let expected = if word < words / 2 {
                fresh
            } else {
                memory.data()
            };
            let seen = memory.region.load(page * words + word);
            equal(
                &format!("page {page}, word {word}"),
                seen,
                expected.word(page, word),
            )?;
        }
    }
    Ok(())
}

fn proc_mem(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let fresh = memory.data().round(2);
    memory.move_out(&device, memory.all())?;
    from_outside(&memory, |parent, addr| {
        let file = memory_of(parent)?;
        let mut bytes = vec![0; PAGES * page_size()];
        file.read_exact_at(&mut bytes, addr as u64)?;
        Ok(memory.data().check_bytes(&bytes, 0)?)
    })?;
    memory.move_out(&device, memory.all())?;
    from_outside(&memory, |parent, addr| {
        let file = memory_of(parent)?;
        for page in 0..PAGES {
            let half: Vec<u8> = (0..page_size() / 16)
                .flat_map(|word| fresh.word(page, word).to_ne_bytes())
                .collect();
            file.write_all_at(&half, (addr + page * page_size()) as u64)?;
        }
        Ok(())
    })?;
    halves_are(&memory, fresh)
}
