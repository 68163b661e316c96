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
    pagemap_of_another = "/proc/PID/pagemap of another process shows its resident pages, and leaves them there."
        => resident(PAGES, pagemap_of_another),
    process_vm_readv = "Another process reads resident pages by process_vm_readv."
        => resident(PAGES, process_vm_readv),
    process_vm_writev = "Another process writes resident pages by process_vm_writev."
        => resident(PAGES, process_vm_writev),
    proc_mem = "Another process reads and writes resident pages through /proc/PID/mem."
        => resident(PAGES, proc_mem),
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
    memory.out(&device)?;

    let survey = Survey::of(memory.region.range())?;
    let mut frames = HashSet::new();
    for place in survey.places() {
        let Place::Device { frame, entry } = place else {
            bail!("expected a page on the device, seen {place:?}");
        };
        let (is_new, is_private) = (frames.insert(*frame), entry.is_some());
        ensure!(is_new, "two pages have the device's frame {frame:#x}");
        ensure!(is_private, "it is mapped for the CPU at frame {frame:#x}");
    }
    let memories: Vec<_> = survey.devices().collect();
    ensure!(!memories.is_empty(), "no memory in iomem holds the pages");
    for memory in memories {
        println!("{} holds frames {:x?}", memory.name, memory.frames);
    }
    memory.intact()
}

fn smaps(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let usage = || Usage::of(memory.region.range());
    let before = usage()?;
    equal("Rss before", before.rss, memory.region.len() as u64)?;
    memory.out(&device)?;
    equal("smaps of resident pages", usage()?, before)?;
    memory.move_back(&device, 0..PAGES / 2, PAGES / 2)?;
    equal("smaps after half of them came back", usage()?, before)
}

fn pagemap_of_another(_: &Device, memory: &Memory) -> Result<()> {
    let (range, parent) = (memory.region.range(), std::process::id() as i32);
    in_child(|| {
        let seen = Survey::of_process(parent, range)?;
        at("seen from another process", &seen, Where::Device)
    })?;
    memory.expect("after being looked at", memory.all(), Where::Device)
}

/// Runs `look` in a child process, on the memory of this process; `look` gets the PID of this
/// process. Skips if processes may not look at each other.
pub(super) fn from_outside(look: impl FnOnce(Pid) -> Result<()>) -> Result<()> {
    let (parent, verdict) = (Pid::this(), Gate::new()?);
    in_child(|| match look(parent) {
        Err(error) if forbidden(&error) => verdict.send(1),
        answer => answer.and_then(|()| verdict.send(0)),
    })?;
    match verdict.receive()? {
        0 => Ok(()),
        _ => skip("a process may not look at another one here"),
    }
}

fn forbidden(error: &anyhow::Error) -> bool {
    let of_io = error.downcast_ref().and_then(std::io::Error::raw_os_error);
    let errno = of_io.map(Errno::from_raw);
    let errno = errno.or_else(|| error.downcast_ref().copied());
    errno.is_some_and(|errno| matches!(errno, Errno::EPERM | Errno::EACCES | Errno::ENOSYS))
}

fn process_vm_readv(_: &Device, memory: &Memory) -> Result<()> {
    let (base, len) = (memory.region.addr() as usize, memory.region.len());
    from_outside(|parent| {
        let mut bytes = vec![0; len];
        let mut to = [IoSliceMut::new(&mut bytes)];
        let read = uio::process_vm_readv(parent, &mut to, &[RemoteIoVec { base, len }])?;
        equal("bytes read", read, len)?;
        Ok(memory.data().check_bytes(&bytes, 0)?)
    })?;
    memory.intact()
}

/// Returns the first half of a page of round 2.
fn half(memory: &Memory, page: usize) -> Vec<u8> {
    let words =
        (0..Region::words_per_page() / 2).map(|word| memory.data().round(2).word(page, word));
    words.flat_map(u64::to_ne_bytes).collect()
}

/// Checks that the first half of each page is of round 2, and the second half unchanged.
fn halves_are(memory: &Memory) -> Result<()> {
    let (old, fresh) = (memory.data(), memory.data().round(2));
    let half = Region::words_per_page() / 2;
    words_are(memory, |word| if word < half { fresh } else { old })
}

/// Checks each word of memory; `data` returns the pattern of a word by its number in its page.
pub(super) fn words_are(memory: &Memory, data: impl Fn(usize) -> Pattern) -> Result<()> {
    let words = Region::words_per_page();
    for page in memory.all() {
        for word in 0..words {
            let seen = memory.region.load(page * words + word);
            let expected = data(word).word(page, word);
            equal(&format!("page {page}, word {word}"), seen, expected)?;
        }
    }
    Ok(())
}

fn process_vm_writev(_: &Device, memory: &Memory) -> Result<()> {
    from_outside(|parent| {
        // Write half pages to half pages: the other halves must stay.
        let bytes: Vec<u8> = memory.all().flat_map(|page| half(memory, page)).collect();
        let to = memory.all().map(|page| RemoteIoVec {
            base: memory.region.part(page..page + 1).addr() as usize,
            len: page_size() / 2,
        });
        let to: Vec<_> = to.collect();
        let written = uio::process_vm_writev(parent, &[IoSlice::new(&bytes)], &to)?;
        equal("bytes written", written, bytes.len())
    })?;
    halves_are(memory)
}

fn proc_mem(device: &Device, memory: &Memory) -> Result<()> {
    from_outside(|parent| {
        let mut bytes = vec![0; memory.region.len()];
        memory_of(parent)?.read_exact_at(&mut bytes, memory.region.addr())?;
        Ok(memory.data().check_bytes(&bytes, 0)?)
    })?;
    memory.out(device)?;
    from_outside(|parent| {
        let file = memory_of(parent)?;
        for page in memory.all() {
            let at = memory.region.part(page..page + 1).addr();
            file.write_all_at(&half(memory, page), at)?;
        }
        Ok(())
    })?;
    halves_are(memory)
}
