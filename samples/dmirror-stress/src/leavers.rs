// SPDX-License-Identifier: GPL-2.0

//! Processes that end with work in flight, some of which would never end.

use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use dmirror_client::Device;
use dmirror_client::Errno;
use dmirror_client::Packet;
use dmirror_client::Signal;
use dmirror_client::fork_child;
use dmirror_client::packet::Width;
use dmirror_client::page_size;
use dmirror_client::process::Exit;
use dmirror_client::queue;

use crate::fuzz::Counts;
use crate::fuzz::LIMIT;
use crate::fuzz::Scene;
use crate::fuzz_engines::CODE;
use crate::fuzz_engines::MAX_PACKETS;
use crate::generate::Dice;

/// Starts processes that end with work in flight, and checks that they do end.
///
/// # Errors
///
/// An error if a process cannot be started, fails, or does not end within `LIMIT`.
pub fn leavers(seed: u64, end: Instant) -> Result<Counts> {
    let (mut dice, mut counts) = (Dice::new(seed), Counts::new());
    while Instant::now() < end {
        let seed = dice.any();
        let child = fork_child(|| match leave(seed) {
            Ok(()) => 0,
            Err(error) => {
                println!("a process that leaves work: {error:#}");
                1
            }
        })?;
        let killed = dice.chance(30);
        if killed {
            thread::sleep(Duration::from_millis(dice.below(30) as u64));
            child.signal(Signal::SIGKILL)?;
        }
        match child.wait_for(LIMIT)? {
            Ok(Exit::Status(0)) => *counts.entry("ended".into()).or_default() += 1,
            Ok(_) if killed => *counts.entry("killed".into()).or_default() += 1,
            Ok(exit) => bail!("one ended with {exit:?}"),
            Err(_) => bail!("one does not end"),
        }
        thread::sleep(Duration::from_millis(dice.below(300) as u64));
    }
    Ok(counts)
}

/// Leaves work behind: submits jobs to queues that this process never destroys.
fn leave(seed: u64) -> Result<()> {
    let scene = Scene::new()?;
    let mut dice = Dice::new(seed);
    for _ in 0..40 {
        scene.write_packets(&mut dice);
    }
    let device: &Device = &scene.devices[dice.below(scene.devices.len())];
    for _ in 0..1 + dice.below(4) {
        let queue = device.queue(queue::Options::new(4))?;
        // The first job ends late, or never.
        let data = scene.ground.addr() + (CODE * page_size()) as u64;
        let word = dice.below(512);
        scene
            .ground
            .store(CODE * page_size() / 8 + word, data + word as u64 * 8);
        let at = data + word as u64 * 8;
        let endless = match dice.below(5) {
            0 => Packet::spin(Packet::LONGEST_SPIN),
            1 => Packet::add(Width::Eight, data + 8192, 1, u64::MAX, 0),
            2 => Packet::chase(data + 8192, at, 0, u64::MAX),
            3 => Packet::random_write(data, data, 65536, u64::MAX, 1),
            _ => Packet::jump(scene.ground.addr()),
        };
        for (nth, word) in endless.to_words().into_iter().enumerate() {
            scene.ground.store(nth, word);
        }
        let job = queue.submit(scene.ground.addr(), MAX_PACKETS as u32)?;
        queue.submit(scene.code(&mut dice), 100)?;
        if dice.chance(50) {
            match queue.wait(job, Some(Duration::from_millis(dice.below(50) as u64))) {
                Ok(_) => {}
                Err(error) => ensure!(error.errno == Errno::ETIME, "{error}"),
            }
        }
        queue.abandon();
    }
    Ok(())
}
