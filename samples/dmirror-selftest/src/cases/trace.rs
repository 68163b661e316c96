// SPDX-License-Identifier: GPL-2.0

//! Trace events: what they say of what was done, and that they are silent when off.

use std::process;

use super::evict::{BLOCKS, move_there, pages, with_small_device};
use super::failing::touched;
use super::huge;
use crate::inject::{Failure, Often};
use crate::prelude::*;
use crate::tracing::{Event, Trace};

cases! { "trace":
    formats = "Each event has a format file with the fields that it is documented to have.",
    silent_when_off = "Events that are switched off, or back off, leave nothing in the buffer.",
    to_the_device = "A migration to the device shows its range, its cause, the pages that moved and their reservation.",
    to_the_system = "A migration back to the system shows its range, its cause and the pages that moved.",
    one_window_after_the_other = "A migration of more than 2 MiB shows a begin and an end for each window.",
    nothing_moves = "A migration of pages that cannot move shows that none did.",
    second_device = "An event of another device has its number.",
    another_process = "An event has the number of the process that caused it.",
    cpu_fault = "A CPU that touches a page on the device shows the page, and what came back for it.",
    cpu_fault_huge = "A CPU that touches a huge page on the device shows the window that came back.",
    cpu_fault_refused = "A CPU that touches what the device cannot give back shows the error and the answer.",
    evicted = "A full device shows which block it evicted, how many pages came, and how long it took.",
    released = "RELEASE shows under its own cause how many pages it brought back.",
    device_fault = "Faults of the device show their range, what it wanted, and the error.",
    device_fault_brings_back = "A device that writes to its pages that are shared shows that they went back for it.",
    invalidated = "Dropped memory shows how many pages the device has lost.",
    invalidated_by_itself = "A migration shows an invalidation of its own, a CPU fault one of the device's owner.",
    exclusive = "Exclusive access shows its range, how many pages became so, and the error.",
    everything_at_once = "With all events on, migrations, faults, forks and unmapping in two processes end, data right.",
}

const PAGES: usize = 24;

/// `from=A to=B cause=C` of a migration, for both of its events.
const OUT: &str = "device=0 from=system to=device cause=request";
const BACK: &str = "device=0 from=device to=system cause=request";

/// Checks process, address and number of pages.
fn is_for(event: &Event, memory: &Memory, pages: std::ops::Range<usize>) -> Result<()> {
    let address = memory.region.addr() as i64 + (pages.start * page_size()) as i64;
    equal("pid", event.number("pid")?, process::id().into())?;
    equal("address", event.number("address")?, address)?;
    equal("pages", event.number("pages")?, pages.len() as i64)
}

/// The sum of a field.
fn sum(events: &[Event], field: &str) -> Result<i64> {
    events.iter().map(|event| event.number(field)).sum()
}

/// The events of one cause.
fn of_cause(mut events: Vec<Event>, cause: &str) -> Vec<Event> {
    events.retain(|event| event.text("cause").is_ok_and(|seen| seen == cause));
    events
}

/// The events that cover the start of memory.
fn at_start(mut events: Vec<Event>, memory: &Memory) -> Vec<Event> {
    let address = memory.region.addr() as i64;
    events.retain(|event| event.number("address").is_ok_and(|seen| seen == address));
    events
}

fn formats(_: &Context) -> Result<()> {
    let trace = Trace::new()?;
    let migrate = "device pid address pages order from to cause";
    for (event, fields) in [
        ("migrate_begin", migrate),
        ("migrate_end", &format!("{migrate} moved error")),
        ("device_fault", "device pid address pages access error"),
        ("cpu_fault", "device pid address start pages moved answer"),
        ("invalidate", "device pid address pages event own cleared"),
        ("evict", "device pid block cause moved left error ns"),
        ("exclusive", "device pid address pages made error"),
        ("reserve", "device pid block pages evict got error"),
    ] {
        equal(event, trace.fields_of(event)?.join(" "), fields.to_owned())?;
    }
    Ok(())
}

fn silent_when_off(context: &Context) -> Result<()> {
    let trace = Trace::of(&[])?;
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    let everything = || -> Result<()> {
        memory.move_out(&device, memory.all())?;
        memory.verify(0..1)?;
        memory.device_reads(&device, memory.all())?;
        memory.move_back(&device, memory.all(), PAGES - 1)
    };
    everything()?;
    equal("events, never on", trace.take()?.len(), 0)?;
    trace.switch("", true)?;
    everything()?;
    let seen = trace.take()?;
    for name in [
        "migrate_begin",
        "migrate_end",
        "cpu_fault",
        "invalidate",
        "reserve",
    ] {
        ensure!(seen.iter().any(|event| event.name == name), "no {name}");
    }
    trace.switch("", false)?;
    // What came since it was looked at: this process may touch pages that came with it.
    trace.take()?;
    everything()?;
    equal("events, switched off", trace.take()?.len(), 0)?;
    trace.switch("migrate_end", true)?;
    everything()?;
    let seen = trace.take()?;
    ensure!(!seen.is_empty() && seen.iter().all(|event| event.name == "migrate_end"));
    Ok(())
}

fn to_the_device(context: &Context) -> Result<()> {
    let trace = Trace::of(&["migrate_begin", "migrate_end", "reserve"])?;
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    let events = trace.take()?;
    let names: Vec<_> = events.iter().map(|event| event.name.as_str()).collect();
    equal(
        "events",
        names,
        vec!["reserve", "migrate_begin", "migrate_end"],
    )?;
    events[0].has(&format!(
        "device=0 block=0 pages={PAGES} evict=0 got={PAGES} error=0"
    ))?;
    events[1].has(OUT)?;
    events[2].has(&format!("{OUT} moved={PAGES} error=0"))?;
    is_for(&events[1], &memory, memory.all())?;
    is_for(&events[2], &memory, memory.all())
}

fn to_the_system(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    let trace = Trace::of(&["migrate_begin", "migrate_end"])?;
    memory.move_back(&device, 4..10, 6)?;
    let events = trace.take()?;
    equal("number of events", events.len(), 2)?;
    events[0].has(BACK)?;
    events[1].has(&format!("{BACK} moved=6 error=0"))?;
    is_for(&events[0], &memory, 4..10)?;
    is_for(&events[1], &memory, 4..10)
}

fn one_window_after_the_other(context: &Context) -> Result<()> {
    let trace = Trace::of(&["migrate_begin", "migrate_end"])?;
    let device = context.open()?;
    let memory = Memory::new(1024 + PAGES)?;
    memory.move_out(&device, memory.all())?;
    let events = trace.take()?;
    let (begins, ends): (Vec<_>, Vec<_>) = events
        .into_iter()
        .partition(|event| event.name == "migrate_begin");
    equal("begins and ends", begins.len(), ends.len())?;
    ensure!(ends.len() >= 3, "{} windows", ends.len());
    equal("pages", sum(&ends, "moved")?, memory.region.pages() as i64)
}

fn nothing_moves(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.region.replace_by_shared(memory.all())?;
    memory.fill(memory.all());
    let trace = Trace::of(&["migrate_end"])?;
    let mut view = vec![0; memory.region.len()];
    let answer = device.migrate_to_device(memory.region.range(), &mut view);
    ensure!(answer.is_err(), "pages of a file moved");
    let ends = trace.take()?;
    ensure!(!ends.is_empty());
    for end in ends {
        end.has(OUT)?;
        end.has("moved=0")?;
    }
    Ok(())
}

fn second_device(context: &Context) -> Result<()> {
    let trace = Trace::of(&["migrate_end"])?;
    let second = context.open_second()?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&second, memory.all())?;
    trace.take_one("migrate_end")?.has("device=1")
}

fn another_process(context: &Context) -> Result<()> {
    let trace = Trace::of(&["migrate_end"])?;
    let done = Gate::new()?;
    let child = helper(|| {
        let device = context.open()?;
        let memory = Memory::new(PAGES)?;
        memory.move_out(&device, memory.all())?;
        done.send(process::id().into())
    })?;
    let pid = done.receive()?;
    child.join()?;
    let end = trace.take_one("migrate_end")?;
    equal("pid", end.number("pid")?, pid as i64)
}

fn cpu_fault(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    let trace = Trace::of(&["cpu_fault", "migrate_begin", "migrate_end"])?;
    memory.verify(7..8)?;
    let events = trace.take()?;
    let names: Vec<_> = events.iter().map(|event| event.name.as_str()).collect();
    equal(
        "events",
        names,
        vec!["migrate_begin", "migrate_end", "cpu_fault"],
    )?;
    let cause = "device=0 order=0 from=device to=system cause=cpu_fault";
    events[0].has(cause)?;
    events[1].has(&format!("{cause} moved=1 error=0"))?;
    events[2].has("device=0 moved=1 answer=retry")?;
    for event in &events {
        is_for(event, &memory, 7..8)?;
    }
    equal(
        "start",
        events[2].number("start")?,
        events[2].number("address")?,
    )
}

fn cpu_fault_huge(device: Device) -> Result<()> {
    let memory = huge::huge(1)?;
    memory.move_out(&device, memory.all())?;
    let trace = Trace::of(&["cpu_fault", "migrate_end"])?;
    memory.verify(100..101)?;
    let events = trace.take()?;
    equal("number of events", events.len(), 2)?;
    events[0].has("order=9 pages=512 cause=cpu_fault moved=512 error=0")?;
    is_for(&events[0], &memory, memory.all())?;
    events[1].has("pages=512 moved=512 answer=retry")?;
    let start = events[1].number("start")?;
    equal("start", start, memory.region.addr() as i64)?;
    let touched = start + (100 * page_size()) as i64;
    equal("address", events[1].number("address")?, touched)
}

fn cpu_fault_refused(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    let trace = Trace::of(&["cpu_fault", "migrate_end"])?;
    let failure = Failure::new("copy_out", Often::Once)?;
    let end = touched(&memory, 3, false)?;
    equal("end of the child", end, Exit::Signal(Signal::SIGBUS))?;
    drop(failure);
    let events = trace.take()?;
    let end = events
        .iter()
        .find(|event| event.name == "migrate_end")
        .context("no migrate_end")?;
    end.has("cause=cpu_fault moved=0 error=-5")?;
    let fault = events
        .iter()
        .find(|event| event.name == "cpu_fault")
        .context("no cpu_fault")?;
    fault.has("device=0 moved=0 answer=bus_error")?;
    memory.verify(memory.all())
}

fn evicted(context: &Context) -> Result<()> {
    with_small_device(context, || {
        let device = context.open()?;
        let first = Memory::new(pages(BLOCKS))?;
        move_there(&device, &first)?;
        let trace = Trace::of(&["evict", "migrate_begin", "migrate_end", "reserve"])?;
        let more = Memory::new(pages(1))?;
        move_there(&device, &more)?;
        let events = trace.take()?;
        let ends: Vec<_> = events
            .iter()
            .filter(|event| event.name == "migrate_end")
            .cloned()
            .collect();
        let out = of_cause(ends.clone(), "eviction");
        equal("pages evicted", sum(&out, "moved")?, pages(1) as i64)?;
        for end in &out {
            end.has("device=0 address=0x0 from=device to=system error=0")?;
        }
        let evictions: Vec<_> = events
            .iter()
            .filter(|event| event.name == "evict")
            .cloned()
            .collect();
        equal("pages evicted", sum(&evictions, "moved")?, pages(1) as i64)?;
        for event in &evictions {
            event.has("device=0 cause=eviction left=0 error=0")?;
            let block = event.number("block")?;
            ensure!((0..BLOCKS as i64).contains(&block), "block {block}");
            ensure!(event.number("ns")? > 0, "an eviction in no time");
        }
        let asked = events
            .iter()
            .filter(|event| event.name == "reserve")
            .any(|event| event.has("evict=1 error=0").is_ok());
        ensure!(asked, "no reservation that evicts");
        first.verify(first.all())?;
        more.verify(more.all())
    })
}

fn released(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    let trace = Trace::of(&["evict", "migrate_end"])?;
    let count = device.release()?.pages as i64;
    let events = trace.take()?;
    let (evictions, ends): (Vec<_>, Vec<_>) = of_cause(events, "release")
        .into_iter()
        .partition(|event| event.name == "evict");
    equal("pages of evict", sum(&evictions, "moved")?, count)?;
    equal("pages of migrate_end", sum(&ends, "moved")?, count)?;
    ensure!(count >= PAGES as i64, "{count} pages came");
    memory.verify(memory.all())
}

fn device_fault(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let trace = Trace::of(&["device_fault"])?;
    memory.device_reads(&device, memory.all())?;
    let event = trace.take_one("device_fault")?;
    event.has("device=0 access=read error=0")?;
    is_for(&event, &memory, memory.all())?;
    memory.region.protect(memory.all(), Protection::Read)?;
    let data = vec![0; memory.region.len()];
    let answer = device.write(memory.region.range(), &data);
    fails_at_once("a write to read-only memory", answer, Errno::EPERM)?;
    let events = trace.take_of("device_fault")?;
    ensure!(!events.is_empty());
    for event in events {
        event.has("access=write error=-1")?;
    }
    Ok(())
}

fn device_fault_brings_back(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    let (made, done) = (Gate::new()?, Gate::new()?);
    let child = helper(|| {
        made.open()?;
        done.wait()
    })?;
    made.wait()?;
    let trace = Trace::of(&["migrate_end"])?;
    memory.device_refills(&device, 2)?;
    let ends = of_cause(trace.take()?, "device_fault");
    ensure!(!ends.is_empty(), "nothing went back for the device");
    equal("pages", sum(&ends, "moved")?, PAGES as i64)?;
    ends[0].has("device=0 from=device to=system error=0")?;
    is_for(&ends[0], &memory, memory.all())?;
    done.open()?;
    child.join()?;
    memory.verify(memory.all())
}

fn invalidated(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.device_reads(&device, 0..20)?;
    let trace = Trace::of(&["invalidate"])?;
    memory.region.advise(memory.all(), Advice::DontNeed)?;
    let events = at_start(trace.take()?, &memory);
    equal("number of events", events.len(), 1)?;
    events[0].has("device=0 event=clear own=0 cleared=20")?;
    is_for(&events[0], &memory, memory.all())
}

fn invalidated_by_itself(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let trace = Trace::of(&["invalidate"])?;
    memory.move_out(&device, memory.all())?;
    let events = at_start(trace.take()?, &memory);
    let own = events
        .iter()
        .find(|event| event.has("event=migrate").is_ok())
        .context("no event of a migration")?;
    own.has("device=0 own=1 cleared=0")?;
    memory.device_reads(&device, memory.all())?;
    trace.take()?;
    memory.verify(0..1)?;
    let events = at_start(trace.take()?, &memory);
    equal("number of events", events.len(), 1)?;
    events[0].has("event=migrate own=1 pages=1 cleared=1")
}

fn exclusive(context: &Context) -> Result<()> {
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    let trace = Trace::of(&["exclusive", "invalidate"])?;
    let mut view = vec![0; memory.region.len()];
    device.exclusive(memory.region.range(), &mut view)?;
    let events = trace.take()?;
    let is_exclusive = |event: &&Event| event.name == "exclusive";
    let event = events.iter().find(is_exclusive).context("no event")?;
    event.has(&format!("device=0 made={PAGES} error=0"))?;
    is_for(event, &memory, memory.all())?;
    let own = at_start(events, &memory);
    ensure!(
        own.iter()
            .any(|event| event.has("event=exclusive own=1").is_ok())
    );
    memory.region.protect(10..PAGES, Protection::None)?;
    trace.take()?;
    let answer = device.exclusive(memory.region.range(), &mut view);
    ensure!(answer.is_err(), "memory without rights became exclusive");
    let event = trace.take_one("exclusive")?;
    event.has("made=10 error=-14")
}

fn everything_at_once(context: &Context) -> Result<()> {
    let trace = Trace::new()?;
    trace.switch("", true)?;
    let start = Gate::new()?;
    let child = helper(|| {
        start.wait()?;
        all_ways(context, 2)
    })?;
    start.open()?;
    all_ways(context, 1)?;
    child.join()?;
    trace.switch("", false)?;
    let events = trace.take()?;
    for name in [
        "migrate_begin",
        "migrate_end",
        "cpu_fault",
        "invalidate",
        "device_fault",
    ] {
        ensure!(events.iter().any(|event| event.name == name), "no {name}");
    }
    Ok(())
}
