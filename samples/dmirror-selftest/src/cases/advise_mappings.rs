// SPDX-License-Identifier: GPL-2.0

//! Advice belongs to mappings: what becomes of it when they change, see the table in
//! Documentation/abi.md.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use dmirror_client::advice::{Access, Change, MOST};
use dmirror_client::queue;
use dmirror_client::queue::Outcome;

use super::advise::{access_in, deny, refused};
use crate::prelude::*;
use crate::worker::open;

cases! { "advise":
    unmapped = "munmap of a part takes the advice of that part along.",
    replaced = "What is mapped over memory with advice has none, and engines may access it.",
    moved = "Memory that mremap moves has no advice, neither at its new address nor at the old one.",
    left_mapped = "MREMAP_DONTUNMAP leaves no advice either.",
    grown = "What mremap adds has no advice; what it cuts off loses it.",
    forked = "A child's memory has no advice, and what it unmaps is not its parent's.",
    kept = "mprotect, madvise, mlock, and mappings that are split and merged leave advice alone.",
    holes = "Advice for a range with a hole is EFAULT, and nothing changes.",
    other_memory = "Memory of files, shared memory and PROT_NONE have advice as well.",
    holes_without_end = "Holes without end cost advice of what is around them at most, and nothing gets any.",
    while_mappings_change = "Threads give advice while another maps anew and engines run.",
}

/// Pages of the memory.
const PAGES: usize = 16;

const D: Access = Access::None;
const NOTHING: Access = Access::Default;

/// A device, and memory that engines must not access.
fn denied(context: &Context) -> Result<(Device, Memory)> {
    let device = open(context)?;
    let memory = Memory::new(PAGES)?;
    device.advise(memory.region.range(), deny())?;
    Ok((device, memory))
}

fn expect(device: &Device, region: &Region, runs: &[(usize, Access)]) -> Result<()> {
    equal(
        "advice by pages",
        access_in(device, region)?.as_slice(),
        runs,
    )
}

/// Checks that nothing is advised for a region.
fn nothing(device: &Device, region: &Region) -> Result<()> {
    expect(device, region, &[(region.pages(), NOTHING)])
}

fn unmapped(context: &Context) -> Result<()> {
    let (device, memory) = denied(context)?;
    let (start, end) = (memory.region.addr(), memory.region.range().end());
    let mut head = memory.region;
    let mut part = head.split_off(4);
    let tail = part.split_off(8);
    let hole = part.range();
    drop(part);
    let seen = |at| device.advice_at(at, end);
    equal("before", seen(start)?.end, hole.addr())?;
    let in_hole = seen(hole.addr())?;
    equal(
        "in it",
        (in_hole.access, in_hole.end),
        (NOTHING, hole.end()),
    )?;
    equal("behind", seen(hole.end())?.access, D)?;
    drop((head, tail));
    let all = seen(start)?;
    equal("all of it", (all.access, all.end), (NOTHING, end))
}

fn replaced(context: &Context) -> Result<()> {
    let worker = Worker::new(context)?;
    for resident in [false, true] {
        let memory = Memory::new(PAGES)?;
        let region = &memory.region;
        if resident {
            memory.move_out(&worker.device, memory.all())?;
        }
        worker.device.advise(region.range(), deny())?;
        region.replace(4..8)?;
        let runs = [(4, D), (8, NOTHING), (PAGES, D)];
        expect(&worker.device, region, &runs)?;
        let part = region.part(4..8);
        worker.does(&[Packet::fill(part.addr(), part.bytes(), 3)])?;
        let outcome = worker.run(&[Packet::fill(part.addr(), part.bytes() + 1, 4)])?;
        let write = queue::Access::Write;
        let expected = Outcome::failed(0, Errno::EACCES, write, part.end());
        equal("one byte more", outcome, expected)?;
        region.replace_by_shared(0..PAGES)?;
        nothing(&worker.device, region)?;
    }
    Ok(())
}

fn moved(context: &Context) -> Result<()> {
    let (device, memory) = denied(context)?;
    let (data, old) = (memory.data(), memory.region.range());
    let region = memory.region.relocate()?;
    nothing(&device, &region)?;
    let seen = device.advice_at(old.addr(), old.end())?;
    equal(
        "the old address",
        (seen.access, seen.end),
        (NOTHING, old.end()),
    )?;
    data.check(&region, 0..PAGES)?;
    // Those of hugetlb and of files go another way.
    let file = Region::options(PAGES).shared().map()?;
    device.advise(file.range(), deny())?;
    nothing(&device, &file.relocate()?)
}

fn left_mapped(context: &Context) -> Result<()> {
    let (device, memory) = denied(context)?;
    let taken = match memory.region.take_pages() {
        Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {
            return crate::check::skip("this kernel has no MREMAP_DONTUNMAP");
        }
        answer => answer?,
    };
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
    let seen = device.advice_at(old.addr(), old.end())?;
    equal(
        "the first address",
        (seen.access, seen.end),
        (NOTHING, old.end()),
    )
}

fn forked(context: &Context) -> Result<()> {
    let (device, memory) = denied(context)?;
    let region = &memory.region;
    helper(|| {
        let own = Worker::new(context)?;
        nothing(&own.device, region)?;
        own.does(&[Packet::fill(region.addr(), region.len() as u64, 5)])?;
        region.replace(0..PAGES / 2)?;
        own.device
            .advise(region.range(), Change::new().access(Access::Migrate))?;
        Ok(())
    })?
    .join()?;
    expect(&device, region, &[(PAGES, D)])?;
    memory.verify(memory.all())
}

fn kept(context: &Context) -> Result<()> {
    let (device, memory) = denied(context)?;
    let region = &memory.region;
    let whole = [(PAGES, D)];
    for protection in [Protection::None, Protection::Read, Protection::ReadWrite] {
        // Splits the mapping, and merges it again.
        region.protect(4..8, protection)?;
        expect(&device, region, &whole)?;
    }
    region.lock(2..5)?;
    region.unlock(2..5)?;
    for advice in [
        Advice::DontFork,
        Advice::DoFork,
        Advice::NoHuge,
        Advice::Cold,
        Advice::Free,
        Advice::DontNeed,
    ] {
        region.advise(3..9, advice)?;
        expect(&device, region, &whole).with_context(|| format!("{advice:?}"))?;
    }
    memory.fill(memory.all());
    memory.move_out(&device, memory.all())?;
    expect(&device, region, &whole)?;
    device.release()?;
    memory.verify(memory.all())?;
    expect(&device, region, &whole)
}

fn holes(context: &Context) -> Result<()> {
    let device = open(context)?;
    let (memory, whole, behind) = Memory::before_hole(PAGES, 2)?;
    device.advise(memory.region.part(0..4), deny())?;
    let runs = [(4, D), (PAGES, NOTHING)];
    let change = || Change::new().access(Access::InPlace);
    let answer = device.advise(whole, change());
    refused("a hole at the end", answer, Errno::EFAULT)?;
    expect(&device, &memory.region, &runs)?;
    let all = dmirror_client::PageRange::new(whole.addr(), whole.pages() + 1)?;
    let answer = device.advise(all, change());
    refused("a hole inside", answer, Errno::EFAULT)?;
    expect(&device, &memory.region, &runs)?;
    nothing(&device, &behind)?;
    device.advise(memory.region.range(), change())?;
    expect(&device, &memory.region, &[(PAGES, Access::InPlace)])
}

fn other_memory(context: &Context) -> Result<()> {
    let worker = Worker::new(context)?;
    let options = || Region::options(PAGES);
    let file = fs::File::open("/proc/self/exe")?;
    for region in [
        options().shared().map()?,
        options().private_file(file).map()?,
        options().shared_file(worker.device.file()?).map()?,
    ] {
        worker.device.advise(region.range(), deny())?;
        expect(&worker.device, &region, &[(PAGES, D)])?;
        let out = worker.code.addr();
        let outcome = worker.run(&[Packet::sum(out, region.addr(), 8)])?;
        let read = queue::Access::Read;
        let expected = Outcome::failed(0, Errno::EACCES, read, region.addr());
        equal("a job", outcome, expected)?;
        region.replace(0..PAGES / 2)?;
        let runs = [(PAGES / 2, NOTHING), (PAGES, D)];
        expect(&worker.device, &region, &runs)?;
    }
    Ok(())
}

/// What fdinfo has for a key.
fn fdinfo(device: &Device, key: &str) -> Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", device.as_fd().as_raw_fd());
    let text = fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let value = line.with_context(|| format!("no line {key}"))?;
    Ok(value.trim().parse()?)
}

fn holes_without_end(context: &Context) -> Result<()> {
    let device = open(context)?;
    let ranges = |device: &Device| fdinfo(device, "dmirror-advised-ranges:");
    let lost = |device: &Device| fdinfo(device, "dmirror-advice-lost-pages:");
    equal("ranges at first", ranges(&device)?, 0)?;
    // One range becomes more than there are places for.
    const EXTRA: usize = 10;
    let splits = 2 * MOST - 1;
    let holes = splits + EXTRA;
    let region = Region::anonymous(2 * holes + 2)?;
    device.advise(region.range(), deny())?;
    for index in 0..holes {
        let page = 2 * index + 1;
        region.replace(page..page + 1)?;
        let seen = device.advice_at(region.part(page..page + 1).addr(), u64::MAX & !4095)?;
        equal("what is new", seen.access, NOTHING)?;
        if index + 1 == splits {
            equal("ranges then", ranges(&device)?, 2 * MOST as u64)?;
            equal("nothing lost", lost(&device)?, 0)?;
        }
    }
    equal("ranges at last", ranges(&device)?, 2 * MOST as u64)?;
    // Of each range that could not be split the shorter part was forgotten: the page before.
    equal("pages lost", lost(&device)?, EXTRA as u64)?;
    let mut seen = vec![NOTHING; region.pages()];
    let mut start = 0;
    for (end, access) in access_in(&device, &region)? {
        seen[start..end].fill(access);
        start = end;
    }
    for (page, access) in seen.into_iter().enumerate() {
        let is_kept = page % 2 == 0 && page < 2 * splits || page >= 2 * holes;
        let expected = if is_kept { D } else { NOTHING };
        equal(&format!("page {page}"), access, expected)?;
    }
    device.advise(region.range(), Change::back())?;
    equal("ranges taken back", ranges(&device)?, 0)
}

fn while_mappings_change(context: &Context) -> Result<()> {
    const EACH: usize = 32;
    let worker = Worker::new(context)?;
    let memory = Memory::new(3 * EACH)?;
    let (region, device) = (&memory.region, &worker.device);
    let fill = Packet::fill(region.addr(), region.len() as u64, 0x55);
    let is_over = AtomicBool::new(false);
    // ORDERING: only the flag counts.
    let order = Ordering::Relaxed;
    thread::scope(|scope| -> Result<()> {
        let setter = |first: usize| {
            let is_over = &is_over;
            scope.spawn(move || -> Result<()> {
                for step in 0_usize.. {
                    let page = first + step % EACH;
                    let end = (page + 1 + step % 5).min(first + EACH);
                    let access = [Access::None, Access::Migrate, Access::InPlace, NOTHING];
                    let access = access[step / EACH % 4];
                    device.advise(region.part(page..end), Change::new().access(access))?;
                    let at = region.part(page..page + 1);
                    let seen = device.advice_at(at.addr(), at.end())?;
                    equal("what was set", seen.access, access)?;
                    if is_over.load(order) {
                        break;
                    }
                }
                Ok(())
            })
        };
        let setters = [setter(0), setter(EACH)];
        let mapper = scope.spawn(|| -> Result<()> {
            for step in 0_usize.. {
                let page = 2 * EACH + step % EACH;
                let at = region.part(page..page + 1);
                device.advise(at, deny())?;
                // Now and then with the page before.
                let first = page - usize::from(step % 3 == 0 && page > 2 * EACH);
                region.replace(first..page + 1)?;
                let seen = device.advice_at(at.addr(), at.end())?;
                equal("what is new", seen.access, NOTHING)?;
                if is_over.load(order) {
                    break;
                }
            }
            Ok(())
        });
        let engine = || -> Result<()> {
            for _ in rounds(20) {
                let outcome = worker.run(&[fill])?;
                match outcome.error {
                    None | Some(Errno::EACCES) => {}
                    Some(error) => bail!("a job failed with {error}: {outcome:?}"),
                }
            }
            Ok(())
        };
        let answer = engine();
        is_over.store(true, order);
        for thread in setters {
            joined(thread)?;
        }
        joined(mapper)?;
        answer
    })?;
    device.advise(region.range(), Change::back())?;
    nothing(device, region)?;
    worker.does(&[fill])?;
    ensure!(
        (0..region.len() / 8).all(|index| region.load(index) == 0x55),
        "not all was written"
    );
    Ok(())
}
