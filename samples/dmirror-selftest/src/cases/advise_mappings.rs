// SPDX-License-Identifier: GPL-2.0

//! Advice belongs to mappings. The table in Documentation/abi.md shows the effect of changes of
//! mappings on advice.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use dmirror_client::advice::{Access, Change, MOST};
use dmirror_client::queue;

use super::advise::{access_in, allow, deny, is_denied, refused, runs_are};
use super::engine::words_are;
use crate::prelude::*;
use crate::worker::open;

cases! { "advise":
    unmapped = "munmap of a part takes the advice of that part along.",
    replaced = "A mapping over memory with advice has none, and engines may access it.",
    moved = "Memory that mremap moves has no advice, neither at its new address nor at the old one.",
    left_mapped = "MREMAP_DONTUNMAP leaves no advice either.",
    grown = "Memory that mremap adds has no advice; memory that it cuts off loses it.",
    forked = "A child's memory has no advice, and what it unmaps is not its parent's.",
    kept = "mprotect, madvise, mlock, and mappings that are split and merged leave advice alone.",
    holes = "Advice for a range with a hole is EFAULT, and nothing changes.",
    other_memory = "Memory of files, shared memory and PROT_NONE have advice as well.",
    holes_without_end = "Holes without end cost advice of what is around them at most, and nothing gets any.",
    while_mappings_change = "Threads give advice while another maps anew and engines run.",
}

/// The number of pages of the memory.
const PAGES: usize = 16;

const D: Access = Access::None;
const NOTHING: Access = Access::Default;

/// Returns a device, and memory that engines must not access.
fn denied(context: &Context) -> Result<(Device, Memory)> {
    let (device, memory) = (open(context)?, Memory::new(PAGES)?);
    device.advise(memory.region.range(), deny())?;
    Ok((device, memory))
}

/// Checks that nothing is advised for a region.
fn nothing(device: &Device, region: &Region) -> Result<()> {
    runs_are(device, region, &[(region.pages(), NOTHING)])
}

/// Checks that nothing is advised for a range, which may have holes.
fn nothing_at(device: &Device, range: PageRange) -> Result<()> {
    let seen = device.advice_at(range.addr(), range.end())?;
    equal("advice", (seen.access, seen.end), (NOTHING, range.end()))
}

fn unmapped(context: &Context) -> Result<()> {
    let (device, memory) = denied(context)?;
    let all = memory.region.range();
    let mut head = memory.region;
    let mut part = head.split_off(4);
    let tail = part.split_off(8);
    let hole = part.range();
    drop(part);
    let seen = |at| device.advice_at(at, all.end());
    equal("before", seen(all.addr())?.end, hole.addr())?;
    let in_hole = seen(hole.addr())?;
    let expected = (NOTHING, hole.end());
    equal("in it", (in_hole.access, in_hole.end), expected)?;
    equal("behind", seen(hole.end())?.access, D)?;
    drop((head, tail));
    nothing_at(&device, all)
}

fn replaced(worker: Worker) -> Result<()> {
    for_all([false, true], |resident| {
        let memory = Memory::placed(&worker.device, PAGES, resident)?;
        let region = &memory.region;
        worker.device.advise(region.range(), deny())?;
        region.replace(4..8)?;
        runs_are(&worker.device, region, &[(4, D), (8, NOTHING), (PAGES, D)])?;
        let part = region.part(4..8);
        worker.does(&[Packet::fill(part.addr(), part.bytes(), 3)])?;
        let more = Packet::fill(part.addr(), part.bytes() + 1, 4);
        let write = queue::Access::Write;
        is_denied(&worker, "one byte more", more, write, part.end())?;
        region.replace_by_shared(0..PAGES)?;
        nothing(&worker.device, region)
    })
}

fn moved(context: &Context) -> Result<()> {
    let (device, memory) = denied(context)?;
    let old = memory.region.range();
    let memory = memory.relocated()?;
    nothing(&device, &memory.region)?;
    nothing_at(&device, old)?;
    memory.intact()?;
    // The kernel moves mappings of files in another way.
    let file = Region::options(PAGES).shared().map()?;
    device.advise(file.range(), deny())?;
    nothing(&device, &file.relocate()?)
}

fn left_mapped(context: &Context) -> Result<()> {
    let (device, memory) = denied(context)?;
    let reason = "this kernel has no MREMAP_DONTUNMAP";
    let taken = skip_on(Errno::EINVAL, reason, memory.region.take_pages())?;
    nothing(&device, &memory.region)?;
    nothing(&device, &taken)
}

fn grown(context: &Context) -> Result<()> {
    let (device, memory) = denied(context)?;
    let old = memory.region.range();
    let region = memory.region.resize(2 * PAGES)?;
    nothing(&device, &region)?;
    device.advise(region.range(), deny())?;
    let region = region.resize(PAGES / 2)?;
    nothing(&device, &region)?;
    nothing_at(&device, old)
}

fn forked(context: &Context) -> Result<()> {
    let (device, memory) = denied(context)?;
    let region = &memory.region;
    in_child(|| {
        let own = Worker::new(context)?;
        nothing(&own.device, region)?;
        own.does(&[Packet::fill(region.addr(), region.len() as u64, 5)])?;
        region.replace(0..PAGES / 2)?;
        Ok(allow(&own.device, region.range(), Access::Migrate)?)
    })?;
    runs_are(&device, region, &[(PAGES, D)])?;
    memory.intact()
}

fn kept(context: &Context) -> Result<()> {
    let (device, memory) = denied(context)?;
    let region = &memory.region;
    let is_kept = || runs_are(&device, region, &[(PAGES, D)]);
    for protection in [Protection::None, Protection::Read, Protection::ReadWrite] {
        // Splits the mapping, and merges it again.
        region.protect(4..8, protection)?;
        is_kept()?;
    }
    region.lock(2..5)?;
    region.unlock(2..5)?;
    use Advice::{Cold, DoFork, DontFork, DontNeed, Free, NoHuge};
    for advice in [DontFork, DoFork, NoHuge, Cold, Free, DontNeed] {
        region.advise(3..9, advice)?;
        is_kept().with_context(|| format!("{advice:?}"))?;
    }
    memory.fill(memory.all());
    memory.out(&device)?;
    is_kept()?;
    device.release()?;
    memory.intact()?;
    is_kept()
}

fn holes(WithEngines(device): WithEngines) -> Result<()> {
    let (memory, whole, behind) = Memory::before_hole(PAGES, 2)?;
    let region = &memory.region;
    device.advise(region.part(0..4), deny())?;
    let all = PageRange::new(whole.addr(), whole.pages() + 1)?;
    for (what, range) in [("a hole at the end", whole), ("a hole inside", all)] {
        let answer = allow(&device, range, Access::InPlace);
        refused(what, answer, Errno::EFAULT)?;
        runs_are(&device, region, &[(4, D), (PAGES, NOTHING)])?;
    }
    nothing(&device, &behind)?;
    allow(&device, region.range(), Access::InPlace)?;
    runs_are(&device, region, &[(PAGES, Access::InPlace)])
}

fn other_memory(worker: Worker) -> Result<()> {
    let options = || Region::options(PAGES);
    let (file, device) = (File::open("/proc/self/exe")?, &worker.device);
    for region in [
        options().shared().map()?,
        options().private_file(file).map()?,
        options().shared_file(device.file()?).map()?,
    ] {
        device.advise(region.range(), deny())?;
        runs_are(device, &region, &[(PAGES, D)])?;
        let sum = Packet::sum(worker.code.addr(), region.addr(), 8);
        let read = queue::Access::Read;
        is_denied(&worker, "a job", sum, read, region.addr())?;
        region.replace(0..PAGES / 2)?;
        runs_are(device, &region, &[(PAGES / 2, NOTHING), (PAGES, D)])?;
    }
    Ok(())
}

/// Returns the value of a key in fdinfo.
fn fdinfo(device: &Device, key: &str) -> Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", device.as_fd().as_raw_fd());
    let text = fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let value = line.with_context(|| format!("no line {key}"))?;
    Ok(value.trim().parse()?)
}

fn holes_without_end(WithEngines(device): WithEngines) -> Result<()> {
    let is = |what: &str, key: &str, expected: usize| {
        equal(what, fdinfo(&device, key)?, expected as u64)
    };
    let (ranges, lost) = ("dmirror-advised-ranges:", "dmirror-advice-lost-pages:");
    is("ranges at first", ranges, 0)?;
    // One range becomes more ranges than there are places.
    const EXTRA: usize = 10;
    let splits = 2 * MOST - 1;
    let holes = splits + EXTRA;
    let region = Region::anonymous(2 * holes + 2)?;
    device.advise(region.range(), deny())?;
    for index in 0..holes {
        let page = 2 * index + 1;
        region.replace(page..page + 1)?;
        let seen = device.advice_at(
            region.part(page..page + 1).addr(),
            page_bytes().wrapping_neg(),
        )?;
        equal("what is new", seen.access, NOTHING)?;
        if index + 1 == splits {
            is("ranges then", ranges, 2 * MOST)?;
            is("nothing lost", lost, 0)?;
        }
    }
    is("ranges at last", ranges, 2 * MOST)?;
    // For each range that could not be split, the shorter part was forgotten: the page before.
    is("pages lost", lost, EXTRA)?;
    let mut page = 0;
    for (end, access) in access_in(&device, &region)? {
        for page in page..end {
            let is_kept = page % 2 == 0 && page < 2 * splits || page >= 2 * holes;
            let expected = if is_kept { D } else { NOTHING };
            equal(&format!("page {page}"), access, expected)?;
        }
        page = end;
    }
    device.advise(region.range(), Change::back())?;
    is("ranges taken back", ranges, 0)
}

fn while_mappings_change(context: &Context) -> Result<()> {
    const EACH: usize = 32;
    let (worker, memory) = (Worker::new(context)?, Memory::new(3 * EACH)?);
    let (region, device) = (&memory.region, &worker.device);
    let fill = Packet::fill(region.addr(), region.len() as u64, 0x55);
    let is = |what: &str, page: usize, expected: Access| {
        let at = region.part(page..page + 1);
        let seen = device.advice_at(at.addr(), at.end())?;
        equal(what, seen.access, expected)
    };
    let set = |first: usize, step: usize| {
        let page = first + step % EACH;
        let end = (page + 1 + step % 5).min(first + EACH);
        let access = [Access::None, Access::Migrate, Access::InPlace, NOTHING];
        let access = access[step / EACH % 4];
        allow(device, region.part(page..end), access)?;
        is("what was set", page, access)
    };
    let map = |step: usize| {
        let page = 2 * EACH + step % EACH;
        device.advise(region.part(page..page + 1), deny())?;
        // Replace the page before as well now and then.
        let first = page - usize::from(step % 3 == 0 && page > 2 * EACH);
        region.replace(first..page + 1)?;
        is("what is new", page, NOTHING)
    };
    let steps = [const { AtomicUsize::new(0) }; 3];
    // ORDERING: each is for one thread.
    let next = |of: usize| steps[of].fetch_add(1, Ordering::Relaxed);
    let others: [&(dyn Fn() -> Result<()> + Sync); 3] =
        [&|| set(0, next(0)), &|| set(EACH, next(1)), &|| {
            map(next(2))
        }];
    beside(&others, || {
        for _ in rounds(20) {
            let outcome = worker.run(&[fill])?;
            let may_be = matches!(outcome.error, None | Some(Errno::EACCES));
            ensure!(may_be, "how a job ended: {outcome:?}");
        }
        Ok(())
    })?;
    device.advise(region.range(), Change::back())?;
    nothing(device, region)?;
    worker.does(&[fill])?;
    words_are("a word", region, 0..region.len() / 8, 0x55)
}
