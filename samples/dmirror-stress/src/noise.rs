// SPDX-License-Identifier: GPL-2.0

//! A thread that moves the pages of a program while it runs, and changes nothing that
//! the program could see, except the timing.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use dmirror_client::Command;
use dmirror_client::Device;
use dmirror_client::PageRange;
use dmirror_client::device::Buffer;
use dmirror_client::page_size;

use crate::generate::Dice;

/// The most pages of one request.
const MOST: usize = 600;

/// The ranges of the memory of the program.
#[derive(Debug, Default)]
pub struct Targets {
    ranges: Mutex<Vec<PageRange>>,
    over: AtomicBool,
}

impl Targets {
    /// Sets the current ranges.
    pub fn set(&self, ranges: Vec<PageRange>) {
        *self.ranges.lock().unwrap_or_else(PoisonError::into_inner) = ranges;
    }

    /// Makes the thread end.
    pub fn end(&self) {
        // ORDERING: nothing is published through it.
        self.over.store(true, Ordering::Relaxed);
    }

    fn pick(&self, dice: &mut Dice) -> Option<PageRange> {
        let ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        if ranges.is_empty() {
            return None;
        }
        Some(ranges[dice.below(ranges.len())])
    }
}

/// Starts the thread, which moves pages to one of the devices and back.
pub fn start(targets: Arc<Targets>, devices: Vec<Device>, seed: u64) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut dice = Dice::new(seed);
        let mut view = vec![0; MOST * page_size()];
        // ORDERING: nothing is published through it.
        while !targets.over.load(Ordering::Relaxed) {
            disturb(&targets, &devices, &mut dice, &mut view);
        }
    })
}

fn disturb(targets: &Targets, devices: &[Device], dice: &mut Dice, view: &mut [u8]) {
    let Some(range) = targets.pick(dice) else {
        thread::sleep(Duration::from_millis(1));
        return;
    };
    let at = dice.below(range.pages() as usize);
    let pages = (range.pages() as usize - at).min(1 + dice.below(MOST));
    // The range may be unmapped by now, or mapped anew: no command changes its content.
    let addr = range.addr() + (at * page_size()) as u64;
    let device = &devices[dice.below(devices.len())];
    let (command, buffer) = match dice.below(8) {
        0..4 => (Command::MigrateToDevice, Buffer::Output(view)),
        4 => (Command::MigrateToSystem, Buffer::Null),
        5 => (Command::Snapshot, Buffer::Bytes(view)),
        6 => (Command::CheckExclusive, Buffer::Null),
        _ => (Command::Read, Buffer::Output(view)),
    };
    // Ignore the answer: the program checks its memory itself.
    let _ = device.call(command, addr, pages as u64, buffer);
}
