// SPDX-License-Identifier: GPL-2.0

//! Hooks for tests into the operations of `hmm`.

use hmm::memremap::{Hooks, SyncPoint};
use kernel::{
    prelude::*,
    sync::{
        atomic::{ordering::Relaxed, Atomic},
        Arc,
    },
};

use crate::inject::{Injection, Site};

/// The hooks of the tests into the operations of `hmm`.
pub(crate) struct TestHooks {
    injection: Arc<Injection>,
    /// Set if the next allocation is to fail.
    fail_next: Atomic<bool>,
}

impl TestHooks {
    /// Creates hooks that follow the files of `injection`.
    pub(crate) fn new(injection: Arc<Injection>) -> Self {
        Self {
            injection,
            fail_next: Atomic::new(false),
        }
    }

    /// Sets whether the next allocation is to fail.
    pub(crate) fn set_fail_next(&self, fail: bool) {
        // ORDERING: Relaxed: the flag orders no other memory access.
        self.fail_next.store(fail, Relaxed);
    }

    /// Returns whether this allocation is to fail. Returns true to only one caller.
    pub(crate) fn fails_now(&self) -> bool {
        // ORDERING: Relaxed: the flag orders no other memory access. It is read first, so that not
        // every allocation writes to its cache line.
        self.fail_next.load(Relaxed) && self.fail_next.xchg(false, Relaxed)
    }
}

impl Hooks for TestHooks {
    fn sync_point(&self, point: SyncPoint) {
        self.injection.delay(point);
    }

    fn should_fail_alloc(&self, _order: u32) -> Result {
        if self.fails_now() {
            return Err(EAGAIN);
        }
        if self.injection.fails(Site::SystemAlloc) {
            return Err(ENOMEM);
        }
        Ok(())
    }

    fn may_fail_copies(&self, to_device: bool) -> bool {
        self.injection.is_on(copy_site(to_device))
    }

    fn should_fail_copy(&self, to_device: bool) -> Result {
        if self.injection.fails(copy_site(to_device)) {
            return Err(EIO);
        }
        Ok(())
    }
}

fn copy_site(to_device: bool) -> Site {
    if to_device {
        Site::CopyIn
    } else {
        Site::CopyOut
    }
}
