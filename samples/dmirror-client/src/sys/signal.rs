// SPDX-License-Identifier: GPL-2.0

//! Signals that are handled, and the stack on which they are.

use std::io;
use std::mem::ManuallyDrop;
use std::ptr::null_mut;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::SaFlags;
use nix::sys::signal::SigAction;
use nix::sys::signal::SigHandler;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;
use nix::sys::signal::sigaction;

use crate::range::PageRange;
use crate::region::Region;

static COUNTED: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_signal: libc::c_int) {
    // ORDERING: nothing is published through the count.
    COUNTED.fetch_add(1, Ordering::Relaxed);
}

/// Whether system calls that a signal has interrupted begin again, where they can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// They do.
    Yes,
    /// They end.
    No,
}

/// Has this process count each `signal` from now on, and go on; on the stack of
/// [`use_signal_stack`] if `on_stack`.
///
/// # Errors
///
/// What sigaction fails with.
pub fn count_signals(signal: Signal, on_stack: bool) -> io::Result<()> {
    let mut flags = SaFlags::SA_RESTART;
    flags.set(SaFlags::SA_ONSTACK, on_stack);
    count_with(signal, flags)
}

/// As [`count_signals`], on the ordinary stack; `restart` says what becomes of system calls.
///
/// # Errors
///
/// What sigaction fails with.
pub fn count_signals_as(signal: Signal, restart: Restart) -> io::Result<()> {
    count_with(
        signal,
        match restart {
            Restart::Yes => SaFlags::SA_RESTART,
            Restart::No => SaFlags::empty(),
        },
    )
}

fn count_with(signal: Signal, flags: SaFlags) -> io::Result<()> {
    let action = SigAction::new(SigHandler::Handler(count), flags, SigSet::empty());
    // SAFETY: the handler does no more than an atomic addition.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

/// Has `signal` do to this process what it does by default: the runtime of Rust
/// looks at SIGBUS and SIGSEGV first, and lets the program try again once.
///
/// # Errors
///
/// What sigaction fails with.
pub fn default_signal(signal: Signal) -> io::Result<()> {
    let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: no code of this process runs for the signal.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

/// How many signals have been counted.
pub fn signals_counted() -> u32 {
    // ORDERING: nothing is published through the count.
    COUNTED.load(Ordering::Relaxed)
}

/// Makes `region` the stack for signals of this thread, for good, and says where
/// it is.
///
/// # Errors
///
/// What sigaltstack fails with: `ENOMEM` if it is too small.
pub fn use_signal_stack(region: Region) -> io::Result<PageRange> {
    // The thread may need it as long as it lives, so it is never unmapped.
    let region = ManuallyDrop::new(region);
    let stack = libc::stack_t {
        ss_sp: region.addr() as *mut libc::c_void,
        ss_flags: 0,
        ss_size: region.len(),
    };
    // SAFETY: the region is mapped and readable and writable; nothing else uses
    // it, since it was given away.
    Errno::result(unsafe { libc::sigaltstack(&stack, null_mut()) })?;
    Ok(region.range())
}
