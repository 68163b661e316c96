// SPDX-License-Identifier: GPL-2.0

//! The files of /proc about a process's memory, and system calls for the same information, with
//! pages on the device.

use std::collections::HashMap;
use std::path::Path;

use dmirror_client::{Scan, mincore, nodes_of, pagemap_scan};
use nix::sys::resource::{UsageWho, getrusage};

use super::huge::huge;
use crate::prelude::*;

cases! { "proc":
    smaps_adds_up = "The sizes that smaps gives for resident pages add up.",
    smaps_adds_up_huge = "The sizes that smaps gives for huge pages that went to the device add up.",
    smaps_shared = "After a fork smaps gives half of the resident pages to each process."
        => kept(on_device(PAGES), smaps_shared),
    smaps_rollup = "smaps_rollup is the sum of smaps, resident pages included.",
    status = "VmRSS and VmSwap of /proc/self/status do not change when pages go to the device.",
    maxrss = "getrusage counts resident pages in the peak of memory.",
    numa_maps = "numa_maps counts the pages of a mapping that are not on the device, by node."
        => kept(in_system(PAGES), numa_maps),
    mincore_resident = "mincore says that resident pages are in memory, and leaves them there."
        => kept(on_device(PAGES), mincore_resident),
    pagemap_scan_finds = "The ioctl PAGEMAP_SCAN finds exactly the resident pages as not present."
        => kept(in_system(PAGES), pagemap_scan_finds),
    queries_huge = "mincore, move_pages, PAGEMAP_SCAN and numa_maps answer for huge pages on the device, and leave them there."
        => kept(|_| huge(1), queries_huge),
}

const PAGES: usize = 32;

/// Returns the fields of smaps in bytes, summed up over the mappings that `wanted` takes by their
/// start and end.
fn smaps(
    file: impl AsRef<Path>,
    wanted: impl Fn(u64, u64) -> bool,
) -> Result<HashMap<String, u64>> {
    let text = fs::read_to_string(file)?;
    let mut sums = HashMap::new();
    let mut inside = false;
    for line in text.lines() {
        let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        if let Some(name) = first.strip_suffix(':') {
            let value = rest.trim().strip_suffix(" kB").map(str::parse::<u64>);
            if let (true, Some(Ok(value))) = (inside, value) {
                *sums.entry(name.to_owned()).or_default() += value * 1024;
            }
        } else if let Some((start, end)) = first.split_once('-') {
            let [start, end] = [start, end].map(|number| u64::from_str_radix(number, 16));
            inside = wanted(start?, end?);
        }
    }
    Ok(sums)
}

/// Returns the fields of smaps of `range`, as [`smaps`] does.
fn smaps_of(range: PageRange) -> Result<HashMap<String, u64>> {
    smaps("/proc/self/smaps", |start, end| {
        range.addr() <= start && end <= range.end()
    })
}

/// Checks the sizes of anonymous memory with all pages populated, and returns them.
fn adds_up(what: &str, range: PageRange) -> Result<HashMap<String, u64>> {
    let sums = smaps_of(range)?;
    let size = |name: &str| sums.get(name).copied().unwrap_or(0);
    let (bytes, rss) = (range.bytes(), size("Rss"));
    let expected = [bytes, bytes, bytes, 0];
    for (name, expected) in ["Size", "Rss", "Anonymous", "Swap"].iter().zip(expected) {
        equal(&format!("{what}: {name}"), size(name), expected)?;
    }
    let kinds = "Shared_Clean Shared_Dirty Private_Clean Private_Dirty";
    let sum: u64 = kinds.split(' ').map(size).sum();
    equal(&format!("{what}: the sum of {kinds}"), sum, rss)?;
    for part in ["Pss", "Pss_Dirty", "Referenced", "AnonHugePages"] {
        let size = size(part);
        ensure!(size <= rss, "{what}: {part} is {size}, of Rss {rss}");
    }
    Ok(sums)
}

/// Checks the sizes before, on the device, with a part of the memory brought back by `back`, and
/// with all of it back; returns those on the device.
fn adds_up_always(
    device: &Device,
    memory: &Memory,
    back: impl FnOnce() -> Result<()>,
) -> Result<HashMap<String, u64>> {
    let range = memory.region.range();
    adds_up("before", range)?;
    memory.out(device)?;
    let there = adds_up("on the device", range)?;
    println!("on the device: {there:?}");
    back()?;
    adds_up("with a part of it back", range)?;
    memory.intact()?;
    adds_up("back", range)?;
    Ok(there)
}

fn smaps_adds_up(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let back = || memory.move_back(&device, 0..PAGES / 2, PAGES / 2);
    let there = adds_up_always(&device, &memory, back)?;
    let bytes = memory.region.len() as u64;
    equal("Pss of memory of one process", there["Pss"], bytes)
}

fn smaps_adds_up_huge(device: Device) -> Result<()> {
    let memory = huge(2)?;
    let touch = || {
        memory.region.touch(3);
        Ok(())
    };
    adds_up_always(&device, &memory, touch).map(drop)
}

fn smaps_shared(_: &Device, memory: &Memory) -> Result<()> {
    let range = memory.region.range();
    let (seen, done) = (Gate::new()?, Gate::new()?);
    let child = helper(|| {
        let pss = adds_up("in the child", range)?["Pss"];
        seen.send(pss)?;
        done.wait()
    })?;
    equal("Pss in the child", seen.receive()?, range.bytes() / 2)?;
    let pss = adds_up("in the parent", range)?["Pss"];
    equal("Pss in the parent", pss, range.bytes() / 2)?;
    done.open()?;
    child.join()?;
    memory.expect("after all looks", memory.all(), Where::Device)
}

fn smaps_rollup(context: &Context) -> Result<()> {
    let (ready, done) = (Gate::new()?, Gate::new()?);
    // The child waits, so that nothing changes between the two files.
    let child = helper(|| {
        let memory = Memory::resident(&context.open()?, PAGES)?;
        ready.send(u64::from(std::process::id()))?;
        done.wait()?;
        memory.expect("after being looked at", memory.all(), Where::Device)?;
        memory.intact()
    })?;
    let pid = ready.receive()?;
    let sums = smaps(format!("/proc/{pid}/smaps"), |_, _| true)?;
    let rollup = smaps(format!("/proc/{pid}/smaps_rollup"), |_, _| true)?;
    // The private and shared sizes change whenever the parent writes.
    for name in ["Rss", "Anonymous", "Swap", "AnonHugePages"] {
        equal(name, rollup.get(name), sums.get(name))?;
    }
    done.open()?;
    child.join()
}

/// Returns a field of /proc/self/status in bytes.
fn status_field(name: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/self/status")?;
    let value = |line: &str| -> Option<u64> {
        let value = line.strip_prefix(name)?.strip_prefix(':')?.trim();
        value.strip_suffix(" kB")?.parse().ok()
    };
    let kib = text.lines().find_map(value);
    Ok(kib.with_context(|| format!("no {name} in /proc/self/status"))? * 1024)
}

/// Checks a counter of a process, which is exact to some pages per processor.
fn about(what: &str, seen: u64, expected: u64) -> Result<()> {
    let is_near = seen.abs_diff(expected) <= 256 * page_size() as u64;
    ensure!(is_near, "{what}: expected about {expected}, seen {seen}");
    Ok(())
}

fn status(device: Device) -> Result<()> {
    const MANY: usize = 1024;
    let memory = Memory::new(MANY)?;
    // The view that the device fills is memory, too: allocate it before.
    let mut view = vec![0xa5; memory.region.len()];
    let before = status_field("RssAnon")?;
    device.migrate_to_device(memory.region.range(), &mut view)?;
    memory.expect("after moving out", memory.all(), Where::Device)?;
    about("RssAnon on the device", status_field("RssAnon")?, before)?;
    equal("VmSwap on the device", status_field("VmSwap")?, 0)?;
    memory.intact()?;
    about("RssAnon back", status_field("RssAnon")?, before)?;
    memory.out(&device)?;
    let bytes = memory.region.len() as u64;
    drop(memory);
    let after = status_field("RssAnon")?;
    about("RssAnon after unmapping", after, before - bytes)
}

fn maxrss(context: &Context) -> Result<()> {
    const MANY: usize = 4096;
    // Use a process of its own, since the peak never goes down.
    in_child(|| {
        let device = context.open()?;
        let peak = || getrusage(UsageWho::RUSAGE_SELF).map(|usage| usage.max_rss() as u64 * 1024);
        let before = peak()?;
        let memory = Memory::new(MANY)?;
        let chunk = 256;
        let mut view = vec![0; chunk * page_size()];
        for start in (0..MANY).step_by(chunk) {
            device.migrate_to_device(memory.region.part(start..start + chunk), &mut view)?;
        }
        let (after, bytes) = (peak()?, memory.region.len() as u64);
        println!("peak before {before}, after {after}, memory {bytes}");
        let holds_them = after + 512 * page_size() as u64 >= before.max(bytes);
        ensure!(holds_them, "the peak does not hold the resident pages");
        about("VmHWM", status_field("VmHWM")?, after)
    })
}

/// Returns the fields of the line of numa_maps for the mapping at `range`.
fn numa_fields(range: PageRange) -> Result<HashMap<String, u64>> {
    let Ok(text) = fs::read_to_string("/proc/self/numa_maps") else {
        return skip("the kernel has no numa_maps");
    };
    let start = format!("{:08x} ", range.addr());
    let line = text.lines().find_map(|line| line.strip_prefix(&start));
    let line = line.with_context(|| format!("no line of numa_maps begins with {start}"))?;
    println!("{line}");
    let field = |field: &str| {
        let (name, value) = field.split_once('=')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    Ok(line.split_whitespace().filter_map(field).collect())
}

fn numa_maps(device: &Device, memory: &Memory) -> Result<()> {
    // Returns the number of pages on nodes, and the field `anon`.
    let counts = || -> Result<(u64, Option<u64>)> {
        let fields = numa_fields(memory.region.range())?;
        let by_node = |name: &str| name.starts_with('N') && name[1..].parse::<u32>().is_ok();
        let nodes = fields.iter().filter(|(name, _)| by_node(name));
        let pages = nodes.map(|(_, pages)| pages).sum();
        Ok((pages, fields.get("anon").copied()))
    };
    equal("pages before", counts()?.0, PAGES as u64)?;
    memory.out(device)?;
    equal("pages on nodes, all on the device", counts()?.0, 0)?;
    memory.move_back(device, 0..PAGES / 4, PAGES / 4)?;
    let quarter = PAGES as u64 / 4;
    let seen = counts()?;
    equal(
        "pages, anon, a quarter back",
        seen,
        (quarter, Some(quarter)),
    )?;
    Ok(())
}

fn mincore_resident(_: &Device, memory: &Memory) -> Result<()> {
    let seen = mincore(memory.region.range())?;
    equal("pages in memory", seen, vec![true; PAGES])?;
    memory.expect("after mincore", memory.all(), Where::Device)
}

fn pagemap_scan_finds(device: &Device, memory: &Memory) -> Result<()> {
    let whole = memory.region.range();
    // One page out of three is at another place than its neighbours.
    for page in (0..PAGES).step_by(3) {
        memory.move_out(device, page..page + 1)?;
    }
    let found = |scan| -> Result<Vec<u64>> {
        let found = pagemap_scan(whole, scan);
        let found = skip_on(Errno::ENOTTY, "the kernel has no PAGEMAP_SCAN", found)?;
        let size = page_size() as u64;
        let page = |addr: u64| (addr - whole.addr()) / size;
        let pages = found.iter().map(|part| page(part.start)..page(part.end));
        Ok(pages.flatten().collect())
    };
    let (out, rest): (Vec<u64>, Vec<u64>) = (0..PAGES as u64).partition(|page| page % 3 == 0);
    equal("pages found as not present", found(Scan::SWAPPED)?, out)?;
    equal("pages found as present", found(Scan::PRESENT)?, rest)?;
    equal("pages found as a file's", found(Scan::FILE)?, vec![])
}

fn queries_huge(device: &Device, memory: &Memory) -> Result<()> {
    let (range, pages) = (memory.region.range(), memory.region.pages());
    memory.out(device)?;
    equal("mincore", mincore(range)?, vec![true; pages])?;
    match nodes_of(range, None) {
        Err(error) if error.raw_os_error() == Some(Errno::ENOSYS as i32) => {}
        answer => equal("move_pages", answer?, vec![-(Errno::ENOENT as i32); pages])?,
    }
    match pagemap_scan(range, Scan::SWAPPED) {
        Err(error) if error.raw_os_error() == Some(Errno::ENOTTY as i32) => {}
        answer => {
            let found = answer?.iter().map(|part| part.end - part.start).sum();
            equal("bytes found as not present", found, range.bytes())?;
        }
    }
    if fs::exists("/proc/self/numa_maps")? {
        let fields = numa_fields(range)?;
        equal("anon in numa_maps", fields.get("anon").copied(), None)?;
    }
    memory.expect("after the looks", memory.all(), Where::Device)
}
