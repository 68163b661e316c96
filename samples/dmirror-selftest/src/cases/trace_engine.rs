// SPDX-License-Identifier: GPL-2.0

//! Trace events of engines: faults that they post, what is done about them, and their jobs, against
//! what the program and the statistics say.

use std::process;

use dmirror_client::queue::Options;

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
    serviced_where = "What is done about a page shows the granule that it is about.",
}

const PAGE: u64 = 4096;

/// A buffer for the events of the threads of the device.
fn tracing(events: &[&str]) -> Result<Trace> {
    let trace = Trace::new()?;
    for event in events {
        trace.switch(event, true)?;
    }
    Ok(trace)
}

/// Checks whose event it is.
fn is_of(event: &Event, worker: &Worker) -> Result<()> {
    equal("pid", event.number("pid")?, process::id().into())?;
    let client = worker.device.stats()?.client;
    equal("client", event.number("client")?, client as i64)?;
    event.has("device=0 engine=0")
}

/// The sum of a field, of those events that have some others.
fn sum(events: &[Event], field: &str, having: &str) -> Result<u64> {
    let events = events.iter().filter(|event| event.has(having).is_ok());
    let numbers = events.map(|event| Ok(event.number(field)? as u64));
    numbers.sum()
}

fn named(events: &[Event], name: &str) -> Vec<Event> {
    let mut events = events.to_vec();
    events.retain(|event| event.name == name);
    events
}

fn engine_formats(_: &Context) -> Result<()> {
    let trace = Trace::new()?;
    let engine = "device pid engine client";
    for (event, fields) in [
        ("fault_post", &*format!("{engine} address reason overflow")),
        ("fault_batch", "device entries groups merged"),
        (
            "fault_service",
            &format!("{engine} address pages granule decision moved"),
        ),
        (
            "job_begin",
            &format!("{engine} queue seqno address packets"),
        ),
        (
            "job_end",
            &format!("{engine} queue seqno executed error address"),
        ),
    ] {
        equal(event, trace.fields_of(event)?.join(" "), fields.to_owned())?;
    }
    Ok(())
}

fn jobs(context: &Context) -> Result<()> {
    let worker = Worker::on(context, 0)?;
    let other = worker.device.queue(Options::new(2).engine(0))?;
    let trace = tracing(&["job_begin", "job_end"])?;
    let data = Region::anonymous(1)?;
    let packets = [Packet::fill(data.addr(), 64, 1), Packet::spin(1)];
    let at = worker.store(&packets);
    // The first two of one queue, then the first of another.
    for (queue, seqno, count) in [(&worker.queue, 1, 2), (&worker.queue, 2, 1), (&other, 1, 2)] {
        equal("number", queue.submit(at, count)?, seqno)?;
        queue.wait(seqno, Some(Duration::from_secs(60)))?;
        let events = trace.take()?;
        let names: Vec<_> = events.iter().map(|event| event.name.as_str()).collect();
        equal("events", names, vec!["job_begin", "job_end"])?;
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
    let outcome = worker.run(&[
        Packet::spin(1),
        Packet::spin(1),
        Packet::fill(data.addr(), 2 * PAGE, 1),
    ])?;
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
        std::thread::sleep(Duration::from_millis(1));
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

/// Has an engine execute a packet, and returns the events about `region`.
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
    for (reason, region, packet, pages) in [
        (
            "read",
            &read,
            Packet::sum(result.addr(), read.addr(), 4 * PAGE),
            4,
        ),
        (
            "write",
            &written,
            Packet::fill(written.addr() + 8, 2 * PAGE, 1),
            3,
        ),
        (
            "atomic",
            &added,
            Packet::add(Width::Eight, added.addr(), 1, 1, 0),
            1,
        ),
    ] {
        let posts = of_packet(&worker, &trace, packet, region)?;
        let addresses: Vec<_> = posts
            .iter()
            .filter_map(|event| event.number("address").ok())
            .collect();
        let expected: Vec<_> = (0..pages)
            .map(|page| (region.addr() + page * PAGE) as i64)
            .collect();
        equal(reason, addresses, expected)?;
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
    // In two blocks, of which one does not share its counter with that of the packets.
    let memory = Memory::new(1024)?;
    let counter = |addr: u64| (addr >> 21) % 64;
    let shared = counter(memory.region.addr()) == counter(worker.code.addr());
    let first = if shared { 512 } else { 0 };
    let packet = Packet::fence(
        memory.region.addr() + (first + 7) * PAGE,
        memory.region.load((first as usize + 7) * 512),
    );
    let added = policy.added(|| worker.does(&[packet; 25]))?;
    let events = trace.take()?;
    let posts = named(&events, "fault_post");
    let count = posts.iter().filter(|post| post.has("reason=hot").is_ok());
    equal("hot blocks", count.count() as u64, added.hot_blocks)?;
    let start = memory.region.addr() + first * PAGE;
    let moved = format!("address={start:#x} pages=512 granule=512 decision=move moved=512");
    let services = named(&events, "fault_service");
    ensure!(
        services.iter().any(|event| event.has(&moved).is_ok()),
        "no {moved}: {services:#?}"
    );
    memory.verify(memory.all())
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
        for round in rounds(3) {
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
            equal("posted", posts.len() as u64, added.fault_posted)?;
            let seen = sum(&posts, "overflow", "")?;
            equal("overflows", seen, added.fault_overflows)?;
            let batches = named(&events, "fault_batch");
            equal("batches", batches.len() as u64, added.fault_batches)?;
            let entries = sum(&batches, "entries", "")?;
            equal("entries", entries, added.fault_posted)?;
            let merged = sum(&batches, "merged", "")?;
            equal("merged", merged, added.fault_merged)?;
            equal("groups", sum(&batches, "groups", "")?, entries - merged)?;
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

/// Checks what was done about faults against statistics.
fn compare(context: &Context, policy: &Policy, what: &str) -> Result<Vec<Event>> {
    let worker = Worker::on(context, 0)?;
    let trace = tracing(&["fault_service"])?;
    let memory = Memory::new(512)?;
    let data = memory.region.addr();
    let added = policy.added(|| {
        for round in 0..4 {
            worker.does(&[
                Packet::fill(data + 8, 40 * PAGE, round),
                Packet::random_write(data, data, 512 * PAGE, 60, round),
                Packet::add(Width::Eight, data + 100 * PAGE, 1, 1, 0),
            ])?;
            // What a CPU takes back is missed again.
            memory.region.load(512 * 3);
            memory.region.load(512 * 100);
        }
        Ok(())
    })?;
    let events = trace.take()?;
    for event in &events {
        is_of(event, &worker)?;
    }
    let count = |decision: &str| {
        let text = format!("decision={decision}");
        let seen = events.iter().filter(|event| event.has(&text).is_ok());
        seen.count() as u64
    };
    let moves = count("move") + count("nap");
    equal(&format!("{what}: granules"), moves, added.granules)?;
    equal(&format!("{what}: naps"), count("nap"), added.naps)?;
    equal(&format!("{what}: pins"), count("pin"), added.pins)?;
    let moved = sum(&events, "moved", "")?;
    equal(&format!("{what}: moved"), moved, added.out_device_fault)?;
    let ahead = sum(&events, "pages", "")? - sum(&events, "granule", "")?;
    equal(&format!("{what}: ahead"), ahead, added.prefetched)?;
    Ok(events)
}

fn serviced(context: &Context) -> Result<()> {
    open(context)?; // or skips
    for preset in PRESETS {
        let policy = Policy::of(preset)?;
        let events = compare(context, &policy, preset)?;
        let mapped = events.iter().any(|event| event.has("decision=map").is_ok());
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
        ensure!(
            events.iter().any(|event| event.has(decision).is_ok()),
            "no {decision}"
        );
    }
    Ok(())
}

fn serviced_where(context: &Context) -> Result<()> {
    let worker = Worker::on(context, 0)?;
    let trace = tracing(&["fault_service"])?;
    let result = Region::anonymous(1)?;
    for (preset, granule) in [("test_hmm", 1), ("uvm", 1), ("kfd", 512)] {
        let policy = Policy::of(preset)?;
        let memory = Memory::new(512)?;
        let at = memory.region.addr() + 77 * PAGE;
        let packet = Packet::sum(result.addr(), at, PAGE);
        let events = of_packet(&worker, &trace, packet, &memory.region)?;
        equal(&format!("{preset}: events"), events.len(), 1)?;
        let start = if granule == 1 {
            at
        } else {
            memory.region.addr()
        };
        let (decision, moved) = match preset {
            "test_hmm" => ("map", 0),
            _ => ("move", granule),
        };
        events[0].has(&format!(
            "address={start:#x} pages={granule} granule={granule} decision={decision} moved={moved}"
        ))?;
        is_of(&events[0], &worker)?;
        drop(policy);
        memory.verify(memory.all())?;
    }
    Ok(())
}
