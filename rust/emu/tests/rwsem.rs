// SPDX-License-Identifier: GPL-2.0

//! The read-write semaphore.

use super::prelude::*;
use hmm::rwsem::RwSemaphore;

type Shared = Arc<RwSemaphore<usize>>;

fn semaphore() -> Result<Shared> {
    let (name, key) = (c"hmm test: a lock", kernel::static_lock_class!());
    Arc::pin_init(RwSemaphore::new(1_usize, name, key), GFP_KERNEL)
}

/// Makes another task write as soon as it can.
fn write_by_another_task(semaphore: &Shared) -> Result<Arc<Other>> {
    let semaphore = semaphore.clone();
    Other::start(move |_| {
        *semaphore.write() += 1;
        Ok(())
    })
}

#[kunit_tests(hmm_rwsem)]
mod suite {
    use super::*;

    #[test]
    fn who_writes_is_alone() -> Result {
        let semaphore = semaphore()?;
        let mut guard = semaphore.write();
        *guard += 1;
        assert!(semaphore.try_write().is_none());
        drop(guard);
        assert_eq!(semaphore.try_write().as_deref(), Some(&2));
        Ok(())
    }

    #[test]
    fn who_reads_is_not() -> Result {
        let semaphore = semaphore()?;
        let guard = semaphore.read();
        let other = semaphore.clone();
        let reads = move |_: &_| match *other.read() {
            1 => Ok(()),
            _ => Err(EINVAL),
        };
        Other::start(reads)?.wait()?;
        assert!(semaphore.try_write().is_none());
        drop(guard);
        assert!(semaphore.try_write().is_some());
        Ok(())
    }

    #[test]
    fn a_writer_waits_for_readers() -> Result {
        let semaphore = semaphore()?;
        let guard = semaphore.read();
        let writer = write_by_another_task(&semaphore)?;
        fsleep(Delta::from_millis(20));
        assert_eq!(*guard, 1);
        drop(guard);
        writer.wait()?;
        assert_eq!(*semaphore.read(), 2);
        Ok(())
    }

    #[test]
    fn nobody_writes_before_a_writer_that_goes_on_reading() -> Result {
        let semaphore = semaphore()?;
        let guard = semaphore.write();
        let writer = write_by_another_task(&semaphore)?;
        fsleep(Delta::from_millis(20));
        let guard = guard.downgrade();
        fsleep(Delta::from_millis(20));
        assert_eq!(*guard, 1);
        assert!(semaphore.try_write().is_none());
        drop(guard);
        writer.wait()?;
        assert_eq!(*semaphore.read(), 2);
        Ok(())
    }
}
