// SPDX-License-Identifier: GPL-2.0

//! The processes of the program, and the work on their memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use dmirror_client::PageRange;
use dmirror_client::attach::Space;
use dmirror_client::page_size;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::Touch;
use crate::device::Settings;
use crate::scan::Scan;
use crate::scan::SecondLook;
use crate::scan::block;
use crate::touch::Toucher;

/// The work on the memory of the program.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Set if the memory is moved to the device in each round.
    pub moves: bool,
    /// The access pattern of engines.
    pub touch: Touch,
    /// The time to wait after each round.
    pub pause: Duration,
    /// The ratio of all memory of the program to the memory that it may have on the device.
    pub oversubscribe: Option<f64>,
}

/// The smallest limit of a device, in MiB: a huge page must fit.
const SMALLEST_LIMIT: u32 = 4;

#[derive(Default)]
struct State {
    spaces: HashMap<i32, Arc<Space>>,
    is_over: bool,
}

/// The processes of the program that can be reached.
#[derive(Default)]
pub struct Spaces {
    state: Mutex<State>,
    changed: Condvar,
}

impl Spaces {
    /// Adds a process that starts with a new address space, which replaces its old one.
    pub fn add(&self, space: Space) {
        self.lock().spaces.insert(space.pid, Arc::new(space));
    }

    /// Removes a process that has ended.
    pub fn remove(&self, pid: i32) {
        let gone = self.lock().spaces.remove(&pid);
        drop(gone);
    }

    /// Stops the work, because all processes have ended.
    pub fn stop(&self) {
        self.lock().is_over = true;
        self.changed.notify_all();
    }

    /// Works on the memory of the program, until `stop` is called; returns the largest number of
    /// pages that were on the device.
    pub fn work(&self, work: &Work, settings: &Settings) -> u64 {
        let mut touchers: HashMap<i32, (Arc<Space>, Option<Toucher>)> = HashMap::new();
        let mut dice = ChaCha8Rng::seed_from_u64(0);
        let mut view = vec![0; block() as usize * page_size()];
        let (mut peak, mut limit) = (0, None);
        while let Some(spaces) = self.wait(work.pause) {
            touchers.retain(|pid, (space, _)| {
                spaces
                    .iter()
                    .any(|now| now.pid == *pid && Arc::ptr_eq(now, space))
            });
            let mut total = 0;
            for space in &spaces {
                // The process may have ended.
                let Ok(scan) = Scan::of(space.pid) else {
                    continue;
                };
                total += scan.pages;
                if work.moves {
                    move_out(space, &scan.here, &mut view);
                }
                if work.touch != Touch::None {
                    let new = || (Arc::clone(space), Toucher::new(space));
                    let (_, toucher) = touchers.entry(space.pid).or_insert_with(new);
                    if let Some(toucher) = toucher {
                        toucher.touch(space, &scan.here, work.touch, &mut dice);
                    }
                }
            }
            if let Some(factor) = work.oversubscribe {
                let now = limit_for(total, factor);
                // If that fails, the summary shows how much memory was on the device.
                if limit.replace(now) != Some(now) {
                    let _ = settings.limit_to(now);
                }
            }
            if let Ok(Some(stats)) = settings.stats() {
                peak = peak.max(stats.resident);
            }
        }
        peak
    }

    /// Waits for `pause`; returns the current processes, or `None` once `stop` was called.
    fn wait(&self, pause: Duration) -> Option<Vec<Arc<Space>>> {
        let state = self.lock();
        let waited = self
            .changed
            .wait_timeout_while(state, pause, |state| !state.is_over);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let spaces = || state.spaces.values().cloned().collect();
        (!state.is_over).then(spaces)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the limit for a program that has `pages` pages, in MiB.
fn limit_for(pages: u64, factor: f64) -> u32 {
    let mib = (pages * page_size() as u64) as f64 / (1 << 20) as f64;
    ((mib / factor) as u32).max(SMALLEST_LIMIT)
}

/// Moves the pages that can move now to the device: others may unmap, pin or lock them.
fn move_out(space: &Space, runs: &[PageRange], view: &mut [u8]) {
    let Ok(mut look) = SecondLook::at(space.pid) else {
        return;
    };
    for run in runs.iter().flat_map(|&run| look.of(run)) {
        let _ = space.device.migrate_to_device(run, view);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_a_part_of_the_memory() {
        let pages = |mib: u64| (mib << 20) / page_size() as u64;
        assert_eq!(limit_for(pages(100), 2.0), 50);
        assert_eq!(limit_for(pages(100), 0.5), 200);
        assert_eq!(limit_for(pages(1), 4.0), SMALLEST_LIMIT);
    }
}
