// SPDX-License-Identifier: GPL-2.0

//! Advice for errors: their causes on this machine, and their remedies.

use std::io;

use anyhow::Error;
use dmirror_client::Module;
use nix::unistd::geteuid;

/// The advice to load the module, for programs that need it and do not find it.
pub const LOAD: &str = "Load it as root: modprobe dmirror if its package is installed, or else \
    insmod dmirror.ko (in the project's guest: load-module).";

/// Returns whether this process runs as root.
fn is_root() -> bool {
    geteuid().is_root()
}

/// Returns advice for an error, in lines of text; none if there is nothing to advise.
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
