// SPDX-License-Identifier: GPL-2.0

//! Changes to the page tables of a process, and data that depends on them.
//!
//! C header: [`include/linux/mmu_notifier.h`](srctree/include/linux/mmu_notifier.h),
//! source: [`mm/mmu_notifier.c`](srctree/mm/mmu_notifier.c).
//!
//! # Locks
//!
//! C calls the update lock of a [`Notifier`] the user lock. Readers share it ([`SharedGuard`]);
//! writers of the protected data hold it exclusively ([`Guard`]). mm takes it exclusively in the
//! callback, with any of its own locks held, and also during reclaim. So a holder of the update
//! lock, shared or exclusive, must not do an allocation that may sleep, access user memory, or wait
//! for a folio.
//!
//! # Deadlocks
//!
//! Dropping a [`Notifier`] waits until no change to the page tables of its address space is in
//! progress, so it must not be dropped
//!
//! - in a callback of any notifier of that address space, or under an update lock: lockdep knows
//!   the map that C keeps for this, and reports it;
//! - while a folio is locked or a [`Migration`](crate::migrate::Migration) lives: the task that
//!   changes the page tables may wait for the folio (`UFFDIO_MOVE` does).

use core::{marker::PhantomData, ops::Range};

use kernel::{
    error::to_result, mm::MmWithUser, page::PAGE_SIZE, prelude::*, sync::LockClassKey,
    types::Opaque,
};

use crate::{bindings, memremap::Owner, rwsem::RwSemaphore};

mod guard;

pub use self::guard::{Guard, SharedGuard, UpdateGuard};

/// Data that a [`Notifier`] keeps consistent with the page tables.
pub trait Invalidate: Send + Sync + Unpin + 'static {
    /// Discards the part of this data that belongs to a range.
    ///
    /// Called with the update lock held exclusively. Must not sleep, allocate memory in a way that
    /// may sleep, or drop a [`Notifier`].
    fn invalidate(&mut self, event: &Invalidation<'_>);
}

/// Data that is invalidated in two passes: all devices begin before mm waits for any of them.
///
/// C: `mmu_interval_notifier_ops.invalidate_start` and `invalidate_finish`.
pub trait InvalidateTwoPass: Invalidate {
    /// Begins to discard the part of this data that belongs to a range, and returns whether
    /// [`invalidate_finish`](Self::invalidate_finish) must be called.
    ///
    /// Called with the update lock held, as [`Invalidate::invalidate`] is. While another change
    /// waits for its second pass, [`Invalidate::invalidate`] is called instead.
    fn invalidate_start(&mut self, event: &Invalidation<'_>) -> bool;

    /// Waits until the first pass is complete. Called with the update lock held; others may have
    /// held the lock between the passes.
    fn invalidate_finish(&mut self);
}

/// The reason why the page tables change.
///
/// C: `enum mmu_notifier_event`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A range is unmapped or moved.
    Unmap,
    /// Entries are cleared, or replaced by entries for other pages.
    Clear,
    /// The protection of a VMA changes.
    ProtectionVma,
    /// The protection of a page changes.
    ProtectionPage,
    /// Soft-dirty bits are cleared.
    SoftDirty,
    /// The address space is torn down.
    Release,
    /// A driver migrates pages; the event carries its owner.
    Migrate,
    /// A driver gets exclusive access; the event carries its owner.
    Exclusive,
    /// An event that only newer kernels have.
    Other,
}

/// A change to the page tables that is about to happen.
pub struct Invalidation<'a>(&'a bindings::mmu_notifier_range);

impl Invalidation<'_> {
    /// Returns the affected addresses, in bytes, page aligned, the end exclusive.
    pub fn range(&self) -> Range<usize> {
        let mask = PAGE_SIZE - 1;
        // When the address space is torn down, C passes an end that is not aligned.
        self.0.start & !mask..self.0.end.saturating_add(mask) & !mask
    }

    /// Returns the reason why the page tables change.
    pub fn event(&self) -> Event {
        match self.0.event {
            bindings::mmu_notifier_event_MMU_NOTIFY_UNMAP => Event::Unmap,
            bindings::mmu_notifier_event_MMU_NOTIFY_CLEAR => Event::Clear,
            bindings::mmu_notifier_event_MMU_NOTIFY_PROTECTION_VMA => Event::ProtectionVma,
            bindings::mmu_notifier_event_MMU_NOTIFY_PROTECTION_PAGE => Event::ProtectionPage,
            bindings::mmu_notifier_event_MMU_NOTIFY_SOFT_DIRTY => Event::SoftDirty,
            bindings::mmu_notifier_event_MMU_NOTIFY_RELEASE => Event::Release,
            bindings::mmu_notifier_event_MMU_NOTIFY_MIGRATE => Event::Migrate,
            bindings::mmu_notifier_event_MMU_NOTIFY_EXCLUSIVE => Event::Exclusive,
            _ => Event::Other,
        }
    }

    /// Returns whether the change is a migration, or an exclusive access, by this owner.
    pub fn is_by(&self, owner: &Owner) -> bool {
        matches!(self.event(), Event::Migrate | Event::Exclusive) && self.0.owner == owner.as_ptr()
    }

    /// Returns whether the callback may sleep, for example to wait for a lock.
    pub fn is_blockable(&self) -> bool {
        // SAFETY: mm passes a valid range to the callback, and `self` borrows it.
        unsafe { bindings::mmu_notifier_range_blockable(self.0) }
    }
}

/// A point in time between two changes to the page tables: data read after it is current as long as
/// [`lock_if_unchanged`](Notifier::lock_if_unchanged) accepts it.
#[derive(Clone, Copy)]
pub struct Sequence(pub(crate) usize);

/// The data that the update lock protects.
struct Guarded<T> {
    value: T,
    /// Set while a change is between its two passes.
    is_finishing: bool,
}

/// Data that depends on the page tables of an address space, and the update lock that protects it.
///
/// Each change to the page tables in the interval, whatever its cause, sets the sequence and calls
/// [`Invalidate::invalidate`] with the lock held exclusively; users cannot forget either.
///
/// # Invariants
///
/// `raw` is inserted into the interval tree of an address space from initialisation until drop.
///
/// # Examples
///
/// ```
/// # use hmm::interval::{Invalidate, Notifier};
/// fn look<T: Invalidate>(notifier: &Notifier<T>, look: impl Fn() -> usize, note: fn(&mut T,
/// usize)) {
///     loop {
///         let seq = notifier.read_begin();
///         let seen = look();
///         if let Some(mut state) = notifier.lock_if_unchanged(seq) {
///             return note(&mut state, seen);
///         }
///     }
/// }
/// ```
#[pin_data(PinnedDrop)]
#[repr(C)]
pub struct Notifier<T: Invalidate> {
    // First, so that the pointer that C holds also points to the whole struct.
    #[pin]
    raw: Opaque<bindings::mmu_interval_notifier>,
    /// The link that C uses between the two passes; it belongs to C while `is_finishing` is set.
    #[pin]
    finish: Opaque<bindings::mmu_interval_notifier_finish>,
    #[pin]
    state: RwSemaphore<Guarded<T>>,
}

// SAFETY: Any thread may remove the notifier; C synchronises it internally.
unsafe impl<T: Invalidate> Send for Notifier<T> {}
// SAFETY: C synchronises the notifier internally; the state is `Send` and `Sync`, and under a lock.
unsafe impl<T: Invalidate> Sync for Notifier<T> {}

impl<T: Invalidate> Notifier<T> {
    /// Creates a notifier that listens to changes in `interval` (bytes, page aligned, the end
    /// exclusive) of an address space, from initialisation to drop. It keeps a reference to the
    /// `mm_struct`, but not to its users (`mm_count`, not `mm_users`).
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
        state: impl Init<T> + 'a,
    ) -> impl PinInit<Self, Error> + 'a {
        Self::insert(mm, interval, state, &Callbacks::<T>::ONE_PASS)
    }

    fn insert<'a>(
        mm: &'a MmWithUser,
        interval: Range<usize>,
        value: impl Init<T> + 'a,
        ops: &'static bindings::mmu_interval_notifier_ops,
    ) -> impl PinInit<Self, Error> + 'a {
        let (name, key) = lock_class();
        let state = init!(Guarded {
            value <- value,
            is_finishing: false,
        });
        try_pin_init!(Self {
            state <- RwSemaphore::new(state, name, key),
            finish: Opaque::zeroed(),
            // Initialised last: the callback can run as soon as the notifier is inserted.
            raw <- Opaque::try_ffi_init(move |slot: *mut bindings::mmu_interval_notifier| {
                // SAFETY: `slot` is valid and stays in place until `mmu_interval_notifier_remove()`
                // in drop; `mm` keeps the users of the address space; the C function checks the
                // rest.
                to_result(unsafe {
                    bindings::mmu_interval_notifier_insert(
                        slot,
                        mm.as_raw(),
                        interval.start,
                        interval.end.wrapping_sub(interval.start),
                        ops,
                    )
                })
            }),
        }? Error)
    }

    /// Waits until no change is in progress, and returns the current sequence.
    ///
    /// May sleep. Must not be called with the update lock held or a folio locked: the task that
    /// makes the change may wait for either.
    ///
    /// C function: `mmu_interval_read_begin()`.
    pub fn read_begin(&self) -> Sequence {
        // SAFETY: The notifier is inserted, by the type invariant.
        Sequence(unsafe { bindings::mmu_interval_read_begin(self.raw.get()) })
    }

    /// Takes the update lock exclusively, to change the protected data.
    ///
    /// May sleep.
    pub fn lock(&self) -> Guard<'_, T> {
        Guard(self.state.write())
    }

    /// Takes the update lock, shared with other readers.
    ///
    /// May sleep. A task that holds the lock, shared or exclusive, must not take it again.
    pub fn lock_shared(&self) -> SharedGuard<'_, T> {
        SharedGuard(self.state.read())
    }

    /// Takes the update lock exclusively if nothing has changed since `seq`, and no change is in
    /// progress.
    ///
    /// May sleep.
    ///
    /// C function: `mmu_interval_read_retry()`.
    pub fn lock_if_unchanged(&self, seq: Sequence) -> Option<Guard<'_, T>> {
        let guard = self.lock();
        (!self.has_changed(&guard, seq)).then_some(guard)
    }

    /// Takes the update lock as [`lock_if_unchanged`](Self::lock_if_unchanged) does, but shared
    /// with other readers.
    ///
    /// May sleep.
    ///
    /// C function: `mmu_interval_read_retry()`.
    pub fn lock_shared_if_unchanged(&self, seq: Sequence) -> Option<SharedGuard<'_, T>> {
        let guard = self.lock_shared();
        (!self.has_changed(&guard, seq)).then_some(guard)
    }

    /// Returns whether something has changed since `seq`, or a change is in progress.
    fn has_changed<'n>(&'n self, _: &impl UpdateGuard<'n, State = T>, seq: Sequence) -> bool {
        // SAFETY: The notifier is inserted, by the type invariant. The update lock is held, shared
        // or exclusive; either excludes the callback, which sets the sequence under the exclusive
        // lock.
        unsafe { bindings::mmu_interval_read_retry(self.raw.get(), seq.0) }
    }

    /// Returns whether the notifier listens to this address space. Does not sleep.
    pub fn is_of(&self, mm: &MmWithUser) -> bool {
        // SAFETY: The notifier is inserted in an address space, and this member never changes.
        let own = unsafe { (*self.raw.get()).mm };
        own == mm.as_raw()
    }

    /// Returns whether the notifier receives each change to a range (bytes, the end exclusive).
    pub(crate) fn covers(&self, range: &Range<usize>) -> bool {
        // SAFETY: The notifier is inserted; its interval never changes, so reading it needs no
        // lock.
        let interval = unsafe { &(*self.raw.get()).interval_tree };
        !range.is_empty() && interval.start <= range.start && range.end - 1 <= interval.last
    }

    pub(crate) fn as_raw(&self) -> *mut bindings::mmu_interval_notifier {
        self.raw.get()
    }
}

impl<T: InvalidateTwoPass> Notifier<T> {
    /// Creates a notifier as [`new`](Self::new) does, for data that is invalidated in two passes.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    ///
    /// C function: `mmu_interval_notifier_insert()`.
    pub fn new_two_pass<'a>(
        mm: &'a MmWithUser,
        interval: Range<usize>,
        state: impl Init<T> + 'a,
    ) -> impl PinInit<Self, Error> + 'a {
        Self::insert(mm, interval, state, &Callbacks::<T>::TWO_PASS)
    }
}

/// Returns the name and the lockdep class of the update lock.
///
/// This is not part of a generic function: each crate would instantiate the code, and one lock
/// class would get several names, which lockdep rejects.
#[inline(never)]
fn lock_class() -> (&'static CStr, Pin<&'static LockClassKey>) {
    (c"interval::Notifier::state", kernel::static_lock_class!())
}

#[pinned_drop]
impl<T: Invalidate> PinnedDrop for Notifier<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: The notifier is inserted, by the type invariant, and removed once. This task
        // holds no update lock that the callback takes, because all guards borrow `self`.
        unsafe { bindings::mmu_interval_notifier_remove(self.raw.get()) };
    }
}

/// The tables of callbacks for a type of state.
struct Callbacks<T>(PhantomData<T>);

impl<T: Invalidate> Callbacks<T> {
    const ONE_PASS: bindings::mmu_interval_notifier_ops = bindings::mmu_interval_notifier_ops {
        invalidate: Some(Self::invalidate),
        invalidate_start: None,
        invalidate_finish: None,
    };

    /// Calls `with` with the update lock held and the sequence set, unless the lock is taken and
    /// the callback must not sleep. Returns whether it called `with`.
    ///
    /// # Safety
    ///
    /// The arguments are those of a callback for the notifier of a `Notifier<T>` that is inserted.
    unsafe fn update(
        notifier: *mut bindings::mmu_interval_notifier,
        range: *const bindings::mmu_notifier_range,
        seq: usize,
        with: impl FnOnce(&Notifier<T>, &mut Guarded<T>, &Invalidation<'_>),
    ) -> bool {
        let this: *const Notifier<T> = notifier.cast();
        // SAFETY: The notifier is the first field of a `repr(C)` struct. Drop removes the notifier
        // before that struct goes away.
        let this = unsafe { &*this };
        // SAFETY: mm passes a range that is valid until the callback returns.
        let event = Invalidation(unsafe { &*range });
        let mut state = if event.is_blockable() {
            this.state.write()
        } else {
            match this.state.try_write() {
                Some(state) => state,
                None => return false,
            }
        };
        // SAFETY: This is the callback, and it holds exclusively the lock under which readers check
        // the sequence.
        unsafe { bindings::mmu_interval_set_seq(notifier, seq) };
        with(this, &mut state, &event);
        true
    }

    /// # Safety
    ///
    /// mm calls this for the notifier of a `Notifier<T>` that is inserted.
    unsafe extern "C" fn invalidate(
        notifier: *mut bindings::mmu_interval_notifier,
        range: *const bindings::mmu_notifier_range,
        seq: usize,
    ) -> bool {
        // SAFETY: These are the arguments of this callback, by the safety requirement.
        unsafe {
            Self::update(notifier, range, seq, |_, state, event| {
                state.value.invalidate(event)
            })
        }
    }
}

impl<T: InvalidateTwoPass> Callbacks<T> {
    const TWO_PASS: bindings::mmu_interval_notifier_ops = bindings::mmu_interval_notifier_ops {
        invalidate: Some(Self::invalidate),
        invalidate_start: Some(Self::invalidate_start),
        invalidate_finish: Some(Self::invalidate_finish),
    };

    /// # Safety
    ///
    /// mm calls this for the notifier of a `Notifier<T>` that is inserted; `finish` is valid.
    unsafe extern "C" fn invalidate_start(
        notifier: *mut bindings::mmu_interval_notifier,
        range: *const bindings::mmu_notifier_range,
        seq: usize,
        finish: *mut *mut bindings::mmu_interval_notifier_finish,
    ) -> bool {
        let begin = |this: &Notifier<T>, state: &mut Guarded<T>, event: &Invalidation<'_>| {
            if state.is_finishing || !event.is_blockable() {
                // C still uses the link for another change, or the second pass must not wait.
                state.value.invalidate(event);
            } else if state.value.invalidate_start(event) {
                state.is_finishing = true;
                // SAFETY: `finish` is valid, by the safety requirement. The link belongs to C until
                // it calls the second pass.
                unsafe { *finish = this.finish.get() };
            }
        };
        // SAFETY: These are the arguments of this callback, by the safety requirement.
        unsafe { Self::update(notifier, range, seq, begin) }
    }

    /// # Safety
    ///
    /// mm calls this once, with the link that `invalidate_start` returned, while the notifier is
    /// inserted.
    unsafe extern "C" fn invalidate_finish(finish: *mut bindings::mmu_interval_notifier_finish) {
        // SAFETY: `finish` is valid, and C has set this member.
        let this: *const Notifier<T> = unsafe { (*finish).notifier }.cast();
        // SAFETY: The notifier is the first field of a `repr(C)` struct. Drop keeps that struct in
        // place until the notifier is removed, and the removal waits for this callback.
        let this = unsafe { &*this };
        let mut state = this.state.write();
        state.value.invalidate_finish();
        state.is_finishing = false;
    }
}
