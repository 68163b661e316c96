// SPDX-License-Identifier: GPL-2.0

//! Engines beside other uses of memory by programs: huge pages of the pool, programs that replace
//! this one, and programs that begin in its memory.

use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;

use dmirror_client::interpreter::Image;
use dmirror_client::packet;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::engine::done_at;
use super::files::of_the_pool;
use super::queue::no_fetch;
use crate::prelude::*;
use crate::settings::PRESETS;
use crate::worker::{open, soon};

cases! { "engine":
    hugetlb = "On huge pages of the pool packets do what the interpreter says, under each policy, and leave them where they are.",
    hugetlb_packets = "Packets in a huge page of the pool are executed.",
    executed_elsewhere = "An opener that executes another program ends its queues, with a job that runs and others behind it.",
    file_kept_in_exec = "If others keep the file, the job that runs and those behind it fail when the opener executes another program.",
    spawned = "Another program that begins in the memory of this one (vfork) leaves a job at work.",
}

fn hugetlb(context: &Context) -> Result<()> {
    open(context)?; // or skips
    for preset in PRESETS {
        let policy = Policy::of(preset)?;
        let worker = Worker::new(context)?;
        let memory = Memory::filled(of_the_pool()?);
        let mut image = Image::default();
        image.map_region(&memory.region, memory.all(), Protection::ReadWrite);
        let data = memory.region.addr();
        let packets = [
            Packet::sum(data, data + 3, 400 * page_bytes()),
            Packet::fill(data + 5, 3 * page_bytes(), 0x0102_0304_0506_0708),
            Packet::copy(
                data + 40 * page_bytes() + 1,
                data + 90 * page_bytes() + 2,
                3 * page_bytes(),
            ),
            Packet::random_write(data + 8, data, hpage_pmd_nr() as u64 * page_bytes(), 200, 1),
            Packet::add(Width::Four, data + 12 * page_bytes(), 3, 200, data + 40),
            Packet::compare_and_swap(Width::Eight, data + 13 * page_bytes(), 0, 1, data + 48),
            Packet::prefetch(data, hpage_pmd_nr() as u64 * page_bytes()),
            Packet::prefetch_to_system(data, hpage_pmd_nr() as u64 * page_bytes()),
            Packet::fence(data + (hpage_pmd_nr() as u64 - 1) * page_bytes(), 9),
        ];
        let added = policy.added(|| {
            worker.does(&[Packet::spin(0)])?;
            worker.compare(preset, &mut image, &[&memory.region], &packets)?;
            Ok(())
        })?;
        // Only the pages of the packets move.
        ensure!(added.out() <= 64, "{preset}: {added:?}");
    }
    Ok(())
}

fn hugetlb_packets(worker: Worker) -> Result<()> {
    let (code, data) = (of_the_pool()?, Region::anonymous(1)?);
    let packets: Vec<Packet> = (0..100)
        .map(|nth| Packet::fence(data.addr() + 8 * nth, nth + 1))
        .collect();
    // The packets lie over a border of small pages.
    let at = packet::store(
        &code,
        300 * page_bytes() as usize - 50 * Packet::SIZE,
        &packets,
    );
    done_at(&worker.queue, at, packets.len())?;
    let seen: Vec<u64> = (0..100).map(|index| data.load(index)).collect();
    equal("words", seen, (1..=100).collect())
}

fn executed_elsewhere(context: &Context, WithEngines(device): WithEngines) -> Result<()> {
    let before = Before::of(&device)?;
    for_all(0..4, |round| {
        let child = helper(|| {
            let worker = Worker::on(context, round % 2)?;
            let memory = Memory::resident(&worker.device, 16)?;
            let (addr, len) = (memory.region.addr(), memory.region.len() as u64);
            worker.endless(&[Packet::prefetch(addr, len), Packet::fill(addr, len, 7)])?;
            worker.submit(&[Packet::spin(0)])?;
            while memory.region.load(0) != 7 {
                thread::yield_now();
            }
            // This closes the file.
            Err(program().exec().into())
        })?;
        soon("another program", || child.join())?;
        let engines = device.query()?.engines.min(2);
        (0..engines).try_for_each(|engine| Worker::serves(context, engine))?;
        before.nothing_is_left(&device)
    })
}

/// Waits until a process executes [`program`], or has ended.
fn executes(process: u32) -> Result<()> {
    let start = Instant::now();
    loop {
        let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        if line.is_empty() || line.windows(6).any(|word| word == b"--list") {
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "it executes no other program");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Starts a process that makes a queue, submits a job, and executes another program, which gets the
/// file if `keeps` is true. Then runs `body` in a child of that process, which has the queue, too,
/// with the number of the job.
fn after_exec(
    context: &Context,
    keeps: bool,
    body: impl Fn(&Worker, u64) -> Result<()>,
) -> Result<()> {
    let (go, verdict) = (Gate::new()?, Gate::new()?);
    helper(|| {
        let worker = Worker::new(context)?;
        let job = worker.endless(&[])?.job;
        let opener = std::process::id();
        std::mem::forget(helper(|| {
            go.open()?;
            let answer = executes(opener).and_then(|()| body(&worker, job));
            if let Err(error) = &answer {
                println!("{error:#}");
            }
            verdict.send(answer.is_ok().into())
        })?);
        if keeps {
            fcntl(worker.device.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        go.wait()?;
        Err(program().exec().into())
    })?
    .join()?;
    equal("whether the child succeeded", verdict.receive()?, 1)
}

fn file_kept_in_exec(context: &Context) -> Result<()> {
    open(context)?; // or skips
    for_all([false, true], |keeps| {
        after_exec(context, keeps, |worker, job| {
            let outcome = worker.outcome(job)?;
            equal("error of the job", outcome.error, Some(Errno::EFAULT))?;
            (0..3).try_for_each(|_| no_fetch(worker))
        })?;
        Worker::new(context)?.does(&[Packet::spin(0)])
    })
}

fn spawned(context: &Context) -> Result<()> {
    for_all([false, true], |resident| {
        let worker = Worker::new(context)?;
        let memory = Memory::placed(&worker.device, 4, resident)?;
        let word = memory.region.load(0);
        let add = Packet::add(Width::Eight, memory.region.addr(), 1, 1, 0);
        let job = worker.endless(&[add])?;
        for _ in 0..5 {
            let before = memory.region.load(0);
            let status = program().status()?;
            ensure!(status.success(), "the program ended with {status}");
            let start = Instant::now();
            while memory.region.load(0) == before {
                ensure!(start.elapsed() < PATIENCE, "the job does not go on");
                thread::yield_now();
            }
        }
        job.stop();
        let outcome = worker.outcome(job.job)?;
        job.is_stopped(outcome)?;
        // A round has three packets; the last one of the last round was not executed.
        let rounds = (outcome.executed + 1) / 3;
        equal("sum", memory.region.load(0).wrapping_sub(word), rounds)?;
        memory.verify(1..4)
    })
}
