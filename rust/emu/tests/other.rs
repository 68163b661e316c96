// SPDX-License-Identifier: GPL-2.0

//! Another task, which changes the test's address space or device.

use super::prelude::*;
use kernel::error::to_result;
use kernel::impl_has_work;
use kernel::mm::Mm;
use kernel::new_work;
use kernel::sync::Completion;
use kernel::workqueue;
use kernel::workqueue::Work;
use kernel::workqueue::WorkItem;

type Job = KBox<dyn Fn(&Mm) -> Result + Send + Sync>;

#[pin_data]
pub(super) struct Other {
    mm: ARef<Mm>,
    job: Job,
    succeeded: Counter,
    #[pin]
    done: Completion,
    #[pin]
    work: Work<Other>,
}

impl_has_work! {
    impl HasWork<Self> for Other { self.work }
}

impl WorkItem for Other {
    type Pointer = Arc<Other>;

    fn run(this: Arc<Other>) {
        if (this.job)(&this.mm).is_ok() {
            this.succeeded.set(1);
        }
        this.done.complete_all();
    }
}

impl Other {
    /// Makes another task call `job` on the test's address space.
    pub(super) fn start(job: impl Fn(&Mm) -> Result + Send + Sync + 'static) -> Result<Arc<Self>> {
        let job: Job = KBox::new(job, GFP_KERNEL)?;
        let other = with_mm(|mm| {
            let mm = ARef::<Mm>::from(&**mm);
            Arc::pin_init(
                pin_init!(Other {
                    mm,
                    job,
                    succeeded: Counter::default(),
                    done <- Completion::new(),
                    work <- new_work!("hmm test: another task"),
                }),
                GFP_KERNEL,
            )
        })?;
        workqueue::system_unbound()
            .enqueue(other.clone())
            .map_err(|_| EBUSY)?;
        Ok(other)
    }

    /// Waits until the job is done.
    pub(super) fn wait(&self) -> Result {
        self.done.wait_for_completion();
        if self.succeeded.get() == 1 {
            Ok(())
        } else {
            Err(EFAULT)
        }
    }
}

/// Collects a page for a migration, which removes its page table entry, and puts the entry back.
fn change(mm: &Mm, pagemap: &Pagemap, address: usize) -> Result {
    let mm = mm.mmget_not_zero().ok_or(EFAULT)?;
    // The test may hold the lock for reading and wait for this, so never wait for a writer.
    for _ in 0..1000 {
        let Some(mmap) = mm.mmap_read_trylock() else {
            fsleep(Delta::from_millis(1));
            continue;
        };
        let vma = LockedVma::lookup(&mmap, address).ok_or(EFAULT)?;
        let range = address..address + PAGE_SIZE;
        let mut buffer = MigrateBuffer::new(1)?;
        drop(Migration::to_device(
            vma,
            range,
            LargeFolios::Split,
            pagemap,
            &mut buffer,
        )?);
        return Ok(());
    }
    Err(EBUSY)
}

/// Makes another task change the page table entry of an address, and waits for it.
pub(super) fn change_by_another_task(pagemap: &Arc<Pagemap>, address: usize) -> Result {
    let pagemap = pagemap.clone();
    Other::start(move |mm| change(mm, &pagemap, address))?.wait()
}

/// Touches a page of an address space, which may be that of another task.
pub(super) fn touch(mm: &Mm, address: usize) -> Result {
    let mm = mm.mmget_not_zero().ok_or(EFAULT)?;
    // SAFETY: The address space has users; this runs in a KUnit test.
    to_result(unsafe { bindings::kunit_touch(mm.as_raw(), address) })
}
