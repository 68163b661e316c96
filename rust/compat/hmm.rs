// SPDX-License-Identifier: GPL-2.0

//! Replacements for features that a supported kernel may lack in Rust, see `lacks.mk`, for `hmm`
//! and drivers. Nearly all `cfg`s for that are here and in `emu.rs`; series.md names the others.

use kernel::{module_param::ModuleParamAccess, task::Task};

#[cfg(not(lacks_errno))]
pub use kernel::error::code::{ECANCELED, EOPNOTSUPP, ETIME};
#[cfg(not(lacks_spinlock_irq))]
pub use kernel::{new_spinlock_irq, sync::SpinLockIrq};

#[cfg(lacks_spinlock_irq)]
pub use self::spinlock_irq::{new_spinlock_irq, SpinLockIrq};

#[cfg(lacks_errno)]
pub use self::errno::*;

/// Error codes.
#[cfg(lacks_errno)]
mod errno {
    use core::mem::transmute;

    use kernel::error::Error;

    use crate::bindings;

    // SAFETY: In a series that lacks these, an `Error` is a `NonZero<c_int>` and nothing else. Its
    // value is a negated error number.
    pub const ECANCELED: Error = unsafe { transmute(-(bindings::ECANCELED as i32)) };

    // SAFETY: Such an `Error` is a `NonZero<c_int>`, see above, and the number is not zero.
    pub const EOPNOTSUPP: Error = unsafe { transmute(-(bindings::EOPNOTSUPP as i32)) };

    // SAFETY: Such an `Error` is a `NonZero<c_int>`, see above, and the number is not zero.
    pub const ETIME: Error = unsafe { transmute(-(bindings::ETIME as i32)) };
}

/// A spinlock that disables interrupts while it is held. Unlike those of the kernel crate, two such
/// locks must be released in the reverse order; the drivers here hold one at a time.
#[cfg(lacks_spinlock_irq)]
mod spinlock_irq {
    use kernel::ffi::{c_char, c_ulong};

    use kernel::sync::lock::{Backend, Lock};

    use crate::bindings;

    pub type SpinLockIrq<T> = Lock<T, SpinLockIrqBackend>;

    pub struct SpinLockIrqBackend;

    // SAFETY: The spinlock ensures mutual exclusion. `relock` is the default one, which locks as
    // `lock` does.
    unsafe impl Backend for SpinLockIrqBackend {
        type State = bindings::spinlock_t;
        /// The state of interrupts before the lock was taken.
        type GuardState = c_ulong;

        unsafe fn init(
            ptr: *mut Self::State,
            name: *const c_char,
            key: *mut bindings::lock_class_key,
        ) {
            // SAFETY: The pointer is valid for writes, and name and key are for ever, by the
            // contract of this function.
            unsafe { bindings::__spin_lock_init(ptr, name, key) }
        }

        unsafe fn lock(ptr: *mut Self::State) -> c_ulong {
            // SAFETY: The lock is initialised, by the contract of this function.
            unsafe { bindings::spin_lock_irqsave(ptr) }
        }

        unsafe fn try_lock(ptr: *mut Self::State) -> Option<c_ulong> {
            let mut flags = 0;
            // SAFETY: The lock is initialised, by the contract of this function.
            unsafe { bindings::spin_trylock_irqsave(ptr, &mut flags) }.then_some(flags)
        }

        unsafe fn unlock(ptr: *mut Self::State, flags: &c_ulong) {
            // SAFETY: The caller owns the lock, and `flags` are those of its `lock`.
            unsafe { bindings::spin_unlock_irqrestore(ptr, *flags) }
        }

        unsafe fn assert_is_held(ptr: *mut Self::State) {
            // SAFETY: The lock is initialised, by the contract of this function.
            unsafe { bindings::spin_assert_is_held(ptr) }
        }
    }

    /// Creates an initialiser of a [`SpinLockIrq`] with a new lock class.
    #[doc(hidden)]
    #[macro_export]
    macro_rules! new_spinlock_irq {
        ($inner:expr $(,)?) => {
            $crate::compat::SpinLockIrq::new(
                $inner,
                kernel::optional_name!(),
                kernel::static_lock_class!(),
            )
        };
    }
    pub use new_spinlock_irq;
}

/// Returns the value of a parameter of the module. Does not sleep.
#[cfg(not(lacks_parameter_copy))]
pub fn parameter<T: Copy>(parameter: &ModuleParamAccess<T>) -> T {
    parameter.value()
}

/// Returns the value of a parameter of the module. Does not sleep.
#[cfg(lacks_parameter_copy)]
pub fn parameter<T: Copy>(parameter: &ModuleParamAccess<T>) -> T {
    *parameter.value()
}

/// Returns the thread group of a task. Does not sleep.
#[cfg(not(lacks_tgid))]
pub fn tgid(task: &Task) -> i32 {
    task.tgid()
}

/// Returns the thread group of a task. Does not sleep.
#[cfg(lacks_tgid)]
pub fn tgid(task: &Task) -> i32 {
    // SAFETY: The task is valid, and the member does not change.
    unsafe { (*task.as_ptr()).tgid }
}
