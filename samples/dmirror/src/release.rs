// SPDX-License-Identifier: GPL-2.0

//! `dmirror release`: moves everything on a device back to system memory.

use std::io::Write;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use clap::Args;
use dmirror_client::CallError;
use dmirror_client::Device;
use dmirror_client::Errno;
use dmirror_client::node::nodes;

use crate::needs;
use crate::words;

/// The arguments of `dmirror release`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Bring back what is on this device only: N of /dev/hmm_dmirrorN
    #[arg(long, value_name = "N")]
    device: Option<u32>,
}

impl Arguments {
    /// Moves everything back, whoever owns it, and prints the number of pages.
    pub fn run(&self) -> Result<()> {
        needs::module()?;
        let chosen = match self.device {
            Some(number) => vec![needs::device(number)?],
            None => nodes().context("/dev")?,
        };
        let mut stayed = 0;
        for node in chosen {
            let path = node.path();
            let shown = path.display();
            let device = Device::open(&path).with_context(|| format!("cannot open {shown}"))?;
            let mut out = std::io::stdout();
            match device.release() {
                Ok(counts) => {
                    let pages = words::count(counts.pages, "page");
                    writeln!(out, "{shown}: {pages} came back")?;
                }
                Err(CallError {
                    errno: Errno::EBUSY,
                    counts,
                    ..
                }) => {
                    stayed += 1;
                    let pages = words::count(counts.unwrap_or_default().pages, "page");
                    writeln!(
                        out,
                        "{shown}: {pages} came back, some stayed: they are in use"
                    )?;
                }
                Err(error) => return Err(error).with_context(|| shown.to_string()),
            }
        }
        if stayed > 0 {
            bail!("not all pages came back; try again when what uses them has ended");
        }
        Ok(())
    }
}
