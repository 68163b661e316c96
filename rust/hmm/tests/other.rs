// SPDX-License-Identifier: GPL-2.0

//! Another task, which changes the page tables of the test's address space.

use kernel::alloc::flags::GFP_KERNEL;
use kernel::impl_has_work;
use kernel::mm::Mm;
use kernel::new_work;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::Arc;
use kernel::sync::Completion;
use kernel::time::delay::fsleep;
use kernel::time::Delta;
use kernel::workqueue;
use kernel::workqueue::Work;
use kernel::workqueue::WorkItem;

use super::with_mm;
use super::Counter;
use super::Probe;
use crate::DevPagemap;
use crate::Huge;
use crate::LockedVma;
use crate::Migration;
use crate::Window;

#[pin_data]
struct Change {
    mm: ARef<Mm>,
    pagemap: Arc<DevPagemap<Probe>>,
    address: usize,
    changed: Counter,
    #[pin]
    done: Completion,
    #[pin]
    work: Work<Change>,
}

impl_has_work! {
    impl HasWork<Self> for Change { self.work }
}

impl WorkItem for Change {
    type Pointer = Arc<Change>;

    fn run(this: Arc<Change>) {
        if this.change().is_ok() {
            this.changed.set(1);
        }
        this.done.complete_all();
    }
}

impl Change {
    /// Collects a page for a migration, which takes it out of the page tables, and puts it back.
    fn change(&self) -> Result {
        let mm = self.mm.mmget_not_zero().ok_or(EFAULT)?;
        // The test may hold the lock for reading and wait for this: so never wait for a writer.
        for _ in 0..1000 {
            let Some(mmap) = mm.mmap_read_trylock() else {
                fsleep(Delta::from_millis(1));
                continue;
            };
            let vma = LockedVma::lookup(&mmap, self.address).ok_or(EFAULT)?;
            let range = self.address..self.address + PAGE_SIZE;
            let mut window = Window::new(1)?;
            drop(Migration::to_device(
                vma,
                range,
                Huge::Split,
                &self.pagemap,
                &mut window,
            )?);
            return Ok(());
        }
        Err(EBUSY)
    }
}

/// Has another task change the page table entry of an address, and waits for it.
pub(super) fn change_by_another_task(pagemap: &Arc<DevPagemap<Probe>>, address: usize) -> Result {
    let change = with_mm(|mm| {
        let mm = ARef::<Mm>::from(&**mm);
        Arc::pin_init(
            pin_init!(Change {
                mm,
                pagemap: pagemap.clone(),
                address,
                changed: Counter::default(),
                done <- Completion::new(),
                work <- new_work!("hmm test: change"),
            }),
            GFP_KERNEL,
        )
    })?;
    workqueue::system_unbound()
        .enqueue(change.clone())
        .map_err(|_| EBUSY)?;
    change.done.wait_for_completion();
    if change.changed.get() == 1 {
        Ok(())
    } else {
        Err(EFAULT)
    }
}
