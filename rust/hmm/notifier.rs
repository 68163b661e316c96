// SPDX-License-Identifier: GPL-2.0

//! Learning of changes to the page tables of a process.
//!
//! C header: [`include/linux/mmu_notifier.h`](srctree/include/linux/mmu_notifier.h),
//! source: [`mm/mmu_notifier.c`](srctree/mm/mmu_notifier.c).
//!
//! Locks: the update lock of an [`IntervalNotifier`] (a mutex) is the one that C calls the user
//! lock. mm takes it in the callback, under whatever locks it holds, reclaim included: so under it
//! there is no allocation that may sleep, and no access to user memory.

use core::marker::PhantomData;
use core::ops::Range;

use kernel::error::to_result;
use kernel::mm::MmWithUser;
use kernel::prelude::*;
use kernel::sync::lock::mutex::MutexGuard;
use kernel::sync::LockClassKey;
use kernel::sync::Mutex;
use kernel::types::Opaque;

use crate::bindings;

/// What is kept true by an [`IntervalNotifier`].
pub trait Invalidate: Send + Unpin {
    /// Forgets what it knows of a range.
    ///
    /// Called with the update lock held. Must not sleep, nor allocate memory in a way that could.
    fn invalidate(&mut self, event: &Invalidation<'_>);
}

/// A change to the page tables that is about to happen.
pub struct Invalidation<'a> {
    range: Range<usize>,
    _event: PhantomData<&'a ()>,
}

impl Invalidation<'_> {
    /// The addresses that change, in bytes, page aligned, the end exclusive.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }
}

/// A moment between two changes to the page tables: what was read after it is true as long as
/// [`lock_if_unchanged`](IntervalNotifier::lock_if_unchanged) accepts it.
#[derive(Clone, Copy)]
pub struct Sequence(pub(crate) usize);

/// Data that depends on the page tables of an address space, under the update lock.
///
/// Each change to the page tables in the interval, whoever causes it and for whatever reason, sets
/// the sequence and calls [`Invalidate::invalidate`] with the lock held; neither can be forgotten.
///
/// # Invariants
///
/// `raw` is inserted into the interval tree of an address space from initialisation until drop.
///
/// # Examples
///
/// ```ignore
/// let seq = notifier.read_begin();
/// let seen = look_at_page_tables();
/// match notifier.lock_if_unchanged(seq) {
///     Some(mut state) => state.note(seen),
///     None => try_again(),
/// }
/// ```
#[pin_data(PinnedDrop)]
#[repr(C)]
pub struct IntervalNotifier<T: Invalidate> {
    // First, so that the pointer that C has is one to the whole as well.
    #[pin]
    raw: Opaque<bindings::mmu_interval_notifier>,
    #[pin]
    state: Mutex<T>,
}

// SAFETY: It may be removed by any thread; C synchronises the notifier by itself.
unsafe impl<T: Invalidate> Send for IntervalNotifier<T> {}
// SAFETY: As above; the state is under a lock.
unsafe impl<T: Invalidate> Sync for IntervalNotifier<T> {}

impl<T: Invalidate + 'static> IntervalNotifier<T> {
    /// Listens to changes in `interval` (bytes, page aligned, the end exclusive) of an address
    /// space, from initialisation to drop, and keeps a reference to the `mm_struct`, not to the
    /// users of it.
    ///
    /// May sleep. Takes the `mmap_lock` for writing.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; `EOVERFLOW` when the interval is empty or wraps around.
    ///
    /// C function: `mmu_interval_notifier_insert()`.
    pub fn new<'a>(
        mm: &'a MmWithUser,
        interval: Range<usize>,
        state: impl PinInit<T> + 'a,
    ) -> impl PinInit<Self, Error> + 'a {
        let (name, key) = lock_class();
        try_pin_init!(Self {
            state <- Mutex::new(state, name, key),
            // Last: the callback can run as soon as this is done.
            raw <- Opaque::try_ffi_init(move |slot: *mut bindings::mmu_interval_notifier| {
                // SAFETY: `slot` is valid and stays in place until `mmu_interval_notifier_remove()`
                // in drop; the address space has users; the rest is checked by the C function.
                to_result(unsafe {
                    bindings::mmu_interval_notifier_insert(
                        slot,
                        mm.as_raw(),
                        interval.start,
                        interval.end.wrapping_sub(interval.start),
                        &Callbacks::<T>::TABLE,
                    )
                })
            }),
        }? Error)
    }

    /// Waits until no change is going on, and returns the moment.
    ///
    /// May sleep; must not be called with the update lock held.
    ///
    /// C function: `mmu_interval_read_begin()`.
    pub fn read_begin(&self) -> Sequence {
        // SAFETY: The notifier is inserted, by the type invariant.
        Sequence(unsafe { bindings::mmu_interval_read_begin(self.raw.get()) })
    }

    /// Takes the update lock.
    ///
    /// May sleep.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.state.lock()
    }

    /// Takes the update lock if nothing has changed since `seq`, and nothing is about to.
    ///
    /// May sleep.
    ///
    /// C function: `mmu_interval_read_retry()`.
    pub fn lock_if_unchanged(&self, seq: Sequence) -> Option<MutexGuard<'_, T>> {
        let guard = self.state.lock();
        // SAFETY: The notifier is inserted, by the type invariant, and the lock is held that the
        // callback takes to set the sequence.
        let changed = unsafe { bindings::mmu_interval_read_retry(self.raw.get(), seq.0) };
        (!changed).then_some(guard)
    }

    pub(crate) fn as_raw(&self) -> *mut bindings::mmu_interval_notifier {
        self.raw.get()
    }
}

/// The name and the class of the update lock.
///
/// Not part of a generic function: code that is generated in several crates would give one lock
/// class several names, which lockdep rejects.
#[inline(never)]
fn lock_class() -> (&'static CStr, Pin<&'static LockClassKey>) {
    (c"IntervalNotifier::state", kernel::static_lock_class!())
}

#[pinned_drop]
impl<T: Invalidate> PinnedDrop for IntervalNotifier<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: The notifier is inserted, by the type invariant, and removed once. No lock is
        // held that the callback takes, because all guards borrow `self`.
        unsafe { bindings::mmu_interval_notifier_remove(self.raw.get()) };
    }
}

/// The table of callbacks for a type of state.
struct Callbacks<T>(PhantomData<T>);

impl<T: Invalidate> Callbacks<T> {
    const TABLE: bindings::mmu_interval_notifier_ops = bindings::mmu_interval_notifier_ops {
        invalidate: Some(Self::invalidate),
        invalidate_start: None,
        invalidate_finish: None,
    };

    /// # Safety
    ///
    /// Called by mm for the notifier of an `IntervalNotifier<T>`, which is inserted.
    unsafe extern "C" fn invalidate(
        notifier: *mut bindings::mmu_interval_notifier,
        range: *const bindings::mmu_notifier_range,
        seq: usize,
    ) -> bool {
        let this: *const IntervalNotifier<T> = notifier.cast();
        // SAFETY: The notifier is the first field of a `repr(C)` struct, which drop keeps in place
        // until the notifier is removed.
        let this = unsafe { &*this };
        // SAFETY: mm passes a valid range.
        let range = unsafe { &*range };
        // SAFETY: As above.
        let blockable = unsafe { bindings::mmu_notifier_range_blockable(range) };
        let mut state = if blockable {
            this.state.lock()
        } else {
            match this.state.try_lock() {
                Some(state) => state,
                None => return false,
            }
        };
        // SAFETY: This is the callback, and the lock is held that readers check the sequence under.
        unsafe { bindings::mmu_interval_set_seq(notifier, seq) };
        state.invalidate(&Invalidation {
            range: range.start..range.end,
            _event: PhantomData,
        });
        true
    }
}
