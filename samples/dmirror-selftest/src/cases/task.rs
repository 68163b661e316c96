// SPDX-License-Identifier: GPL-2.0

//! Memory on the device that the kernel itself uses on behalf of a program: stacks, signal frames,
//! futex words, and all other memory of the program.

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};

use dmirror_client::{count_signals, signals_counted, use_signal_stack};
use nix::sys::signal::raise;
use rustix::io::Errno;
use rustix::thread::futex;

use crate::prelude::*;

cases! { "task":
    futex_wait = "A futex call looks at a word on a resident page, private or shared.",
    futex_wake = "A thread that waits for a word is woken when the word's page is on the device.",
    futex_pi = "A futex with priority inheritance is taken and given back on a resident page.",
    stack = "A program goes on when the pages of its stack go to the device."
        => |device: Device| dive_from_here(&device, 12, 400),
    thread_stack = "A thread goes on when all of its stack goes to the device.",
    signal_frame = "A signal finds its frame on resident pages of the stack, and returns from there.",
    signal_stack = "A signal is handled on a stack of its own whose pages are resident.",
    everything = "A program goes on, threads and all, when everything that it has in memory goes to the device.",
}

/// A word on a page of its own, aligned to the largest page size that there is.
#[repr(C, align(65536))]
struct Word {
    word: AtomicU32,
}

impl Word {
    fn new(value: u32) -> Box<Self> {
        Box::new(Self {
            word: AtomicU32::new(value),
        })
    }

    fn range(&self) -> Result<PageRange> {
        let at = (&raw const *self).addr() as u64;
        let size = page_size() as u64;
        Ok(PageRange::new(at / size * size, 1)?)
    }

    fn move_out(&self, device: &Device) -> Result<()> {
        let mut view = vec![0; page_size()];
        device.migrate_to_device(self.range()?, &mut view)?;
        all_at("the word", self.range()?, Where::Device)
    }
}

const KINDS: [futex::Flags; 2] = [futex::Flags::PRIVATE, futex::Flags::empty()];

/// Returns a time to wait for a word.
const fn time(tv_sec: i64, tv_nsec: i64) -> futex::Timespec {
    futex::Timespec { tv_sec, tv_nsec }
}

fn futex_wait(device: Device) -> Result<()> {
    for flags in KINDS {
        let word = Word::new(7);
        word.move_out(&device)?;
        let answer = futex::wait(&word.word, flags, 8, None);
        equal("waiting for another value", answer, Err(Errno::AGAIN))?;
        all_at("after the look", word.range()?, Where::System)?;
        word.move_out(&device)?;
        let answer = futex::wait(&word.word, flags, 7, Some(&time(0, 20_000_000)));
        equal("waiting in vain", answer, Err(Errno::TIMEDOUT))?;
        word.move_out(&device)?;
        equal("sleepers", futex::wake(&word.word, flags, 1), Ok(0))?;
    }
    Ok(())
}

fn futex_wake(device: Device) -> Result<()> {
    for flags in KINDS {
        let word = Word::new(0);
        thread::scope(|scope| -> Result<()> {
            let sleeper = scope.spawn(|| futex::wait(&word.word, flags, 0, Some(&time(60, 0))));
            let mut woken = 0;
            let start = Instant::now();
            while woken == 0 && start.elapsed() < Duration::from_secs(30) {
                thread::sleep(Duration::from_millis(50));
                word.move_out(&device)?;
                woken = futex::wake(&word.word, flags, 1)?;
            }
            equal("threads woken", woken, 1)?;
            joined(sleeper).context("the sleeper")
        })?;
    }
    Ok(())
}

fn futex_pi(device: Device) -> Result<()> {
    for flags in KINDS {
        let word = Word::new(0);
        word.move_out(&device)?;
        // The kernel exchanges the word, since it is 0 and nobody has it.
        futex::lock_pi(&word.word, flags, None).context("taking it")?;
        // ORDERING: the word is looked at, nothing else.
        let taken = word.word.load(Ordering::Relaxed);
        ensure!(taken != 0, "the futex was taken, and its word is 0");
        word.move_out(&device)?;
        futex::unlock_pi(&word.word, flags).context("giving it back")?;
        // ORDERING: as above.
        equal("the word", word.word.load(Ordering::Relaxed), 0)?;
    }
    Ok(())
}

/// Moves the pages of `range` that can move to the device, and returns the number of pages that the
/// kernel counts.
fn push_out(device: &Device, range: PageRange) -> u64 {
    const CHUNK: u64 = 64;
    let mut view = vec![0; CHUNK as usize * page_size()];
    let mut count = 0;
    for start in (0..range.pages()).step_by(CHUNK as usize) {
        let Some(part) = range.part(start..range.pages().min(start + CHUNK)) else {
            break;
        };
        // Pages that belong to files, or are in use, stay.
        count += match device.migrate_to_device(part, &mut view) {
            Ok(counts) => counts.pages,
            Err(error) => error.counts.map_or(0, |counts| counts.pages),
        };
    }
    count
}

/// Fills a frame, moves the used part of the stack, goes deeper, and checks the frame on the way
/// back. Returns the number of pages that moved.
fn dive(device: &Device, top: usize, depth: u64) -> Result<u64> {
    let content = |index: usize| (depth << 32) | index as u64;
    let mut frame: [u64; 900] = std::array::from_fn(content);
    let here = (&raw const frame).addr();
    black_box(&mut frame);
    let size = page_size();
    let start = here / size * size;
    let pages = (top.next_multiple_of(size) - start) / size;
    let range = PageRange::new(start as u64, pages as u64)?;
    let mut moved = push_out(device, range);
    if depth > 0 {
        moved += dive(device, top, depth - 1)?;
    }
    black_box(&mut frame);
    let wrong = (0..frame.len()).find(|&index| frame[index] != content(index));
    equal(&format!("changed at depth {depth}"), wrong, None)?;
    Ok(moved)
}

/// Runs [`dive`] in the stack of this thread, and checks that more than `least` KiB moved.
fn dive_from_here(device: &Device, depth: u64, least: u64) -> Result<()> {
    let top = 0_u64;
    let moved = dive(device, (&raw const top).addr(), depth)?;
    let moved = moved * page_bytes() / 1024;
    println!("{moved} KiB moved");
    ensure!(moved > least, "only {moved} KiB of the stack moved");
    Ok(())
}

fn thread_stack(device: Device) -> Result<()> {
    thread::scope(|scope| {
        let threads = [0; 3].map(|_| scope.spawn(|| dive_from_here(&device, 8, 200)));
        threads.into_iter().try_for_each(joined)
    })
}

/// Moves the pages of the stack at and below this function's frame, and returns their number.
#[inline(never)]
fn push_stack_out(device: &Device, pages: usize) -> Result<u64> {
    let here = 0_u64;
    let size = page_size();
    let end = (&raw const here).addr() / size * size + size;
    let range = PageRange::new((end - pages * size) as u64, pages as u64)?;
    Ok(push_out(device, range))
}

/// Touches the stack, so that there are pages below this function's frame.
#[inline(never)]
fn use_stack() {
    black_box(&mut [1_u8; 20 * 4096]);
}

fn signal_frame(device: Device) -> Result<()> {
    count_signals(Signal::SIGUSR1, false)?;
    for round in 1..=20 {
        use_stack();
        let moved = push_stack_out(&device, 8)?;
        ensure!(moved >= 6, "only {moved} pages of the stack moved");
        raise(Signal::SIGUSR1)?;
        equal("signals handled", signals_counted(), round)?;
    }
    Ok(())
}

fn signal_stack(device: Device) -> Result<()> {
    count_signals(Signal::SIGUSR1, true)?;
    let range = use_signal_stack(Memory::new(16)?.region)?;
    for round in 1..=20 {
        moved_out(&device, range).context("the signal stack")?;
        all_at("before the signal", range, Where::Device)?;
        raise(Signal::SIGUSR1)?;
        equal("signals handled", signals_counted(), round)?;
        // The frame begins at the end of the stack.
        let top = range.part(range.pages() - 1..range.pages());
        all_at("after it", top.context("no last page")?, Where::System)?;
    }
    Ok(())
}

/// Returns the private writable mappings of this process, with stacks and thread-local memory among
/// them.
fn own_memory() -> Result<Vec<PageRange>> {
    let text = fs::read_to_string("/proc/self/maps")?;
    let mut ranges = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (addresses, rights) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        if !rights.starts_with("rw") || !rights.ends_with('p') {
            continue;
        }
        let (start, end) = addresses.split_once('-').context("a line of maps")?;
        let [start, end] = [start, end].map(|number| u64::from_str_radix(number, 16));
        let (start, end) = (start?, end?);
        ranges.push(PageRange::new(start, (end - start) / page_size() as u64)?);
    }
    Ok(ranges)
}

/// Computes a sum with memory from the heap and locks.
fn work(rounds: u64) -> u64 {
    (0..rounds).fold(0, |sum, round| {
        let mut numbers: Vec<u64> = (0..2000)
            .map(|number: u64| number.wrapping_mul(round | 1) % 9973)
            .collect();
        numbers.sort_unstable();
        numbers.iter().fold(sum, |sum, number| {
            sum.wrapping_mul(31).wrapping_add(*number)
        })
    })
}

fn everything(context: &Context) -> Result<()> {
    // Use a process that has only this to lose.
    in_child(|| {
        let device = context.open()?;
        let expected = work(12);
        for round in 0..3 {
            let results = thread::scope(|scope| -> Result<Vec<u64>> {
                let workers = [0; 2].map(|_| scope.spawn(|| anyhow::Ok(work(12))));
                let mut moved = 0;
                for range in own_memory()? {
                    // Stacks of threads are large and empty.
                    let pages = range.pages().min(512);
                    for part in [0..pages, range.pages() - pages..range.pages()] {
                        moved += range.part(part).map_or(0, |part| push_out(&device, part));
                    }
                }
                println!("round {round}: {moved} pages moved");
                ensure!(moved > 20, "only {moved} pages moved");
                workers.into_iter().map(joined).collect()
            })?;
            equal("what threads computed", results, vec![expected; 2])?;
        }
        Ok(())
    })
}
