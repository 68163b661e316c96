// SPDX-License-Identifier: GPL-2.0

//! Notification of changes to page tables.

use super::prelude::*;

/// Remembers the last change, and counts all changes.
struct Watch {
    last: Range<usize>,
    changes: Arc<Counter>,
}

impl Invalidate for Watch {
    fn invalidate(&mut self, event: &Invalidation<'_>) {
        self.last = event.range();
        self.changes.add(1);
    }
}

type Watched = Pin<KBox<Notifier<Watch>>>;

fn watch(interval: Range<usize>) -> Result<(Watched, Arc<Counter>)> {
    let changes = Arc::new(Counter::default(), GFP_KERNEL)?;
    let state = Watch {
        last: 0..0,
        changes: changes.clone(),
    };
    let notifier = with_mm(|mm| KBox::pin_init(Notifier::new(mm, interval, state), GFP_KERNEL))?;
    Ok((notifier, changes))
}

#[kunit_tests(emu_notifier)]
mod suite {
    use super::*;

    #[test]
    fn what_was_read_stays_true_while_nothing_changes() -> Result {
        let memory = UserMemory::filled(2, 1)?;
        let (notifier, changes) = watch(memory.range(0..2))?;
        let seq = notifier.read_begin();
        assert!(notifier.lock_if_unchanged(seq).is_some());
        assert!(notifier.lock_shared_if_unchanged(seq).is_some());
        assert!(notifier.lock_if_unchanged(seq).is_some());
        assert_eq!(changes.get(), 0);
        Ok(())
    }

    #[test]
    fn a_change_makes_what_was_read_untrue() -> Result {
        let memory = UserMemory::filled(2, 1)?;
        let (notifier, changes) = watch(memory.range(0..2))?;
        let seq = notifier.read_begin();
        unmap(memory.at(1), 1)?;
        assert!(notifier.lock_if_unchanged(seq).is_none());
        assert!(notifier.lock_shared_if_unchanged(seq).is_none());
        assert!(changes.get() > 0);
        let seq = notifier.read_begin();
        assert!(notifier.lock_if_unchanged(seq).is_some());
        Ok(())
    }

    #[test]
    fn the_state_learns_which_addresses_change() -> Result {
        let memory = UserMemory::filled(4, 1)?;
        let (notifier, _) = watch(memory.range(0..4))?;
        unmap(memory.at(1), 2)?;
        let state = notifier.lock();
        assert!(state.last.start <= memory.at(1) && memory.at(3) <= state.last.end);
        assert_eq!(state.last.start % PAGE_SIZE, 0);
        assert_eq!(state.last.end % PAGE_SIZE, 0);
        Ok(())
    }

    #[test]
    fn changes_outside_the_interval_are_none_of_its_business() -> Result {
        let memory = UserMemory::filled(3, 1)?;
        let (notifier, changes) = watch(memory.range(1..2))?;
        let seq = notifier.read_begin();
        unmap(memory.at(0), 1)?;
        unmap(memory.at(2), 1)?;
        assert_eq!(changes.get(), 0);
        assert!(notifier.lock_if_unchanged(seq).is_some());
        Ok(())
    }

    #[test]
    fn a_walk_keeps_to_what_its_notifier_hears_of() -> Result {
        let pagemap = device(1)?;
        let memory = UserMemory::filled(4, 1)?;
        let (notifier, _) = watch(memory.range(1..3))?;
        let mut pfns = [0; 4];
        for (pages, outcome) in [
            (1..3, Ok(())),
            (0..2, Err(EINVAL)),
            (2..4, Err(EINVAL)),
            (2..2, Err(EINVAL)),
        ] {
            let range = memory.range(pages);
            let (request, timeout) = (Request::Read, Timeout::Bounded);
            let walked = with_mm(|mm| {
                walk::<Guard<'_, Watch>, _>(
                    &notifier, mm, &pagemap, range, request, timeout, &mut pfns,
                )
                .map(|_| ())
            });
            assert_eq!(walked, outcome);
        }
        Ok(())
    }

    #[test]
    fn after_drop_nothing_is_called() -> Result {
        let memory = UserMemory::filled(2, 1)?;
        let (notifier, changes) = watch(memory.range(0..2))?;
        drop(notifier);
        unmap(memory.at(0), 2)?;
        assert_eq!(changes.get(), 0);
        Ok(())
    }

    #[test]
    fn several_of_one_interval_learn_of_each_change() -> Result {
        let memory = UserMemory::filled(2, 1)?;
        let (_first, first_changes) = watch(memory.range(0..2))?;
        let (second, second_changes) = watch(memory.range(0..2))?;
        unmap(memory.at(0), 1)?;
        let seen = second_changes.get();
        assert!(first_changes.get() > 0 && seen > 0);
        drop(second);
        unmap(memory.at(1), 1)?;
        assert!(first_changes.get() > seen);
        assert_eq!(second_changes.get(), seen);
        Ok(())
    }

    #[test]
    #[expect(clippy::reversed_empty_ranges, reason = "an interval that wraps")]
    fn an_interval_must_not_be_empty_or_wrap() {
        assert_eq!(watch(0..0).err(), Some(EOVERFLOW));
        assert_eq!(watch(2 * PAGE_SIZE..PAGE_SIZE).err(), Some(EOVERFLOW));
    }

    /// Counts the passes of changes.
    #[derive(Default)]
    struct TwoPass {
        one: usize,
        begun: usize,
        finished: usize,
        /// The event of the last first pass.
        events: [Option<Event>; 1],
    }

    impl Invalidate for TwoPass {
        fn invalidate(&mut self, _: &Invalidation<'_>) {
            self.one += 1;
        }
    }

    impl InvalidateTwoPass for TwoPass {
        fn invalidate_start(&mut self, event: &Invalidation<'_>) -> bool {
            self.begun += 1;
            self.events = [Some(event.event())];
            // Every second change has nothing to wait for.
            self.begun % 2 == 1
        }

        fn invalidate_finish(&mut self) {
            self.finished += 1;
        }
    }

    #[test]
    fn what_is_begun_in_one_pass_is_finished_in_another() -> Result {
        let memory = UserMemory::filled(4, 1)?;
        let range = memory.range(0..4);
        let notifier: Pin<KBox<Notifier<TwoPass>>> = with_mm(|mm| {
            let notifier = Notifier::new_two_pass(mm, range, TwoPass::default());
            KBox::pin_init(notifier, GFP_KERNEL)
        })?;
        let seq = notifier.read_begin();
        for (index, finished) in [(0, 1), (1, 1), (2, 2)] {
            let begun = notifier.lock().begun;
            unmap(memory.at(index), 1)?;
            let state = notifier.lock();
            if state.begun == begun + 1 {
                assert_eq!((state.finished, state.one), (finished, 0));
            }
            assert_eq!(state.events, [Some(Event::Unmap)]);
            assert_eq!(state.finished, state.begun.div_ceil(2));
        }
        assert!(notifier.lock_if_unchanged(seq).is_none());
        let seq = notifier.read_begin();
        assert!(notifier.lock_if_unchanged(seq).is_some());
        Ok(())
    }
}
