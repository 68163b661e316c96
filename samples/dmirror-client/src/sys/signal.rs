// SPDX-License-Identifier: GPL-2.0

//! Signal handlers, and the stack on which they run.

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
    // ORDERING: Relaxed: the count publishes no other data.
    COUNTED.fetch_add(1, Ordering::Relaxed);
}

/// The effect of a signal on the system calls that it interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// They restart, if they can.
    Yes,
    /// They fail with `EINTR`.
    No,
}

/// Makes this process count each `signal` from now on, and continue; on the stack of
/// [`use_signal_stack`] if `on_stack`.
///
/// # Errors
///
/// The error of sigaction.
pub fn count_signals(signal: Signal, on_stack: bool) -> io::Result<()> {
    let mut flags = SaFlags::SA_RESTART;
    flags.set(SaFlags::SA_ONSTACK, on_stack);
    count_with(signal, flags)
}

/// Does the same as [`count_signals`], on the ordinary stack; `restart` determines what happens to
/// interrupted system calls.
///
/// # Errors
///
/// The error of sigaction.
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
    // SAFETY: The handler only performs an atomic addition.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

/// Restores the default action of `signal` in this process: the Rust runtime handles SIGBUS and
/// SIGSEGV first, and lets the program retry once.
///
/// # Errors
///
/// The error of sigaction.
pub fn default_signal(signal: Signal) -> io::Result<()> {
    let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: No code of this process runs for the signal.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

/// Returns the number of counted signals.
pub fn signals_counted() -> u32 {
    // ORDERING: Relaxed: the count publishes no other data.
    COUNTED.load(Ordering::Relaxed)
}

/// Makes `region` the signal stack of this thread, permanently, and returns its range.
///
/// # Errors
///
/// The error of sigaltstack: `ENOMEM` if it is too small.
pub fn use_signal_stack(region: Region) -> io::Result<PageRange> {
    // The thread may need it as long as it lives, so it is never unmapped.
    let region = ManuallyDrop::new(region);
    let stack = libc::stack_t {
        ss_sp: region.addr() as *mut libc::c_void,
        ss_flags: 0,
        ss_size: region.len(),
    };
    // SAFETY: The region is mapped, readable and writable, and nothing else uses it, because this
    // function has consumed it.
    Errno::result(unsafe { libc::sigaltstack(&stack, null_mut()) })?;
    Ok(region.range())
}
