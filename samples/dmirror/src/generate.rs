// SPDX-License-Identifier: GPL-2.0

//! Completions and manual pages, generated from the arguments of this program.

use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use clap::Args;
use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::Arguments;

/// The arguments of `dmirror completions`.
#[derive(Args, Debug)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    /// Prints the completions.
    pub fn run(&self) -> Result<()> {
        let mut text = Vec::new();
        let mut command = Arguments::command();
        clap_complete::generate(self.shell, &mut command, "dmirror", &mut text);
        Ok(io::Write::write_all(&mut io::stdout(), &text)?)
    }
}

/// The arguments of `dmirror man`.
#[derive(Args, Debug)]
pub struct Man {
    /// The folder for the pages, such as /usr/local/share/man/man1; it is made if it is not there
    folder: PathBuf,
}

impl Man {
    /// Writes a page for the program and one for each subcommand.
    pub fn run(&self) -> Result<()> {
        let shown = || self.folder.display().to_string();
        fs::create_dir_all(&self.folder).with_context(shown)?;
        clap_mangen::generate_to(Arguments::command(), &self.folder).with_context(shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_each_subcommand() {
        let name = format!("dmirror-man-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let man = Man {
            folder: folder.clone(),
        };
        man.run().unwrap();
        for command in Arguments::command().get_subcommands() {
            let page = folder.join(format!("dmirror-{}.1", command.get_name()));
            let text = fs::read_to_string(&page).unwrap();
            assert!(text.contains(".SH NAME"), "{}", page.display());
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
