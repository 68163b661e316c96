// SPDX-License-Identifier: GPL-2.0

//! Copy engines that run asynchronously, or fail; data in folios; owners.

use core::ptr::NonNull;

use kernel::alloc::KVVec;

use super::prelude::*;

/// A copy that an engine has not done yet: the two addresses of the page.
struct Job {
    from: NonNull<u8>,
    to: NonNull<u8>,
}

/// Data that the tests share with a [`Slow`] device: its observations, and its instructions.
#[derive(Default)]
struct Told {
    /// Number of operations, and of their pages.
    ops: Counter,
    pages: Counter,
    /// Number of batches that were waited for.
    waited: Counter,
    /// Fail in `copy()`, or in `wait()`.
    bad_copy: Counter,
    bad_wait: Counter,
    /// Reject the operation with this index, counted from 1.
    reject: Counter,
    /// Number of data values that came back with folios.
    returned: Counter,
    /// Number of pages that came back.
    freed: Counter,
}

/// A device whose engine copies only when it is waited for.
struct Slow {
    told: Arc<Told>,
    bytes: KVVec<u8>,
}

struct SlowPending {
    told: Arc<Told>,
    jobs: KVVec<Job>,
}

impl SlowEngine {
    fn address(&self, page: usize) -> NonNull<u8> {
        // SAFETY: The page is one of the device, whose bytes begin at `base`.
        unsafe { self.base.add(page * PAGE_SIZE) }
    }
}

struct SlowEngine {
    told: Arc<Told>,
    base: NonNull<u8>,
}

// SAFETY: The bytes belong to the device, whose `Slow` outlives all uses by the engine.
unsafe impl Send for SlowEngine {}
// SAFETY: The engine only computes addresses.
unsafe impl Sync for SlowEngine {}

// SAFETY: Everything for which `wait` returned `Ok` was copied; zeros are written at once. The
// bytes belong to the device that the test has created with them.
unsafe impl CopyEngine<SlowOps> for SlowEngine {
    type Pending = SlowPending;

    fn copy(&self, batch: &mut CopyBatch<'_>) -> Result<SlowPending> {
        if self.told.bad_copy.take() {
            return Err(EIO);
        }
        let reject = self.told.reject.get();
        let mut jobs = KVVec::new();
        batch.for_each(|op| {
            self.told.ops.add(1);
            if self.told.ops.get() == reject {
                return Err(EDOM);
            }
            let pages = 1 << op.order;
            self.told.pages.add(pages);
            for n in 0..pages {
                let (from, to) = match (&op.src, &op.dst) {
                    (Place::System(from), Place::Device(to)) => {
                        (from.with_page(n, |page| page), self.address(to.first() + n))
                    }
                    (Place::Device(from), Place::System(to)) => {
                        (self.address(from.first() + n), to.with_page(n, |page| page))
                    }
                    (Place::Zero, Place::Device(to)) => {
                        let to = self.address(to.first() + n);
                        // SAFETY: Only the migration uses the page.
                        unsafe { to.write_bytes(0, PAGE_SIZE) };
                        continue;
                    }
                    _ => return Err(EINVAL),
                };
                jobs.push(Job { from, to }, GFP_KERNEL)?;
            }
            Ok(())
        });
        Ok(SlowPending {
            told: self.told.clone(),
            jobs,
        })
    }
}

impl Pending for SlowPending {
    fn wait(&mut self) -> Result {
        self.told.waited.add(1);
        for job in &self.jobs {
            // SAFETY: Both are pages of bytes that only the migration uses until this returns; on
            // x86-64, the kernel address of a system page does not change.
            unsafe { job.to.copy_from_nonoverlapping(job.from, PAGE_SIZE) };
        }
        if self.told.bad_wait.take() {
            return Err(EIO);
        }
        Ok(())
    }
}

/// The driver's side: the bytes of the device, and the engine for them.
struct SlowOps {
    slow: Slow,
    engine: SlowEngine,
}

impl DevPagemapOps for SlowOps {
    type Engine = SlowEngine;
    type FolioData = Arc<Told>;
    type Hooks = ();

    fn engine(&self) -> &SlowEngine {
        &self.engine
    }

    fn folio_free(&self, pages: DevicePages, data: Arc<Told>) {
        data.returned.add(1);
        self.slow.told.freed.add(pages.npages());
    }

    fn migrate_to_ram(&self, fault: CpuFault<'_, Self>) -> FaultAnswer {
        match fault.migrate_to_system() {
            Ok(()) => fault.retry(),
            Err(_) => fault.bus_error(),
        }
    }
}

type SlowPagemap = Pin<KBox<DevPagemap<SlowOps>>>;

fn slow_device(owner: Owner) -> Result<(Arc<Told>, SlowPagemap)> {
    let told = Arc::new(Told::default(), GFP_KERNEL)?;
    let mut bytes = KVVec::from_elem(0xa5, HPAGE_PMD_NR * PAGE_SIZE, GFP_KERNEL)?;
    let base = NonNull::new(bytes.as_mut_ptr()).ok_or(ENOMEM)?;
    let ops = Ok::<_, Error>(SlowOps {
        engine: SlowEngine {
            told: told.clone(),
            base,
        },
        slow: Slow {
            told: told.clone(),
            bytes,
        },
    });
    let options = Options {
        owner,
        node: None,
        hooks: (),
    };
    // The name is copied: this one is freed before the pagemap.
    let name = kernel::str::CString::try_from_fmt(fmt!("hmm test {}", 7))?;
    let pfns = PfnRange::private(HPAGE_PMD_NR, &name)?;
    drop(name);
    Ok((
        told,
        KBox::pin_init(DevPagemap::new(pfns, options, ops), GFP_KERNEL)?,
    ))
}

/// Moves a range to pages 0, 1, … of the device.
fn out(
    pagemap: &SlowPagemap,
    told: &Arc<Told>,
    range: Range<usize>,
    large: LargeFolios,
) -> Result<usize> {
    with_mm(|mm| {
        let mmap = mm.mmap_read_lock();
        let vma = LockedVma::lookup(&mmap, range.start).ok_or(EFAULT)?;
        let mut buffer = MigrateBuffer::new(range.len() / PAGE_SIZE)?;
        let mut migration = Migration::to_device(vma, range, large, pagemap, &mut buffer)?;
        for entry in migration.entries() {
            let pages = DevicePages::new(entry.index(), entry.order())?;
            entry.set_dst(pagemap.reserve(pages, told.clone())?)?;
        }
        let moved = migration.copy()?.commit()?.moved();
        Ok(moved)
    })
}

#[kunit_tests(emu_copy)]
mod suite {
    use super::*;

    #[test]
    fn an_engine_that_works_beside_the_cpu_is_waited_for() -> Result {
        let (told, pagemap) = slow_device(Owner::new()?)?;
        assert_eq!(pagemap.ops().slow.bytes.len(), HPAGE_PMD_NR * PAGE_SIZE);
        let memory = UserMemory::filled(3, 5)?;
        let range = memory.range(0..3);
        assert_eq!(out(&pagemap, &told, range, LargeFolios::Split), Ok(3));
        assert_eq!((told.ops.get(), told.waited.get()), (3, 1));
        for index in 0..3 {
            assert_eq!(memory.is_filled(index, 5 + index as u8), Ok(true));
        }
        assert_eq!(told.waited.get(), 4);
        assert_eq!((told.freed.get(), told.returned.get()), (3, 3));
        Ok(())
    }

    #[test]
    fn a_migration_that_is_dropped_waits_for_its_engine() -> Result {
        let (told, pagemap) = slow_device(Owner::new()?)?;
        let memory = UserMemory::filled(2, 6)?;
        with_mm(|mm| {
            let mmap = mm.mmap_read_lock();
            let vma = LockedVma::lookup(&mmap, memory.at(0)).ok_or(EFAULT)?;
            let mut buffer = MigrateBuffer::new(2)?;
            let range = memory.range(0..2);
            let split = LargeFolios::Split;
            let mut migration = Migration::to_device(vma, range, split, &pagemap, &mut buffer)?;
            for entry in migration.entries() {
                let pages = DevicePages::new(entry.index(), 0)?;
                entry.set_dst(pagemap.reserve(pages, told.clone())?)?;
            }
            let copying = migration.copy()?;
            assert_eq!((told.waited.get(), told.freed.get()), (0, 0));
            drop(copying);
            assert_eq!((told.waited.get(), told.freed.get()), (1, 2));
            Ok(())
        })?;
        assert_eq!(pagemap.owned(), 0);
        assert_eq!(memory.is_filled(1, 7), Ok(true));
        Ok(())
    }

    #[test]
    fn an_engine_that_fails_moves_nothing_and_loses_nothing() -> Result {
        let (told, pagemap) = slow_device(Owner::new()?)?;
        let memory = UserMemory::filled(2, 8)?;
        for failing in [&told.bad_copy, &told.bad_wait] {
            failing.set(1);
            let moved = out(&pagemap, &told, memory.range(0..2), LargeFolios::Split);
            assert_eq!((moved, pagemap.owned()), (Err(EIO), 0));
        }
        let moved = out(&pagemap, &told, memory.range(0..2), LargeFolios::Split);
        assert_eq!(moved, Ok(2));
        // On the way back, the engine fails until it is told not to; the pages stay meanwhile.
        let mut buffer = MigrateBuffer::new(2)?;
        told.bad_wait.set(8);
        let evicted = pagemap.evict(0..2, &mut buffer);
        assert_eq!((evicted.moved, evicted.left), (0, 2));
        assert_eq!(evicted.error, Some(EIO));
        told.bad_wait.set(0);
        assert_eq!(pagemap.evict(0..2, &mut buffer).moved, 2);
        assert_eq!(memory.is_filled(0, 8), Ok(true));
        assert_eq!(memory.is_filled(1, 9), Ok(true));
        Ok(())
    }

    #[test]
    fn what_an_engine_rejects_stays_and_the_others_go() -> Result {
        let (told, pagemap) = slow_device(Owner::new()?)?;
        let memory = UserMemory::filled(3, 11)?;
        told.reject.set(2);
        let moved = out(&pagemap, &told, memory.range(0..3), LargeFolios::Split);
        assert_eq!((moved, pagemap.owned()), (Ok(2), 2));
        for index in 0..3 {
            assert_eq!(memory.is_filled(index, 11 + index as u8), Ok(true));
        }
        Ok(())
    }

    #[test]
    fn a_huge_page_is_one_operation() -> Result {
        let (told, pagemap) = slow_device(Owner::new()?)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 12)?;
        let range = memory.range(0..HPAGE_PMD_NR);
        let moved = out(&pagemap, &told, range, LargeFolios::Keep);
        assert_eq!(moved, Ok(HPAGE_PMD_NR));
        assert_eq!((told.ops.get(), told.pages.get()), (1, HPAGE_PMD_NR));
        assert_eq!(holds(&memory, 12), Ok(true));
        assert_eq!((told.ops.get(), told.returned.get()), (2, 1));
        Ok(())
    }

    #[test]
    fn each_piece_of_a_folio_has_the_data_of_the_whole() -> Result {
        let (told, pagemap) = slow_device(Owner::new()?)?;
        let memory = UserMemory::block()?;
        fill_ends(&memory, 13)?;
        let range = memory.range(0..HPAGE_PMD_NR);
        let moved = out(&pagemap, &told, range, LargeFolios::Keep);
        assert_eq!(moved, Ok(HPAGE_PMD_NR));
        // A part is unmapped; the rest of the folio is split when it is evicted.
        unmap(memory.at(1), 3)?;
        let mut buffer = MigrateBuffer::new(HPAGE_PMD_NR)?;
        pagemap.evict(0..HPAGE_PMD_NR, &mut buffer);
        assert_eq!(pagemap.owned(), 0);
        assert_eq!(told.returned.get(), HPAGE_PMD_NR);
        let mut pages = pagemap.reserve_pages(0..2, told.clone())?;
        drop((pages.pop(), pages));
        assert_eq!(told.returned.get(), HPAGE_PMD_NR + 2);
        drop(pagemap);
        assert!(Arc::into_unique_or_drop(told).is_some());
        Ok(())
    }

    #[test]
    fn devices_of_one_owner_keep_their_pages_apart() -> Result {
        let owner = Owner::new()?;
        let (told, one) = slow_device(owner.clone())?;
        let (_, two) = slow_device(owner)?;
        let memory = UserMemory::filled(2, 14)?;
        let moved = out(&one, &told, memory.range(0..1), LargeFolios::Split);
        assert_eq!(moved, Ok(1));
        let moved = out(&two, &told, memory.range(1..2), LargeFolios::Split);
        assert_eq!(moved, Ok(1));
        // Pages of one device do not move to another.
        let moved = out(&two, &told, memory.range(0..2), LargeFolios::Split);
        assert_eq!(moved, Ok(0));
        let back = with_mm(|mm| {
            let mmap = mm.mmap_read_lock();
            let vma = LockedVma::lookup(&mmap, memory.at(0)).ok_or(EFAULT)?;
            Ok(one.bring_back(vma, memory.range(0..2), &mut MigrateBuffer::new(2)?))
        });
        assert_eq!(back, Ok((1, Ok(()))));
        assert_eq!((one.owned(), two.owned()), (0, 1));
        assert_eq!(memory.is_filled(0, 14), Ok(true));
        assert_eq!(memory.is_filled(1, 15), Ok(true));
        Ok(())
    }

    #[test]
    fn a_node_that_is_not_there_is_refused() -> Result {
        let options = Options {
            owner: Owner::new()?,
            node: Some(1000),
            hooks: ProbeHooks(Arc::new(Probe::default(), GFP_KERNEL)?),
        };
        let driver = Ok::<_, Error>(Device(Arc::new(Probe::default(), GFP_KERNEL)?));
        let memory = Memory::lazy(HPAGE_PMD_NR)?;
        let made = Emulated::<Device>::new(memory, c"hmm test", options, driver)?;
        assert_eq!(KBox::pin_init(made, GFP_KERNEL).err(), Some(EINVAL));
        Ok(())
    }
}
