// SPDX-License-Identifier: GPL-2.0

//! QEMU's monitor, as far as it is needed to plug and unplug devices.

use std::env;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;

/// The time limit for a guest to release a device.
const PATIENCE: Duration = Duration::from_secs(50);

/// A connection to the monitor `MONITOR`, which speaks QMP: one JSON object per line.
pub(crate) struct Monitor(BufReader<UnixStream>);

impl Monitor {
    pub(crate) fn connect() -> Result<Self> {
        let path = env::var("MONITOR").context("MONITOR")?;
        let stream = UnixStream::connect(&path).with_context(|| path.clone())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut monitor = Self(BufReader::new(stream));
        monitor.wait_for(&["\"QMP\""])?;
        monitor.command("qmp_capabilities", "")?;
        Ok(monitor)
    }

    /// Puts an ivshmem device called `id` in a slot.
    pub(crate) fn plug(&mut self, id: &str, memory: &str, bus: &str) -> Result<()> {
        let arguments =
            format!(r#""driver":"ivshmem-plain","id":"{id}","memdev":"{memory}","bus":"{bus}""#);
        self.command("device_add", &arguments)
    }

    /// Makes the guest release a device, and waits until the device is unplugged.
    pub(crate) fn unplug(&mut self, id: &str) -> Result<()> {
        self.command("device_del", &format!(r#""id":"{id}""#))?;
        self.wait_for(&["\"DEVICE_DELETED\"", &format!("\"{id}\"")])
    }

    /// Creates memory for a device.
    pub(crate) fn add_memory(&mut self, id: &str, bytes: u64) -> Result<()> {
        let arguments = format!(r#""qom-type":"memory-backend-ram","id":"{id}","size":{bytes}"#);
        self.command("object-add", &arguments)
    }

    /// Creates memory for a device, backed by a file.
    pub(crate) fn add_memory_file(&mut self, id: &str, bytes: u64, path: &str) -> Result<()> {
        let arguments = format!(
            r#""qom-type":"memory-backend-file","id":"{id}","size":{bytes},"mem-path":"{path}","share":true"#
        );
        self.command("object-add", &arguments)
    }

    /// Frees memory that no device uses any more.
    pub(crate) fn remove_memory(&mut self, id: &str) -> Result<()> {
        self.command("object-del", &format!(r#""id":"{id}""#))
    }

    fn command(&mut self, name: &str, arguments: &str) -> Result<()> {
        writeln!(
            self.0.get_mut(),
            r#"{{"execute":"{name}","arguments":{{{arguments}}}}}"#
        )?;
        self.wait_for(&["\"return\""])
            .with_context(|| name.to_owned())
    }

    /// Reads until a line holds all of `words`.
    fn wait_for(&mut self, words: &[&str]) -> Result<()> {
        let mut line = String::new();
        loop {
            line.clear();
            let length = self.0.read_line(&mut line).context("the monitor")?;
            if length == 0 || line.starts_with("{\"error\"") {
                bail!("the monitor says: {}", line.trim_end());
            }
            if words.iter().all(|word| line.contains(word)) {
                return Ok(());
            }
        }
    }
}
