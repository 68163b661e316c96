// SPDX-License-Identifier: GPL-2.0

//! `dmirror advise`: tells the devices that a process has open where its memory should be. Each
//! open file has its own advice, so this program takes over the process's files for a moment.

use std::io::Write;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use clap::Args;
use clap::ValueEnum;
use dmirror_client::advice;
use dmirror_client::advice::Change;
use dmirror_client::advice::Target;
use dmirror_client::map::ProcessMap;
use dmirror_client::node::OpenFile;
use dmirror_client::node::Users;

use crate::needs;
use crate::ranges;
use crate::ranges::Part;

/// The arguments of `dmirror advise`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The process, which has a device open
    pid: i32,

    /// Its memory
    #[arg(help = ranges::HELP)]
    range: Part,

    /// Where the memory should be
    #[arg(long, value_enum)]
    location: Option<Place>,

    /// What engines do to access memory that the device has not mapped
    #[arg(long, value_enum)]
    access: Option<Access>,

    /// Where engines make atomic operations
    #[arg(long, value_enum)]
    atomics: Option<Atomics>,

    /// How many bytes move at once: a power of two, a page to a huge page; 0 is the default
    #[arg(long, value_name = "BYTES")]
    granule: Option<u32>,

    /// Take back all that was advised
    #[arg(long, conflicts_with_all = ["location", "access", "atomics", "granule"])]
    forget: bool,

    /// Tell this device only: N of /dev/hmm_dmirrorN
    #[arg(long, value_name = "N")]
    device: Option<u32>,
}

/// The preferred location of memory.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Place {
    /// The policy of the device decides
    Default,
    /// In system memory
    System,
    /// On the device
    Device,
}

/// The way in which engines access memory.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Access {
    /// The policy of the device decides
    Default,
    /// It moves to where it should be
    Migrate,
    /// They use it where it is
    InPlace,
    /// Not at all: jobs that want it fail
    None,
}

/// The place of atomic operations.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Atomics {
    /// The policy of the device decides
    Default,
    /// On the device, to which the page moves
    Device,
    /// In system memory, where the page is
    System,
    /// Nowhere: jobs that use them fail
    None,
}

impl Arguments {
    /// Gives the advice to the devices, and prints the advice that they then have.
    pub fn run(&self) -> Result<()> {
        needs::ours("advice")?;
        let change = self.change()?;
        let mut files = Users::look().context("/proc")?.files;
        files.retain(|file| {
            file.pid == self.pid
                && self
                    .device
                    .is_none_or(|number| file.node.number() == number)
        });
        if files.is_empty() {
            bail!(
                "process {} has no such device open, or you may not see it; advice is for jobs of \
                 the device files that a process has open (dmirror info shows them)",
                self.pid
            );
        }
        let map = ProcessMap::look(self.pid).context("cannot look at the process")?;
        let found = self.range.ranges(&map)?;
        for file in &files {
            let name = describe(file);
            let device = file.take_over();
            let device = device.with_context(|| format!("cannot take over {name}"))?;
            for range in &found {
                let told = device.advise(*range, change);
                told.with_context(|| format!("{name}: {:#x}-{:#x}", range.addr(), range.end()))?;
                let end = range.end();
                let now = device.advice_at(range.addr(), end);
                let now = now.with_context(|| name.clone())?;
                let (start, mut out) = (range.addr(), std::io::stdout());
                writeln!(out, "{name}: {start:x}-{:x}: {}", now.end, words(&now))?;
            }
        }
        Ok(())
    }

    fn change(&self) -> Result<Change<'static>> {
        if self.forget {
            return Ok(Change::back());
        }
        let mut change = Change::new();
        let said = [
            self.location.is_some(),
            self.access.is_some(),
            self.atomics.is_some(),
            self.granule.is_some(),
        ];
        if !said.contains(&true) {
            bail!("nothing is advised: say --location, --access, --atomics, --granule or --forget");
        }
        if let Some(place) = self.location {
            change = change.location(match place {
                Place::Default => Target::Default,
                Place::System => Target::System,
                Place::Device => Target::Device,
            });
        }
        if let Some(access) = self.access {
            change = change.access(match access {
                Access::Default => advice::Access::Default,
                Access::Migrate => advice::Access::Migrate,
                Access::InPlace => advice::Access::InPlace,
                Access::None => advice::Access::None,
            });
        }
        if let Some(atomics) = self.atomics {
            change = change.atomics(match atomics {
                Atomics::Default => advice::Atomics::Default,
                Atomics::Device => advice::Atomics::Device,
                Atomics::System => advice::Atomics::System,
                Atomics::None => advice::Atomics::None,
            });
        }
        if let Some(bytes) = self.granule {
            change = change.granule(bytes);
        }
        Ok(change)
    }
}

fn describe(file: &OpenFile) -> String {
    let path = file.node.path();
    format!("{} ({}), {}", file.program, file.pid, path.display())
}

/// Returns the advice in words.
fn words(now: &advice::Advised) -> String {
    let location = match now.location {
        advice::Location::Default => String::new(),
        advice::Location::System => "should be in system memory".to_owned(),
        advice::Location::Device(_) => "should be on the device".to_owned(),
        advice::Location::Peer(number) => format!("should be on device {number}"),
        advice::Location::Unknown(number) => format!("location {number}"),
    };
    let access = match now.access {
        advice::Access::Default => String::new(),
        advice::Access::Migrate => "engines move it".to_owned(),
        advice::Access::InPlace => "engines use it where it is".to_owned(),
        advice::Access::None => "engines must not access it".to_owned(),
        advice::Access::Unknown(number) => format!("access {number}"),
    };
    let atomics = match now.atomics {
        advice::Atomics::Default => String::new(),
        advice::Atomics::Device => "atomics on the device".to_owned(),
        advice::Atomics::System => "atomics in system memory".to_owned(),
        advice::Atomics::None => "no atomics".to_owned(),
        advice::Atomics::Unknown(number) => format!("atomics {number}"),
    };
    let granule = match now.granule {
        0 => String::new(),
        bytes => format!("granules of {}", crate::words::bytes(bytes.into())),
    };
    let parts: Vec<String> = [location, access, atomics, granule]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect();
    if parts.is_empty() {
        "the policy of the device decides".to_owned()
    } else {
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_told_in_words() {
        let nothing = advice::Advised::nothing(0x1000);
        assert_eq!(words(&nothing), "the policy of the device decides");
        let some = advice::Advised {
            location: advice::Location::Device(0),
            access: advice::Access::InPlace,
            granule: 65536,
            ..nothing
        };
        assert_eq!(
            words(&some),
            "should be on the device, engines use it where it is, granules of 64 KiB"
        );
    }
}
