// SPDX-License-Identifier: GPL-2.0

//! Observers of unmapped ranges.

use super::prelude::*;
use crate::observer::UnmapObserver;
use kernel::new_mutex;
use kernel::sync::Mutex;

/// Remembers the first and the last address that were unmapped, and how often.
#[pin_data]
struct Seen {
    #[pin]
    range: Mutex<Range<usize>>,
    times: Counter,
}

impl UnmapObserver for Seen {
    fn unmapped(&self, range: Range<usize>) {
        // Allowed only in a test: real implementations must not sleep.
        if let Some(mut seen) = self.range.try_lock() {
            *seen = range;
        }
        self.times.add(1);
    }
}

fn watched(pagemap: &Arc<Pagemap>) -> Result<(Arc<Seen>, Pin<KBox<View<Device>>>)> {
    let seen = pin_init!(Seen {
        range <- new_mutex!(0..0),
        times: Counter::default(),
    });
    let seen = Arc::pin_init(seen, GFP_KERNEL)?;
    let observer: Arc<dyn UnmapObserver> = seen.clone();
    let pagemap = pagemap.clone();
    let view = with_mm(|mm| KBox::pin_init(View::new(mm, pagemap, Some(observer)), GFP_KERNEL))?;
    Ok((seen, view))
}

#[kunit_tests(emu_observer)]
mod suite {
    use super::*;

    #[test]
    fn an_observer_learns_what_is_unmapped() -> Result {
        let pagemap = shared_device(1)?;
        let (seen, _view) = watched(&pagemap)?;
        let memory = UserMemory::filled(4, 1)?;
        let times = seen.times.get();
        unmap(memory.at(1), 2)?;
        assert_eq!(seen.times.get(), times + 1);
        let range = seen.range.lock().clone();
        assert!(range.start <= memory.at(1) && memory.at(3) <= range.end);
        assert!(memory.at(0) < range.start && range.end <= memory.at(3));
        Ok(())
    }

    #[test]
    fn it_is_not_told_of_other_changes() -> Result {
        let pagemap = shared_device(1)?;
        let (seen, view) = watched(&pagemap)?;
        let memory = UserMemory::in_block(8, 2)?;
        memory.fill(0, 1)?;
        memory.fill(1, 1)?;
        let times = seen.times.get();
        let invalidations = view.stats().invalidations;
        move_out(&pagemap, memory.range(0..2))?;
        assert!(view.stats().invalidations > invalidations);
        assert_eq!(memory.is_filled(0, 1), Ok(true));
        assert_eq!(seen.times.get(), times);
        Ok(())
    }

    #[test]
    fn it_learns_that_the_address_space_goes_away() -> Result {
        let pagemap = shared_device(1)?;
        let other = other_mm()?;
        let seen = pin_init!(Seen {
            range <- new_mutex!(0..0),
            times: Counter::default(),
        });
        let seen = Arc::pin_init(seen, GFP_KERNEL)?;
        let observer: Arc<dyn UnmapObserver> = seen.clone();
        let view = KBox::pin_init(View::new(&other, pagemap, Some(observer)), GFP_KERNEL)?;
        drop(other);
        assert!(seen.times.get() > 0);
        drop(view);
        Ok(())
    }

    #[test]
    fn pages_that_are_cleared_are_faulted_in_again() -> Result {
        let pagemap = shared_device(1)?;
        let view = view(&pagemap)?;
        let memory = UserMemory::in_block(8, 4)?;
        let mut buffer = FaultBuffer::new()?;
        let mut fault = |range| {
            let never = Timeout::Bounded;
            with_mm(|mm| view.fault(mm, range, Access::Write, never, &mut buffer, |_| ()))
        };
        fault(memory.range(0..4))?;
        view.clear(memory.range(1..3));
        let is_mapped = |nth| view.lock().page(memory.at(nth)).is_some();
        assert!(is_mapped(0) && !is_mapped(1) && !is_mapped(2) && is_mapped(3));
        fault(memory.range(1..3))?;
        assert!(is_mapped(1) && is_mapped(2));
        Ok(())
    }
}
