// SPDX-License-Identifier: GPL-2.0

//! Questions to the host: a line of output, which is a comment in KTAP, and a line of input.

use std::io;
use std::io::BufRead;
use std::io::Write;
use std::os::fd::AsFd;

use anyhow::Result;
use anyhow::bail;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;

/// The prefix of a question.
pub(crate) const QUESTION: &str = "# host: ";

/// The time limit for an answer of the host, in milliseconds.
const PATIENCE: u16 = 60_000;

/// Asks the host, and returns the rest of its answer after `ok`.
pub(crate) fn host(question: &str) -> Result<String> {
    let mut out = io::stdout().lock();
    writeln!(out, "{QUESTION}{question}")?;
    out.flush()?;
    let stdin = io::stdin();
    let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    if poll(&mut fds, PollTimeout::from(PATIENCE))? == 0 {
        bail!("the host says nothing");
    }
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    match answer.trim_end().strip_prefix("ok") {
        Some(rest) => Ok(rest.trim_start().to_owned()),
        None => bail!("{question}: the host says: {}", answer.trim_end()),
    }
}
