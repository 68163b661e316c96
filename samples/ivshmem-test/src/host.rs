// SPDX-License-Identifier: GPL-2.0

//! The host's side: answers questions about the file that is the device's memory.
//!
//! | question | the host |
//! | --- | --- |
//! | `size` | says how many data pages there are |
//! | `holds PID N` | checks that a process has N pages, by the directory and by each byte |
//! | `zeroes PID N` | the same for pages of zeroes |
//! | `used N` | checks that N pages have an owner |
//! | `released` | checks that no driver uses the memory |
//! | `lose`, `restore` | makes the driver believe that the device has gone, or is back |
//! | `unplug`, `plug` | takes the device out of its slot, or puts it in again |
//! | `unplug second`, `plug second` | the same with another one, in another slot |
//!
//! An answer is `ok`, with a value for some questions, or a description of the error.

use std::env;
use std::fs::File;
use std::io;
use std::io::BufRead;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;

use crate::abi;
use crate::abi::Layout;
use crate::ask::QUESTION;
use crate::monitor::Monitor;
use crate::pattern;

/// The time limit for a condition that becomes true soon, such as the end of a process.
const PATIENCE: Duration = Duration::from_secs(20);

/// Answers the questions of a guest, until the guest ends.
pub(crate) fn answer() -> Result<()> {
    let path = env::var("IVSHMEM_FILE").context("IVSHMEM_FILE")?;
    let mut host = None;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let Some(question) = line.trim_end().strip_prefix(QUESTION) else {
            continue;
        };
        let host = match &mut host {
            Some(host) => host,
            // QEMU creates the file when it starts, which is before the guest asks.
            none => none.insert(Host::new(&path)?),
        };
        match host.answer(question) {
            Ok(answer) => println!("ok {answer}"),
            Err(error) => println!("{error:#}"),
        }
        io::stdout().flush()?;
    }
    Ok(())
}

struct Host {
    path: String,
    file: File,
}

impl Host {
    fn new(path: &str) -> Result<Self> {
        let file = File::options().read(true).write(true).open(path);
        let file = file.with_context(|| path.to_owned())?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    fn answer(&self, question: &str) -> Result<String> {
        let words: Vec<&str> = question.split_whitespace().collect();
        match words[..] {
            ["size"] => {
                return Ok(self.layout()?.npages.to_string());
            }
            ["holds", pid, count] => {
                let (pid, count) = (pid.parse()?, count.parse()?);
                eventually(|| {
                    self.check_pages(pid, count, |page, address| {
                        pattern::is_pattern(page, pid, address)
                    })
                })?;
            }
            ["zeroes", pid, count] => {
                let (pid, count) = (pid.parse()?, count.parse()?);
                eventually(|| {
                    self.check_pages(pid, count, |page, _| page.iter().all(|&byte| byte == 0))
                })?;
            }
            ["used", count] => {
                let count = count.parse()?;
                eventually(|| self.check_used(count))?;
            }
            ["released"] => {
                let magic = self.word(0)?;
                ensure!(magic == 0, "the memory begins with {magic:#x}");
            }
            ["lose"] => self.file.write_all_at(&u64::MAX.to_le_bytes(), 0)?,
            ["restore"] => self.file.write_all_at(&abi::MAGIC.to_le_bytes(), 0)?,
            ["unplug"] => Monitor::connect()?.unplug("ivshmem")?,
            ["plug"] => {
                // QEMU does not give memory that one device has had to another.
                let mut monitor = Monitor::connect()?;
                monitor.remove_memory("memory")?;
                let bytes = self.file.metadata()?.len();
                monitor.add_memory_file("memory", bytes, &self.path)?;
                monitor.plug("ivshmem", "memory", "ivshmem-port")?;
            }
            ["unplug", "second"] => Monitor::connect()?.unplug("second")?,
            ["plug", "second"] => {
                let mut monitor = Monitor::connect()?;
                monitor.add_memory("second-memory", 1 << 20)?;
                monitor.plug("second", "second-memory", "second-port")?;
            }
            _ => bail!("what is '{question}'?"),
        }
        Ok(String::new())
    }

    fn word(&self, offset: usize) -> Result<u64> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, offset as u64)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Returns the layout of the memory; fails unless the driver has written it there.
    fn layout(&self) -> Result<Layout> {
        let header = [
            self.word(0)?,
            self.word(abi::NPAGES_AT)?,
            self.word(abi::DATA_AT)?,
        ];
        let page_size = self.word(abi::PAGE_SIZE_AT)? as usize;
        ensure!(
            [4096, 16384, 65536].contains(&page_size),
            "the memory begins with {header:x?}, and is for pages of {page_size} bytes"
        );
        let bytes = self.file.metadata()?.len() as usize;
        let layout = Layout::new(bytes, page_size).context("the file is too small")?;
        let Layout { npages, data, .. } = layout;
        ensure!(
            header == [abi::MAGIC, npages as u64, data as u64],
            "the memory begins with {header:x?}; a file of this size should have {npages} pages from {data:#x} on"
        );
        Ok(layout)
    }

    /// Returns the entries of the directory in use: page, process and address in the process.
    fn used(&self) -> Result<Vec<(usize, u64, u64)>> {
        let layout = self.layout()?;
        let mut bytes = vec![0; layout.data];
        self.file.read_exact_at(&mut bytes, 0)?;
        let number = |at: usize| {
            let bytes = bytes[at..at + 8].iter().rev();
            bytes.fold(0, |sum, &byte| (sum << 8) | u64::from(byte))
        };
        Ok((0..layout.npages)
            .map(|page| {
                let entry = layout.entry(page);
                (page, number(entry), number(entry + 8))
            })
            .filter(|(_, pid, address)| *pid != 0 || *address != 0)
            .collect())
    }

    fn check_used(&self, count: usize) -> Result<()> {
        let used = self.used()?;
        ensure!(
            used.len() == count,
            "{} pages are somebody's, not {count}; the first of them: {:x?}",
            used.len(),
            used.first()
        );
        Ok(())
    }

    fn check_pages(
        &self,
        owner: u64,
        count: usize,
        is_right: impl Fn(&[u8], u64) -> bool,
    ) -> Result<()> {
        let mut seen = 0;
        let layout = self.layout()?;
        let mut bytes = vec![0; layout.page_size];
        for (page, pid, address) in self.used()? {
            if pid != owner {
                continue;
            }
            seen += 1;
            let at = layout.page(page) as u64;
            self.file.read_exact_at(&mut bytes, at)?;
            ensure!(
                is_right(&bytes, address),
                "page {page} is that of {pid} at {address:#x}, and does not hold what that has there, but {:x?}…",
                &bytes[..16]
            );
        }
        ensure!(
            seen == count,
            "{seen} pages are those of {owner}, not {count}"
        );
        Ok(())
    }
}

/// Repeats a check until it succeeds; returns its last error after `PATIENCE`.
fn eventually(check: impl Fn() -> Result<()>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        match check() {
            Err(_) if Instant::now() < end => thread::sleep(Duration::from_millis(20)),
            result => return result,
        }
    }
}
