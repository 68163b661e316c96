// SPDX-License-Identifier: GPL-2.0

//! Trace events of a driver, which perf, trace-cmd and bpftrace can observe.
//!
//! C headers: `rust/helpers/dmirror_events.h`, which defines the fields of the events and the
//! meaning of the numbers in them, and
//! [`include/linux/tracepoint.h`](srctree/include/linux/tracepoint.h).
//!
//! An event is a struct, which [`emit`](Invalidate::emit) creates and passes to the listeners. If
//! there are none, this costs a static branch and nothing else: a `nop` if the kernel has
//! `CONFIG_JUMP_LABEL`. Code that has to collect data before the event asks
//! [`is_enabled`](Invalidate::is_enabled) first.
//!
//! The events are in a trace system with the module's name: each module links its own object that
//! defines them, see `rust/helpers/trace.c`. This crate emits [`DeviceFault`], [`CpuFault`] with
//! its [`Migrate`], and [`Invalidate`]; the driver emits the others, among them those of its
//! [`engine`]s.
//!
//! Events may be emitted in any context and under any lock: emitting neither sleeps nor allocates.

use core::ops::Range;

use hmm::{
    interval::Event,
    memremap::{Answer, FaultAnswer},
};
use kernel::{
    jump_label::static_branch_unlikely,
    macros::paste,
    page::PAGE_SIZE,
    prelude::*,
    time::{Instant, Monotonic},
};

use crate::{
    bindings,
    device::{DeviceOps, Emulated},
    table::Access,
};

/// The reason why pages move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Cause {
    /// A process asked for it.
    Request = bindings::DMIRROR_CAUSE_REQUEST,
    /// The device touched them.
    DeviceFault = bindings::DMIRROR_CAUSE_DEVICE_FAULT,
    /// A CPU touched them.
    CpuFault = bindings::DMIRROR_CAUSE_CPU_FAULT,
    /// The device needs space for other pages.
    Eviction = bindings::DMIRROR_CAUSE_EVICTION,
    /// A process asked for everything on the device to move back.
    Release = bindings::DMIRROR_CAUSE_RELEASE,
    /// The device is being removed.
    Unload = bindings::DMIRROR_CAUSE_UNLOAD,
}

/// The place of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Place {
    /// In system memory.
    System = bindings::DMIRROR_PLACE_SYSTEM,
    /// In device memory.
    Device = bindings::DMIRROR_PLACE_DEVICE,
}

impl Cause {
    /// All causes, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Request,
        Self::DeviceFault,
        Self::CpuFault,
        Self::Eviction,
        Self::Release,
        Self::Unload,
    ];
}

impl Place {
    fn other(self) -> Self {
        match self {
            Self::System => Self::Device,
            Self::Device => Self::System,
        }
    }
}

/// Defines `is_enabled()` and `emit()` for an event whose tracepoint has the given name in C and
/// takes the given arguments.
macro_rules! event {
    ($event:ident, $name:ident, |$this:ident| $($argument:expr),* $(,)?) => {
        impl $event {
            /// Returns whether anyone listens to the event: a static branch.
            #[inline(always)]
            pub fn is_enabled() -> bool {
                is_enabled!($name)
            }

            /// Creates the event and passes it to the listeners; only a static branch if there are
            /// none. Does not sleep.
            #[inline(always)]
            pub fn emit(make: impl FnOnce() -> Self) {
                if Self::is_enabled() {
                    let $this = make();
                    fire!($name, $($argument),*);
                }
            }
        }
    };
}

/// Evaluates to true if anyone listens to the tracepoint with a given name.
macro_rules! is_enabled {
    ($name:ident) => {
        paste! {{
            #[cfg(CONFIG_TRACEPOINTS)]
            // SAFETY: The key belongs to a tracepoint that `rust/helpers/trace.c` defines in this
            // module, so it lives as long as this code; modpost rejects a module without it.
            let is_enabled = unsafe {
                static_branch_unlikely!(
                    bindings::[< __tracepoint_ $name >],
                    bindings::tracepoint,
                    key
                )
            };
            #[cfg(not(CONFIG_TRACEPOINTS))]
            let is_enabled = false;
            is_enabled
        }}
    };
}

/// Passes an event to the listeners of the tracepoint with a given name.
macro_rules! fire {
    ($name:ident, $($argument:expr),*) => {
        paste! {
            #[cfg(CONFIG_TRACEPOINTS)]
            // SAFETY: The arguments are numbers without restrictions; a tracepoint may be called in
            // any context.
            unsafe { bindings::[< rust_do_trace_ $name >]($($argument),*) };
            #[cfg(not(CONFIG_TRACEPOINTS))]
            let _ = ($($argument,)*);
        }
    };
}

// Declared after the macros, which this module uses.
pub mod engine;

fn errno(error: Option<Error>) -> i32 {
    error.map_or(0, Error::to_errno)
}

/// One migration: `migrate_begin` and `migrate_end`.
#[derive(Clone, Debug)]
pub struct Migrate {
    /// The number of the device.
    pub device: u32,
    /// The addresses, in bytes, page aligned. The range begins at 0 if the pages are those of a
    /// block of the device, no matter who maps them. For a CPU fault, it is the range that the
    /// touched entry maps: the window is chosen later, so more pages may move.
    pub range: Range<usize>,
    /// The order of the largest folio that may move as a whole, if the range has that many pages.
    pub order: u32,
    /// The place to which the pages move.
    pub to: Place,
    /// The reason why the pages move.
    pub cause: Cause,
}

impl Migrate {
    /// Returns whether anyone listens to the begin or the end event: two static branches.
    #[inline(always)]
    pub fn is_enabled() -> bool {
        is_enabled!(migrate_begin) || is_enabled!(migrate_end)
    }

    /// Calls `pass`, and emits the begin and the end events; `outcome` returns the number of pages
    /// that moved, and the error that kept others from moving. Costs two static branches if nobody
    /// listens.
    #[inline(always)]
    pub fn trace<R>(
        make: impl Fn() -> Self,
        pass: impl FnOnce() -> R,
        outcome: impl FnOnce(&R) -> (usize, Option<Error>),
    ) -> R {
        if is_enabled!(migrate_begin) {
            make().begin();
        }
        let result = pass();
        if is_enabled!(migrate_end) {
            let (moved, error) = outcome(&result);
            make().end(moved, error);
        }
        result
    }

    fn order(&self) -> u32 {
        let npages = self.range.len() / PAGE_SIZE;
        if npages >> self.order == 0 {
            return 0;
        }
        self.order
    }

    fn begin(&self) {
        fire!(
            migrate_begin,
            self.device,
            self.range.start,
            self.range.len() / PAGE_SIZE,
            self.order(),
            self.to.other() as u32,
            self.to as u32,
            self.cause as u32
        );
    }

    fn end(&self, moved: usize, error: Option<Error>) {
        fire!(
            migrate_end,
            self.device,
            self.range.start,
            self.range.len() / PAGE_SIZE,
            self.order(),
            self.to.other() as u32,
            self.to as u32,
            self.cause as u32,
            moved,
            errno(error)
        );
    }
}

/// The device faulted pages in.
#[derive(Clone, Debug)]
pub struct DeviceFault {
    /// The number of the device.
    pub device: u32,
    /// The addresses, in bytes, page aligned.
    pub range: Range<usize>,
    /// The access that the device needs.
    pub access: Access,
    /// The error because of which not all pages are mapped for the device.
    pub error: Option<Error>,
}

event!(
    DeviceFault,
    device_fault,
    |this| this.device,
    this.range.start,
    this.range.len() / PAGE_SIZE,
    match this.access {
        Access::Read => bindings::DMIRROR_ACCESS_READ,
        Access::Write => bindings::DMIRROR_ACCESS_WRITE,
        Access::Exclusive => bindings::DMIRROR_ACCESS_EXCLUSIVE,
    },
    errno(this.error),
);

/// A CPU touched a page on the device.
#[derive(Clone, Debug)]
pub struct CpuFault {
    /// The number of the device.
    pub device: u32,
    /// The address of the touched page, in bytes, page aligned.
    pub address: usize,
    /// The pages that were to move back together, in bytes, page aligned: the window.
    pub window: Range<usize>,
    /// Number of pages that moved.
    pub moved: usize,
    /// The driver's answer.
    pub answer: Answer,
}

event!(
    CpuFault,
    cpu_fault,
    |this| this.device,
    this.address,
    this.window.start,
    this.window.len() / PAGE_SIZE,
    this.moved,
    match this.answer {
        Answer::Retry => bindings::DMIRROR_ANSWER_RETRY,
        Answer::OutOfMemory => bindings::DMIRROR_ANSWER_OUT_OF_MEMORY,
        Answer::BusError => bindings::DMIRROR_ANSWER_BUS_ERROR,
    },
);

impl CpuFault {
    /// Answers a CPU fault on a page of device number `device`, and emits the events.
    pub(crate) fn trace<T: DeviceOps>(
        device: u32,
        fault: hmm::memremap::CpuFault<'_, Emulated<T>>,
        answer: impl FnOnce(hmm::memremap::CpuFault<'_, Emulated<T>>) -> FaultAnswer,
    ) -> FaultAnswer {
        let (address, npages) = (fault.address(), fault.npages());
        let bytes = npages * PAGE_SIZE;
        let start = address & !(bytes - 1);
        let window = start..start + bytes;
        let migrate = || Migrate {
            device,
            range: window.clone(),
            order: npages.ilog2(),
            to: Place::System,
            cause: Cause::CpuFault,
        };
        let outcome = |answer: &FaultAnswer| (answer.moved(), answer.error());
        let answer = Migrate::trace(migrate, || answer(fault), outcome);
        Self::emit(|| Self {
            device,
            address,
            window: answer.range(),
            moved: answer.moved(),
            answer: answer.kind(),
        });
        answer
    }
}

/// The page tables of a process have changed, so the device has lost pages.
#[derive(Clone, Debug)]
pub struct Invalidate {
    /// The number of the device.
    pub device: u32,
    /// The addresses, in bytes, page aligned.
    pub range: Range<usize>,
    /// The reason why they change.
    pub event: Event,
    /// True if the change is a migration, or an exclusive access, for this device.
    pub is_own: bool,
    /// Number of pages that the device had mapped.
    pub cleared: usize,
}

event!(
    Invalidate,
    invalidate,
    |this| this.device,
    this.range.start,
    this.range.len() / PAGE_SIZE,
    match this.event {
        Event::Unmap => bindings::mmu_notifier_event_MMU_NOTIFY_UNMAP as i32,
        Event::Clear => bindings::mmu_notifier_event_MMU_NOTIFY_CLEAR as i32,
        Event::ProtectionVma => bindings::mmu_notifier_event_MMU_NOTIFY_PROTECTION_VMA as i32,
        Event::ProtectionPage => bindings::mmu_notifier_event_MMU_NOTIFY_PROTECTION_PAGE as i32,
        Event::SoftDirty => bindings::mmu_notifier_event_MMU_NOTIFY_SOFT_DIRTY as i32,
        Event::Release => bindings::mmu_notifier_event_MMU_NOTIFY_RELEASE as i32,
        Event::Migrate => bindings::mmu_notifier_event_MMU_NOTIFY_MIGRATE as i32,
        Event::Exclusive => bindings::mmu_notifier_event_MMU_NOTIFY_EXCLUSIVE as i32,
        _ => -1,
    },
    this.is_own,
    this.cleared,
);

/// Pages of a block of the device had to go back to system memory.
#[derive(Clone)]
pub struct Evict {
    /// The number of the device.
    pub device: u32,
    /// The number of the block.
    pub block: usize,
    /// The reason why they are evicted.
    pub cause: Cause,
    /// Number of pages that moved back.
    pub moved: usize,
    /// Number of pages that are still in use.
    pub left: usize,
    /// The error that kept them.
    pub error: Option<Error>,
    /// The time when the eviction began.
    pub start: Instant<Monotonic>,
}

event!(
    Evict,
    evict,
    |this| this.device,
    this.block,
    this.cause as u32,
    this.moved,
    this.left,
    errno(this.error),
    // CAST: Monotonic time does not go backwards, so the elapsed time is not negative.
    this.start.elapsed().as_nanos() as u64,
);

/// The device got exclusive access to pages, or tried to.
#[derive(Clone, Debug)]
pub struct Exclusive {
    /// The number of the device.
    pub device: u32,
    /// The addresses, in bytes, page aligned.
    pub range: Range<usize>,
    /// Number of pages that became exclusive, counted from the start.
    pub made: usize,
    /// The error that kept more pages from becoming exclusive.
    pub error: Option<Error>,
}

event!(
    Exclusive,
    exclusive,
    |this| this.device,
    this.range.start,
    this.range.len() / PAGE_SIZE,
    this.made,
    errno(this.error),
);

/// A migration to the device reserved pages of the device before it began.
#[derive(Clone, Debug)]
pub struct Reserve {
    /// The number of the device.
    pub device: u32,
    /// True if it requested a block.
    pub block: bool,
    /// Number of small pages that it requested.
    pub pages: usize,
    /// True if other pages were to be evicted if none was free.
    pub evict: bool,
    /// Number of pages that it got.
    pub got: usize,
    /// The error because of which it got none.
    pub error: Option<Error>,
}

event!(
    Reserve,
    reserve,
    |this| this.device,
    this.block,
    this.pages,
    this.evict,
    this.got,
    errno(this.error),
);
