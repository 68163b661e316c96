// SPDX-License-Identifier: GPL-2.0

//! The files of /proc about a process's memory, and system calls that ask the
//! same, with pages on the device.

use std::collections::HashMap;
use std::path::Path;

use dmirror_client::{Scan, mincore, nodes_of, pagemap_scan};
use nix::sys::resource::{UsageWho, getrusage};

use super::huge::huge;
use crate::prelude::*;

cases! { "proc":
    smaps_adds_up = "The sizes that smaps gives for resident pages add up.",
    smaps_adds_up_huge = "The sizes that smaps gives for huge pages that went to the device add up.",
    smaps_shared = "After a fork smaps gives half of the resident pages to each process.",
    smaps_rollup = "smaps_rollup is the sum of smaps, resident pages included.",
    status = "VmRSS and VmSwap of /proc/self/status do not change when pages go to the device.",
    maxrss = "getrusage counts resident pages in the peak of memory.",
    numa_maps = "numa_maps counts the pages of a mapping that are not on the device, by node.",
    mincore_resident = "mincore says that resident pages are in memory, and leaves them there.",
    pagemap_scan_finds = "The ioctl PAGEMAP_SCAN finds exactly the resident pages as not present.",
    queries_huge = "mincore, move_pages, PAGEMAP_SCAN and numa_maps answer for huge pages on the device, and leave them there.",
}

const PAGES: usize = 32;

/// The fields of smaps in bytes, summed up over the mappings that `wanted` takes
/// by their first and last address.
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
            inside = wanted(
                u64::from_str_radix(start, 16)?,
                u64::from_str_radix(end, 16)?,
            );
        }
    }
    Ok(sums)
}

/// The fields of smaps of `range`, as [`smaps`] does.
fn smaps_of(range: PageRange) -> Result<HashMap<String, u64>> {
    smaps("/proc/self/smaps", |start, end| {
        range.addr() <= start && end <= range.end()
    })
}

/// Checks the sizes of anonymous memory of which every page is somewhere.
fn adds_up(what: &str, range: PageRange) -> Result<HashMap<String, u64>> {
    let sums = smaps_of(range)?;
    let size = |name: &str| sums.get(name).copied().unwrap_or(0);
    equal(&format!("{what}: Size"), size("Size"), range.bytes())?;
    equal(&format!("{what}: Rss"), size("Rss"), range.bytes())?;
    equal(
        &format!("{what}: Anonymous"),
        size("Anonymous"),
        range.bytes(),
    )?;
    equal(&format!("{what}: Swap"), size("Swap"), 0)?;
    let kinds = [
        "Shared_Clean",
        "Shared_Dirty",
        "Private_Clean",
        "Private_Dirty",
    ];
    let sum: u64 = kinds.iter().map(|kind| size(kind)).sum();
    equal(&format!("{what}: the sum of {kinds:?}"), sum, size("Rss"))?;
    for part in ["Pss", "Pss_Dirty", "Referenced", "AnonHugePages"] {
        let (part_size, rss) = (size(part), size("Rss"));
        ensure!(
            part_size <= rss,
            "{what}: {part} is {part_size}, of Rss {rss}"
        );
    }
    Ok(sums)
}

fn smaps_adds_up(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let range = memory.region.range();
    adds_up("before", range)?;
    memory.move_out(&device, memory.all())?;
    let there = adds_up("on the device", range)?;
    equal("Pss of memory of one process", there["Pss"], range.bytes())?;
    memory.move_back(&device, 0..PAGES / 2, PAGES / 2)?;
    adds_up("with half of it back", range)?;
    memory.verify(memory.all())?;
    adds_up("back", range)?;
    Ok(())
}

fn smaps_adds_up_huge(device: Device) -> Result<()> {
    let memory = huge(2)?;
    let range = memory.region.range();
    adds_up("before", range)?;
    memory.move_out(&device, memory.all())?;
    println!("on the device: {:?}", adds_up("on the device", range)?);
    memory.region.touch(3);
    adds_up("with a page of it touched", range)?;
    memory.verify(memory.all())?;
    adds_up("back", range)?;
    Ok(())
}

fn smaps_shared(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
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
    memory.expect("after all looks", memory.all(), Where::Device)?;
    memory.verify(memory.all())
}

fn smaps_rollup(context: &Context) -> Result<()> {
    let (ready, done) = (Gate::new()?, Gate::new()?);
    // A process that waits, so that nothing changes between the two files.
    let child = helper(|| {
        let device = context.open()?;
        let memory = Memory::new(PAGES)?;
        memory.move_out(&device, memory.all())?;
        ready.send(u64::from(std::process::id()))?;
        done.wait()?;
        memory.expect("after being looked at", memory.all(), Where::Device)?;
        memory.verify(memory.all())
    })?;
    let pid = ready.receive()?;
    let sums = smaps(format!("/proc/{pid}/smaps"), |_, _| true)?;
    let rollup = smaps(format!("/proc/{pid}/smaps_rollup"), |_, _| true)?;
    // What is private and what is shared changes whenever the parent writes.
    for name in ["Rss", "Anonymous", "Swap", "AnonHugePages"] {
        equal(name, rollup.get(name), sums.get(name))?;
    }
    done.open()?;
    child.join()
}

/// A field of /proc/self/status in bytes.
fn status_field(name: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/self/status")?;
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kib.with_context(|| format!("no {name} in /proc/self/status"))? * 1024)
}

/// The counters of a process are exact to some pages a processor.
fn about(what: &str, seen: u64, expected: u64) -> Result<()> {
    let slack = 256 * page_size() as u64;
    ensure!(
        seen.abs_diff(expected) <= slack,
        "{what}: expected about {expected}, seen {seen}"
    );
    Ok(())
}

fn status(context: &Context) -> Result<()> {
    const MANY: usize = 1024;
    let device = context.open()?;
    let memory = Memory::new(MANY)?;
    // The view that the device fills is memory too: have it before.
    let mut view = vec![0xa5; memory.region.len()];
    let before = status_field("RssAnon")?;
    device.migrate_to_device(memory.region.range(), &mut view)?;
    memory.expect("after moving out", memory.all(), Where::Device)?;
    about("RssAnon on the device", status_field("RssAnon")?, before)?;
    equal("VmSwap on the device", status_field("VmSwap")?, 0)?;
    memory.verify(memory.all())?;
    about("RssAnon back", status_field("RssAnon")?, before)?;
    memory.move_out(&device, memory.all())?;
    let bytes = memory.region.len() as u64;
    drop(memory);
    about(
        "RssAnon after unmapping",
        status_field("RssAnon")?,
        before - bytes,
    )
}

fn maxrss(context: &Context) -> Result<()> {
    const MANY: usize = 4096;
    // In a process of its own: the peak never goes down.
    helper(|| {
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
        ensure!(
            after + 512 * page_size() as u64 >= before.max(bytes),
            "the peak does not hold the resident pages"
        );
        about("VmHWM", status_field("VmHWM")?, after)
    })?
    .join()
}

/// The fields of the line of numa_maps about the mapping at `range`.
fn numa_fields(range: PageRange) -> Result<HashMap<String, u64>> {
    let text = match fs::read_to_string("/proc/self/numa_maps") {
        Err(_) => return skip("the kernel has no numa_maps"),
        Ok(text) => text,
    };
    let start = format!("{:08x} ", range.addr());
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&start))
        .with_context(|| format!("no line of numa_maps begins with {start}"))?;
    println!("{line}");
    Ok(line
        .split_whitespace()
        .filter_map(|field| field.split_once('='))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect())
}

fn numa_maps(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let range = memory.region.range();
    let pages = |fields: &HashMap<String, u64>| -> u64 {
        let by_node = |name: &str| name.starts_with('N') && name[1..].parse::<u32>().is_ok();
        fields
            .iter()
            .filter(|(name, _)| by_node(name))
            .map(|(_, pages)| pages)
            .sum()
    };
    equal("pages before", pages(&numa_fields(range)?), PAGES as u64)?;
    memory.move_out(&device, memory.all())?;
    equal(
        "pages on nodes, all on the device",
        pages(&numa_fields(range)?),
        0,
    )?;
    memory.move_back(&device, 0..PAGES / 4, PAGES / 4)?;
    let fields = numa_fields(range)?;
    equal(
        "pages with a quarter back",
        pages(&fields),
        PAGES as u64 / 4,
    )?;
    equal(
        "anon with a quarter back",
        fields.get("anon").copied(),
        Some(PAGES as u64 / 4),
    )?;
    memory.verify(memory.all())
}

fn mincore_resident(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    equal(
        "pages in memory",
        mincore(memory.region.range())?,
        vec![true; PAGES],
    )?;
    memory.expect("after mincore", memory.all(), Where::Device)?;
    memory.verify(memory.all())
}

fn pagemap_scan_finds(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let whole = memory.region.range();
    // A page out of three is elsewhere than its neighbours.
    for page in (0..PAGES).step_by(3) {
        memory.move_out(&device, page..page + 1)?;
    }
    let found = |scan| -> Result<Vec<u64>> {
        let found = match pagemap_scan(whole, scan) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOTTY as i32) => {
                return skip("the kernel has no PAGEMAP_SCAN");
            }
            answer => answer?,
        };
        let size = page_size() as u64;
        Ok(found
            .iter()
            .flat_map(|pages| pages.start / size..pages.end / size)
            .map(|page| page - whole.addr() / size)
            .collect())
    };
    let (out, rest): (Vec<u64>, Vec<u64>) = (0..PAGES as u64).partition(|page| page % 3 == 0);
    equal("pages found as not present", found(Scan::SWAPPED)?, out)?;
    equal("pages found as present", found(Scan::PRESENT)?, rest)?;
    equal("pages found as a file's", found(Scan::FILE)?, vec![])?;
    memory.verify(memory.all())
}

fn queries_huge(device: Device) -> Result<()> {
    let memory = huge(1)?;
    let (range, pages) = (memory.region.range(), memory.region.pages());
    memory.move_out(&device, memory.all())?;
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
    memory.expect("after the looks", memory.all(), Where::Device)?;
    memory.verify(memory.all())
}
