// SPDX-License-Identifier: GPL-2.0

//! What is said when something does not work: what is wrong with this machine, and what to do.

use std::io;

use anyhow::Error;
use dmirror_client::Module;
use nix::unistd::geteuid;

/// How to load the module, for where it is wanted and not there.
pub const LOAD: &str = "Load it as root: modprobe dmirror if its package is installed, or else \
    insmod dmirror.ko (in the project's guest: load-module).";

/// Whether this is root.
fn is_root() -> bool {
    geteuid().is_root()
}

/// What to do about an error.
pub fn for_error(error: &Error) -> Vec<String> {
    let Some(cause) = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<io::Error>())
    else {
        return Vec::new();
    };
    let mut lines = Vec::new();
    match cause.kind() {
        io::ErrorKind::NotFound if Module::loaded().is_none() => {
            lines.push(format!("The module dmirror is not loaded. {LOAD}"));
        }
        io::ErrorKind::PermissionDenied if !is_root() => lines.push(
            "Devices, debugfs, tracefs and other users' processes are for root: use sudo. If the \
             package dmirror-tools is installed, members of the group dmirror may use devices."
                .to_owned(),
        ),
        _ => {}
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_another_kind_needs_no_advice() {
        assert_eq!(for_error(&Error::msg("wrong")), Vec::<String>::new());
        let busy = Error::from(io::Error::from(io::ErrorKind::ResourceBusy));
        assert_eq!(
            for_error(&busy.context("of a device")),
            Vec::<String>::new()
        );
    }
}
