// SPDX-License-Identifier: GPL-2.0

//! Trace events of engines: the faults that they post, the service of these faults, and their jobs,
//! compared with the values of the program and the statistics.

use std::process;

use dmirror_client::queue::Options;

use super::trace::{are, have_formats, named, sum};
use crate::prelude::*;
use crate::settings::PRESETS;
use crate::tracing::{Event, Trace};
use crate::worker::{LONG, open, open_with_two};

cases! { "trace":
    engine_formats = "Each event of engines has a format file with the fields that it is documented to have.",
    jobs = "A job shows its begin and its end, with its queue, number and packets, and whose it is.",
    failed_job = "The end of a job that fails shows the packets before, the error and the address.",
    cancelled_job = "The end of a job whose queue is destroyed shows that it was cancelled.",
    posted = "A page that an engine misses is posted with its address and what it is wanted for.",
    hot_block = "A block that an engine has accessed often enough is posted as hot, and moves.",
    batches = "Posts, overflows, batches and merged entries are as many as statistics say.",
    serviced = "Granules, naps, pins, pages that moved, ahead or not: as many as statistics say.",
    serviced_where = "The event of a serviced fault shows the granule that it is about.",
}

/// Creates a buffer for the events of the threads of the device.
fn tracing(events: &[&str]) -> Result<Trace> {
    let trace = Trace::new()?;
    for event in events {
        trace.switch(event, true)?;
    }
    Ok(trace)
}

/// Checks that an event belongs to this process, to the open file of `worker`, and to engine 0.
fn is_of(event: &Event, worker: &Worker) -> Result<()> {
    equal("pid", event.number("pid")?, process::id().into())?;
    let client = worker.device.stats()?.client;
    equal("client", event.number("client")?, client as i64)?;
    event.has("device=0 engine=0")
}

/// Returns the number of events with the given fields.
fn count(events: &[Event], fields: &str) -> u64 {
    let are_so = |event: &&Event| event.has(fields).is_ok();
    events.iter().filter(are_so).count() as u64
}

fn engine_formats(_: &Context) -> Result<()> {
    let engine = "device pid engine client";
    let of = |fields| format!("{engine} {fields}");
    have_formats(&[
        ("fault_post", &of("address reason overflow")),
        ("fault_batch", "device entries groups merged"),
        ("fault_service", &of("address pages granule decision moved")),
        ("job_begin", &of("queue seqno address packets")),
        ("job_end", &of("queue seqno executed error address")),
    ])
}

fn jobs(context: &Context) -> Result<()> {
    let worker = Worker::on(context, 0)?;
    let other = worker.device.queue(Options::new(2).engine(0))?;
    let trace = tracing(&["job_begin", "job_end"])?;
    let data = Region::anonymous(1)?;
    let packets = [Packet::fill(data.addr(), 64, 1), Packet::spin(1)];
    let at = worker.store(&packets);
    // The jobs are the first two of one queue, then the first of another.
    for (queue, seqno, count) in [(&worker.queue, 1, 2), (&worker.queue, 2, 1), (&other, 1, 2)] {
        equal("number", queue.submit(at, count)?, seqno)?;
        queue.wait(seqno, Some(Duration::from_secs(60)))?;
        let events = trace.take()?;
        are(&events, &["job_begin", "job_end"])?;
        let number = queue.number();
        for event in &events {
            is_of(event, &worker)?;
            event.has(&format!("queue={number} seqno={seqno}"))?;
        }
        events[0].has(&format!("address={at:#x} packets={count}"))?;
        events[1].has(&format!("executed={count} error=0 address=0x0"))?;
    }
    Ok(())
}

fn failed_job(context: &Context) -> Result<()> {
    let worker = Worker::on(context, 0)?;
    let trace = tracing(&["job_end"])?;
    let mut data = Region::anonymous(2)?;
    let hole = data.split_off(1);
    let address = hole.addr();
    drop(hole);
    let fill = Packet::fill(data.addr(), 2 * page_bytes(), 1);
    let outcome = worker.run(&[Packet::spin(1), Packet::spin(1), fill])?;
    equal("address", outcome.fault_addr, address)?;
    let end = trace.take_one("job_end")?;
    is_of(&end, &worker)?;
    end.has(&format!("executed=2 error=-14 address={address:#x}"))
}

fn cancelled_job(context: &Context) -> Result<()> {
    let worker = Worker::on(context, 0)?;
    let trace = tracing(&["job_begin", "job_end"])?;
    let data = Region::anonymous(1)?;
    let mut packets = vec![Packet::spin(LONG); 7];
    packets[0] = Packet::fence(data.addr(), 1);
    let at = worker.store(&packets);
    worker.queue.submit(at, 7)?;
    let start = Instant::now();
    while data.load(0) == 0 {
        ensure!(start.elapsed() < PATIENCE, "the job does not begin");
        thread::sleep(Duration::from_millis(1));
    }
    worker.queue.destroy()?;
    let events = trace.take()?;
    equal("number of events", events.len(), 2)?;
    events[0].has(&format!("seqno=1 address={at:#x} packets=7"))?;
    let executed = events[1].number("executed")? as u64;
    ensure!((1..7).contains(&executed), "{:?}", events[1]);
    let packet = at + executed * Packet::SIZE as u64;
    events[1].has(&format!("seqno=1 error=-125 address={packet:#x}"))
}

/// Makes an engine execute a packet, and returns the events about `region`.
fn of_packet(
    worker: &Worker,
    trace: &Trace,
    packet: Packet,
    region: &Region,
) -> Result<Vec<Event>> {
    trace.take()?;
    worker.does(&[packet])?;
    let mut events = trace.take()?;
    let range = region.addr() as i64..region.addr() as i64 + region.len() as i64;
    events.retain(|event| event.number("address").is_ok_and(|at| range.contains(&at)));
    Ok(events)
}

fn posted(context: &Context) -> Result<()> {
    let _policy = Policy::of("test_hmm")?;
    let worker = Worker::on(context, 0)?;
    let trace = tracing(&["fault_post"])?;
    let result = Region::anonymous(1)?;
    let data = || Region::options(4).huge(false).map();
    let (read, written, added) = (data()?, data()?, data()?);
    let sum = Packet::sum(result.addr(), read.addr(), 4 * page_bytes());
    let fill = Packet::fill(written.addr() + 8, 2 * page_bytes(), 1);
    let add = Packet::add(Width::Eight, added.addr(), 1, 1, 0);
    for (reason, region, packet, pages) in [
        ("read", &read, sum, 4),
        ("write", &written, fill, 3),
        ("atomic", &added, add, 1),
    ] {
        let posts = of_packet(&worker, &trace, packet, region)?;
        let addresses = posts.iter().map(|event| event.number("address"));
        let expected = (0..pages).map(|page| (region.addr() + page * page_bytes()) as i64);
        equal(
            reason,
            addresses.collect::<Result<Vec<_>>>()?,
            expected.collect(),
        )?;
        for post in &posts {
            is_of(post, &worker)?;
            post.has(&format!("reason={reason} overflow=0"))?;
        }
    }
    Ok(())
}

fn hot_block(context: &Context) -> Result<()> {
    let policy = Policy::with("test_hmm", &[("access_counter", 20)])?;
    let worker = Worker::on(context, 0)?;
    let trace = tracing(&["fault_post", "fault_service"])?;
    // The memory has two blocks, of which one does not share its counter with that of the packets.
    let memory = Memory::new(2 * hpage_pmd_nr())?;
    let counter = |addr: u64| addr / hpage_pmd_size() as u64 % 64;
    let nr = hpage_pmd_nr() as u64;
    let shared = counter(memory.region.addr()) == counter(worker.code.addr());
    let first = if shared { nr } else { 0 };
    let page = first + 7;
    let word = memory.region.touch(page as usize);
    let packet = Packet::fence(memory.region.addr() + page * page_bytes(), word);
    let added = policy.added(|| worker.does(&[packet; 25]))?;
    let events = trace.take()?;
    let hot = count(&named(&events, "fault_post"), "reason=hot");
    equal("hot blocks", hot, added.hot_blocks)?;
    let start = memory.region.addr() + first * page_bytes();
    let moved = format!("address={start:#x} pages={nr} granule={nr} decision=move moved={nr}");
    let services = named(&events, "fault_service");
    ensure!(count(&services, &moved) > 0, "no {moved}: {services:#?}");
    memory.intact()
}

fn batches(context: &Context) -> Result<()> {
    open_with_two(context)?; // or skips
    for settings in [
        [("fault_buffer", 1), ("fault_batch", 1)],
        [("fault_buffer", 8), ("fault_batch", 4)],
    ] {
        let policy = Policy::with("kfd", &settings)?;
        let workers = [Worker::on(context, 0)?, Worker::on(context, 1)?];
        let trace = tracing(&["fault_post", "fault_batch"])?;
        let mut overflows = 0;
        for round in tries(3) {
            let memory = Memory::new(256)?;
            let added = policy.added(|| {
                let halves = [memory.region.part(0..128), memory.region.part(128..256)];
                let submit = |nth: usize| {
                    let (addr, bytes) = (halves[nth].addr(), halves[nth].bytes());
                    workers[nth].submit(&[Packet::fill(addr, bytes, round as u64)])
                };
                let jobs = [submit(0)?, submit(1)?];
                for (worker, job) in workers.iter().zip(jobs) {
                    equal("failure", worker.outcome(job)?.error, None)?;
                }
                Ok(())
            })?;
            let events = trace.take()?;
            let posts = named(&events, "fault_post");
            let seen = (posts.len() as u64, sum(&posts, "overflow")?);
            let expected = (added.fault_posted, added.fault_overflows);
            equal("posted, overflows", seen, expected)?;
            let batches = named(&events, "fault_batch");
            let (entries, merged) = (sum(&batches, "entries")?, sum(&batches, "merged")?);
            let seen = (batches.len() as u64, entries, merged);
            let expected = (added.fault_batches, added.fault_posted, added.fault_merged);
            equal("batches, entries, merged", seen, expected)?;
            equal("groups", sum(&batches, "groups")?, entries - merged)?;
            let most = settings[1].1;
            for batch in &batches {
                ensure!((1..=most.into()).contains(&batch.number("entries")?));
            }
            overflows += added.fault_overflows;
            if round >= 1 && overflows > 0 {
                break;
            }
        }
        ensure!(settings[0].1 > 1 || overflows > 0, "there was always room");
    }
    Ok(())
}

/// Compares the events of serviced faults with the statistics, and returns the events.
fn compare(context: &Context, policy: &Policy, what: &str) -> Result<Vec<Event>> {
    let worker = Worker::on(context, 0)?;
    let trace = tracing(&["fault_service"])?;
    let memory = Memory::new(hpage_pmd_nr())?;
    let data = memory.region.addr();
    let added = policy.added(|| {
        for round in 0..4 {
            worker.does(&[
                Packet::fill(data + 8, 40 * page_bytes(), round),
                Packet::random_write(data, data, memory.region.len() as u64, 60, round),
                Packet::add(Width::Eight, data + 100 * page_bytes(), 1, 1, 0),
            ])?;
            // The engine misses again the pages that a CPU takes back.
            memory.region.load(3 * page_size() / 8);
            memory.region.load(100 * page_size() / 8);
        }
        Ok(())
    })?;
    let events = trace.take()?;
    events.iter().try_for_each(|event| is_of(event, &worker))?;
    let decided = |decision: &str| count(&events, &format!("decision={decision}"));
    let [moves, naps, pins] = ["move", "nap", "pin"].map(decided);
    let seen = [moves + naps, naps, pins];
    let expected = [added.granules, added.naps, added.pins];
    equal(&format!("{what}: granules, naps, pins"), seen, expected)?;
    let ahead = sum(&events, "pages")? - sum(&events, "granule")?;
    let expected = [added.out_device_fault, added.prefetched];
    let seen = [sum(&events, "moved")?, ahead];
    equal(&format!("{what}: moved, ahead"), seen, expected)?;
    Ok(events)
}

fn serviced(context: &Context) -> Result<()> {
    open(context)?; // or skips
    for preset in PRESETS {
        let policy = Policy::of(preset)?;
        let events = compare(context, &policy, preset)?;
        let mapped = count(&events, "decision=map") > 0;
        equal(&format!("{preset}: mapped"), mapped, preset == "test_hmm")?;
    }
    let thrashing = [
        ("thrash_events", 2),
        ("thrash_window_us", u32::MAX),
        ("thrash_naps", 1),
        ("thrash_nap_us", 100),
        ("thrash_pin_ms", 10_000),
    ];
    let policy = Policy::with("uvm", &thrashing)?;
    let events = compare(context, &policy, "thrashing")?;
    for decision in ["decision=nap", "decision=pin"] {
        ensure!(count(&events, decision) > 0, "no {decision}");
    }
    Ok(())
}

fn serviced_where(context: &Context) -> Result<()> {
    let worker = Worker::on(context, 0)?;
    let trace = tracing(&["fault_service"])?;
    let result = Region::anonymous(1)?;
    for (preset, granule) in [("test_hmm", 1), ("uvm", 1), ("kfd", hpage_pmd_nr())] {
        let policy = Policy::of(preset)?;
        let memory = Memory::new(hpage_pmd_nr())?;
        let at = memory.region.addr() + 77 * page_bytes();
        let packet = Packet::sum(result.addr(), at, page_bytes());
        let events = of_packet(&worker, &trace, packet, &memory.region)?;
        equal(&format!("{preset}: events"), events.len(), 1)?;
        let base = memory.region.addr();
        let start = if granule == 1 { at } else { base };
        let (decision, moved) = match preset {
            "test_hmm" => ("map", 0),
            _ => ("move", granule),
        };
        events[0].has(&format!("address={start:#x} pages={granule}"))?;
        events[0].has(&format!("granule={granule} decision={decision}"))?;
        events[0].has(&format!("moved={moved}"))?;
        is_of(&events[0], &worker)?;
        drop(policy);
        memory.intact()?;
    }
    Ok(())
}
