// SPDX-License-Identifier: GPL-2.0

//! Trace events: they describe each operation, and are silent when they are off.

use std::ops::Range;
use std::process;

use super::evict::{BLOCKS, move_there, pages, with_small_device};
use super::failing::refused_once;
use super::huge;
use crate::prelude::*;
use crate::tracing::{Event, Trace};

cases! { "trace":
    formats = "Each event has a format file with the fields that it is documented to have.",
    silent_when_off = "Events that are switched off, or back off, leave nothing in the buffer.",
    to_the_device = "A migration to the device shows its range, its cause, the pages that moved and their reservation.",
    to_the_system = "A migration back to the system shows its range, its cause and the pages that moved."
        => resident(PAGES, to_the_system),
    one_window_after_the_other = "A migration of more than 2 MiB shows a begin and an end for each window.",
    nothing_moves = "A migration of pages that cannot move shows that none did.",
    second_device = "An event of another device has its number.",
    another_process = "An event has the number of the process that caused it.",
    cpu_fault = "A CPU that touches a page on the device shows the page, and what came back for it."
        => resident(PAGES, cpu_fault),
    cpu_fault_huge = "A CPU that touches a huge page on the device shows the window that came back."
        => kept(|_| huge::huge(1), cpu_fault_huge),
    cpu_fault_refused = "A CPU that touches what the device cannot give back shows the error and the answer."
        => kept(on_device(PAGES), cpu_fault_refused),
    evicted = "A full device shows which block it evicted, how many pages came, and how long it took.",
    released = "RELEASE shows under its own cause how many pages it brought back."
        => resident(PAGES, released),
    device_fault = "Faults of the device show their range, what it wanted, and the error.",
    device_fault_brings_back = "A device that writes to its pages that are shared shows that they went back for it."
        => resident(PAGES, device_fault_brings_back),
    invalidated = "Dropped memory shows how many pages the device has lost.",
    invalidated_by_itself = "A migration shows an invalidation of its own, a CPU fault one of the device's owner.",
    exclusive = "Exclusive access shows its range, how many pages became so, and the error.",
    everything_at_once = "With all events on, migrations, faults, forks and unmapping in two processes end, data right.",
}

const PAGES: usize = 24;

/// The fields `from=A to=B cause=C` of a migration, for both of its events.
const OUT: &str = "device=0 from=system to=device cause=request";
const BACK: &str = "device=0 from=device to=system cause=request";

/// Checks the process, the address and the number of pages of an event.
fn is_for(event: &Event, memory: &Memory, pages: Range<usize>) -> Result<()> {
    let address = memory.region.addr() as i64 + (pages.start * page_size()) as i64;
    equal("pid", event.number("pid")?, process::id().into())?;
    equal("address", event.number("address")?, address)?;
    equal("pages", event.number("pages")?, pages.len() as i64)
}

/// Returns the sum of a field over events.
pub(super) fn sum(events: &[Event], field: &str) -> Result<u64> {
    let numbers = events.iter().map(|event| Ok(event.number(field)? as u64));
    numbers.sum()
}

/// Returns the events of one name.
pub(super) fn named(events: &[Event], name: &str) -> Vec<Event> {
    let mut events = events.to_vec();
    events.retain(|event| event.name == name);
    events
}

/// Checks the names of all events, in order.
pub(super) fn are(events: &[Event], names: &[&str]) -> Result<()> {
    let seen: Vec<_> = events.iter().map(|event| &*event.name).collect();
    equal("events", &*seen, names)
}

/// Returns the events of some names that `body` causes, in order.
fn caused(names: &[&str], body: impl FnOnce() -> Result<()>) -> Result<Vec<Event>> {
    let trace = Trace::of(names)?;
    body()?;
    trace.take()
}

/// Checks names and fields of all events, in order, and that they are about these pages.
fn are_about(
    events: &[Event],
    memory: &Memory,
    pages: Range<usize>,
    expected: &[(&str, &str)],
) -> Result<()> {
    are(
        events,
        &expected.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
    )?;
    for (event, (_, fields)) in events.iter().zip(expected) {
        event.has(fields)?;
        is_for(event, memory, pages.clone())?;
    }
    Ok(())
}

/// Creates shared memory, filled, that no device takes.
pub(super) fn unmovable(pages: usize) -> Result<Memory> {
    let memory = Memory::new(pages)?;
    memory.region.replace_by_shared(memory.all())?;
    memory.fill(memory.all());
    Ok(memory)
}

/// Checks that there is an event of each name.
fn there_are(events: &[Event], names: &[&str]) -> Result<()> {
    for name in names {
        ensure!(!named(events, name).is_empty(), "no {name}");
    }
    Ok(())
}

/// Checks the format of each event, which is a list of its fields.
pub(super) fn have_formats(formats: &[(&str, &str)]) -> Result<()> {
    let trace = Trace::new()?;
    for (event, fields) in formats {
        equal(event, &*trace.fields_of(event)?.join(" "), fields)?;
    }
    Ok(())
}

/// Returns the events of one cause.
fn of_cause(mut events: Vec<Event>, cause: &str) -> Vec<Event> {
    events.retain(|event| event.text("cause").is_ok_and(|seen| seen == cause));
    events
}

/// Returns the events with the address of the start of memory.
fn at_start(mut events: Vec<Event>, memory: &Memory) -> Vec<Event> {
    let address = memory.region.addr() as i64;
    events.retain(|event| event.number("address").is_ok_and(|seen| seen == address));
    events
}

fn formats(_: &Context) -> Result<()> {
    let migrate = "device pid address pages order from to cause";
    have_formats(&[
        ("migrate_begin", migrate),
        ("migrate_end", &format!("{migrate} moved error")),
        ("device_fault", "device pid address pages access error"),
        ("cpu_fault", "device pid address start pages moved answer"),
        ("invalidate", "device pid address pages event own cleared"),
        ("evict", "device pid block cause moved left error ns"),
        ("exclusive", "device pid address pages made error"),
        ("reserve", "device pid block pages evict got error"),
    ])
}

fn silent_when_off(device: Device) -> Result<()> {
    let trace = Trace::of(&[])?;
    let memory = Memory::new(PAGES)?;
    let everything = || -> Result<()> {
        memory.out(&device)?;
        memory.verify(0..1)?;
        memory.reads(&device)?;
        memory.move_back(&device, memory.all(), PAGES - 1)
    };
    everything()?;
    equal("events, never on", trace.take()?.len(), 0)?;
    trace.switch("", true)?;
    everything()?;
    let migration = ["migrate_begin", "migrate_end", "reserve"];
    let seen = trace.take()?;
    there_are(&seen, &migration)?;
    there_are(&seen, &["cpu_fault", "invalidate"])?;
    trace.switch("", false)?;
    // Drop the events since the last read: this process may have caused some meanwhile.
    trace.take()?;
    everything()?;
    equal("events, switched off", trace.take()?.len(), 0)?;
    trace.switch("migrate_end", true)?;
    everything()?;
    let seen = trace.take()?;
    ensure!(!seen.is_empty() && seen.iter().all(|event| event.name == "migrate_end"));
    Ok(())
}

fn to_the_device(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let names = ["migrate_begin", "migrate_end", "reserve"];
    let events = caused(&names, || memory.out(&device))?;
    are(&events[..1], &["reserve"])?;
    let got = format!("device=0 block=0 pages={PAGES} evict=0 got={PAGES} error=0");
    events[0].has(&got)?;
    let end = format!("{OUT} moved={PAGES} error=0");
    let expected = [("migrate_begin", OUT), ("migrate_end", &*end)];
    are_about(&events[1..], &memory, memory.all(), &expected)
}

fn to_the_system(device: &Device, memory: &Memory) -> Result<()> {
    let names = ["migrate_begin", "migrate_end"];
    let events = caused(&names, || memory.move_back(device, 4..10, 6))?;
    let end = format!("{BACK} moved=6 error=0");
    let expected = [("migrate_begin", BACK), ("migrate_end", &*end)];
    are_about(&events, memory, 4..10, &expected)
}

fn one_window_after_the_other(device: Device) -> Result<()> {
    let memory = Memory::new(2 * hpage_pmd_nr() + PAGES)?;
    let events = caused(&["migrate_begin", "migrate_end"], || memory.out(&device))?;
    let [begins, ends] = ["migrate_begin", "migrate_end"].map(|name| named(&events, name));
    equal("begins and ends", begins.len(), ends.len())?;
    ensure!(ends.len() >= 3, "{} windows", ends.len());
    equal("pages", sum(&ends, "moved")?, memory.region.pages() as u64)
}

fn nothing_moves(device: Device) -> Result<()> {
    let memory = unmovable(PAGES)?;
    let trace = Trace::of(&["migrate_end"])?;
    ensure!(memory.try_out(&device).is_err(), "pages of a file moved");
    let ends = trace.take()?;
    ensure!(!ends.is_empty());
    let mut ends = ends.iter();
    ends.try_for_each(|end| end.has(&format!("{OUT} moved=0")))
}

fn second_device(context: &Context) -> Result<()> {
    let trace = Trace::of(&["migrate_end"])?;
    Memory::resident(&context.open_second()?, PAGES)?;
    trace.take_one("migrate_end")?.has("device=1")
}

fn another_process(context: &Context) -> Result<()> {
    let trace = Trace::of(&["migrate_end"])?;
    let done = Gate::new()?;
    in_child(|| {
        Memory::resident(&context.open()?, PAGES)?;
        done.send(process::id().into())
    })?;
    let pid = done.receive()?;
    let end = trace.take_one("migrate_end")?;
    equal("pid", end.number("pid")?, pid as i64)
}

fn cpu_fault(_: &Device, memory: &Memory) -> Result<()> {
    let names = ["migrate_begin", "migrate_end", "cpu_fault"];
    let events = caused(&names, || memory.verify(7..8))?;
    let cause = "device=0 order=0 from=device to=system cause=cpu_fault";
    let expected = [
        ("migrate_begin", cause),
        ("migrate_end", &format!("{cause} moved=1 error=0")),
        ("cpu_fault", "device=0 moved=1 answer=retry"),
    ];
    are_about(&events, memory, 7..8, &expected)?;
    let (start, address) = (events[2].number("start")?, events[2].number("address")?);
    equal("start", start, address)
}

fn cpu_fault_huge(device: &Device, memory: &Memory) -> Result<()> {
    memory.out(device)?;
    let events = caused(&["cpu_fault", "migrate_end"], || memory.verify(100..101))?;
    are(&events, &["migrate_end", "cpu_fault"])?;
    let (order, nr) = (hpage_pmd_nr().ilog2(), hpage_pmd_nr());
    events[0].has(&format!(
        "order={order} pages={nr} cause=cpu_fault moved={nr} error=0"
    ))?;
    is_for(&events[0], memory, memory.all())?;
    events[1].has(&format!("pages={nr} moved={nr} answer=retry"))?;
    let (start, address) = (events[1].number("start")?, events[1].number("address")?);
    equal("start", start, memory.region.addr() as i64)?;
    equal("address", address, start + (100 * page_size()) as i64)
}

fn cpu_fault_refused(_: &Device, memory: &Memory) -> Result<()> {
    let events = caused(&["cpu_fault", "migrate_end"], || refused_once(memory))?;
    there_are(&events, &["migrate_end", "cpu_fault"])?;
    named(&events, "migrate_end")[0].has("cause=cpu_fault moved=0 error=-5")?;
    named(&events, "cpu_fault")[0].has("device=0 moved=0 answer=bus_error")
}

fn evicted(context: &Context) -> Result<()> {
    with_small_device(context, || {
        let device = context.open()?;
        let first = Memory::new(pages(BLOCKS))?;
        move_there(&device, &first)?;
        let more = Memory::new(pages(1))?;
        let names = ["evict", "migrate_begin", "migrate_end", "reserve"];
        let events = caused(&names, || move_there(&device, &more))?;
        let out = of_cause(named(&events, "migrate_end"), "eviction");
        equal("pages evicted", sum(&out, "moved")?, pages(1) as u64)?;
        for end in &out {
            end.has("device=0 address=0x0 from=device to=system error=0")?;
        }
        let evictions = named(&events, "evict");
        equal("pages evicted", sum(&evictions, "moved")?, pages(1) as u64)?;
        for event in &evictions {
            event.has("device=0 cause=eviction left=0 error=0")?;
            let block = event.number("block")?;
            ensure!((0..BLOCKS as i64).contains(&block), "block {block}");
            ensure!(event.number("ns")? > 0, "an eviction in no time");
        }
        let asked = |event: &Event| event.has("evict=1 error=0").is_ok();
        let asked = named(&events, "reserve").iter().any(asked);
        ensure!(asked, "no reservation that evicts");
        first.intact()?;
        more.intact()
    })
}

fn released(device: &Device, memory: &Memory) -> Result<()> {
    let trace = Trace::of(&["evict", "migrate_end"])?;
    let count = device.release()?.pages;
    let events = of_cause(trace.take()?, "release");
    for name in ["evict", "migrate_end"] {
        equal(name, sum(&named(&events, name), "moved")?, count)?;
    }
    ensure!(count >= PAGES as u64, "{count} pages came");
    memory.intact()
}

fn device_fault(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let trace = Trace::of(&["device_fault"])?;
    memory.reads(&device)?;
    let event = trace.take_one("device_fault")?;
    event.has("device=0 access=read error=0")?;
    is_for(&event, &memory, memory.all())?;
    memory.region.protect(memory.all(), Protection::Read)?;
    let data = vec![0; memory.region.len()];
    let answer = device.write(memory.region.range(), &data);
    fails_at_once("a write to read-only memory", answer, Errno::EPERM)?;
    let events = trace.take_of("device_fault")?;
    ensure!(!events.is_empty());
    let mut events = events.iter();
    events.try_for_each(|event| event.has("access=write error=-1"))
}

fn device_fault_brings_back(device: &Device, memory: &Memory) -> Result<()> {
    while_shared(|| {
        let trace = Trace::of(&["migrate_end"])?;
        memory.device_refills(device, 2)?;
        let ends = of_cause(trace.take()?, "device_fault");
        ensure!(!ends.is_empty(), "nothing went back for the device");
        equal("pages", sum(&ends, "moved")?, PAGES as u64)?;
        ends[0].has("device=0 from=device to=system error=0")?;
        is_for(&ends[0], memory, memory.all())
    })?;
    memory.intact()
}

fn invalidated(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.device_reads(&device, 0..20)?;
    let drop_all = || Ok(memory.region.advise(memory.all(), Advice::DontNeed)?);
    let events = at_start(caused(&["invalidate"], drop_all)?, &memory);
    let expected = [("invalidate", "device=0 event=clear own=0 cleared=20")];
    are_about(&events, &memory, memory.all(), &expected)
}

fn invalidated_by_itself(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let trace = Trace::of(&["invalidate"])?;
    memory.out(&device)?;
    let events = at_start(trace.take()?, &memory);
    let is_migration = |event: &&Event| event.has("event=migrate").is_ok();
    let own = events
        .iter()
        .find(is_migration)
        .context("no event of a migration")?;
    own.has("device=0 own=1 cleared=0")?;
    memory.reads(&device)?;
    trace.take()?;
    memory.verify(0..1)?;
    let events = at_start(trace.take()?, &memory);
    equal("number of events", events.len(), 1)?;
    events[0].has("event=migrate own=1 pages=1 cleared=1")
}

fn exclusive(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let trace = Trace::of(&["exclusive", "invalidate"])?;
    let mut view = vec![0; memory.region.len()];
    device.exclusive(memory.region.range(), &mut view)?;
    let events = trace.take()?;
    // One event for each piece of the range.
    let piece = (256 << 10) / page_size();
    let pieces = named(&events, "exclusive");
    equal("events", pieces.len(), PAGES.div_ceil(piece))?;
    pieces
        .iter()
        .try_for_each(|event| event.has("device=0 error=0"))?;
    equal("pages made", sum(&pieces, "made")?, PAGES as u64)?;
    equal("pages", sum(&pieces, "pages")?, PAGES as u64)?;
    equal(
        "start",
        pieces[0].number("address")?,
        memory.region.addr() as i64,
    )?;
    let is_own = |event: &Event| event.has("event=exclusive own=1").is_ok();
    ensure!(at_start(events, &memory).iter().any(is_own));
    memory.region.protect(10..PAGES, Protection::None)?;
    trace.take()?;
    let answer = device.exclusive(memory.region.range(), &mut view);
    ensure!(answer.is_err(), "memory without rights became exclusive");
    let events = trace.take()?;
    let pieces = named(&events, "exclusive");
    equal("events", pieces.len(), 10 / piece + 1)?;
    equal("pages made", sum(&pieces, "made")?, 10)?;
    pieces.last().context("no event")?.has("error=-14")
}

fn everything_at_once(context: &Context) -> Result<()> {
    let trace = Trace::new()?;
    trace.switch("", true)?;
    all_ways_twice(context)?;
    trace.switch("", false)?;
    let events = trace.take()?;
    there_are(&events, &["migrate_begin", "migrate_end", "cpu_fault"])?;
    there_are(&events, &["invalidate", "device_fault"])
}
