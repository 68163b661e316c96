// SPDX-License-Identifier: GPL-2.0

//! Trace events of the module, in a separate buffer, so that other tracing is not disturbed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::{fs, process};

use anyhow::{Context as _, Result, bail, ensure};

use crate::check::{needs_ours, skip};
use crate::context::is_root;

const TRACEFS: &str = "/sys/kernel/tracing";

/// The folder of the module's events.
const SYSTEM: &str = "events/dmirror";

/// A trace buffer, removed on drop.
#[derive(Debug)]
pub struct Trace(PathBuf);

/// An event, parsed from its line.
#[derive(Clone, Debug)]
pub struct Event {
    /// The name of the event.
    pub name: String,
    fields: HashMap<String, String>,
}

impl Trace {
    /// Creates an empty buffer with no event switched on, or skips.
    pub fn new() -> Result<Self> {
        needs_ours("trace events")?;
        if !is_root() {
            return skip("needs root");
        }
        let instances = Path::new(TRACEFS).join("instances");
        if !instances.exists() {
            return skip("there is no tracefs");
        }
        let path = instances.join(format!("dmirror-selftest-{}", process::id()));
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    /// Creates a buffer with some events switched on, for this process and for the children that it
    /// forks from now on.
    pub fn of(events: &[&str]) -> Result<Self> {
        let trace = Self::new()?;
        trace.write("options/event-fork", "1")?;
        trace.write("set_event_pid", &process::id().to_string())?;
        for event in events {
            trace.switch(event, true)?;
        }
        Ok(trace)
    }

    /// Switches an event on or off; `""` stands for all events.
    pub fn switch(&self, event: &str, on: bool) -> Result<()> {
        let file = Path::new(SYSTEM).join(event).join("enable");
        self.write(file, if on { "1" } else { "0" })
    }

    /// Returns the fields of an event, from its format file.
    pub fn fields_of(&self, event: &str) -> Result<Vec<String>> {
        let file = self.0.join(SYSTEM).join(event).join("format");
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        Ok(text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("field:")?.split(';').next())
            .filter_map(|field| field.split_whitespace().last())
            .filter(|field| !field.starts_with("common_"))
            .map(str::to_owned)
            .collect())
    }

    /// Returns the events in the buffer, oldest first, and empties it.
    pub fn take(&self) -> Result<Vec<Event>> {
        let file = self.0.join("trace");
        let text = fs::read_to_string(&file)?;
        fs::write(&file, "")?;
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .map(Event::of)
            .collect()
    }

    /// Returns the events of one name in the buffer, oldest first, and empties it.
    pub fn take_of(&self, event: &str) -> Result<Vec<Event>> {
        let mut events = self.take()?;
        events.retain(|seen| seen.name == event);
        Ok(events)
    }

    /// Returns the event of a name, which must be the only one in the buffer, and empties the
    /// buffer.
    pub fn take_one(&self, event: &str) -> Result<Event> {
        let events = self.take()?;
        let found: Vec<_> = events.iter().filter(|seen| seen.name == event).collect();
        ensure!(
            found.len() == 1,
            "{} times {event}: {events:#?}",
            found.len()
        );
        Ok(found[0].clone())
    }

    fn write(&self, file: impl AsRef<Path>, text: &str) -> Result<()> {
        let file = self.0.join(file);
        fs::write(&file, text).with_context(|| file.display().to_string())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            println!("cannot remove {}: {error}", self.0.display());
        }
    }
}

impl Event {
    /// Parses a line `task-pid [cpu] flags seconds: name: field=value ...`.
    fn of(line: &str) -> Result<Self> {
        let mut parts = line.splitn(3, ": ");
        let (Some(_), Some(name), Some(fields)) = (parts.next(), parts.next(), parts.next()) else {
            bail!("a line of another form: {line}");
        };
        let fields = fields
            .split_whitespace()
            .filter_map(|field| field.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let name = name.to_owned();
        Ok(Self { name, fields })
    }

    /// Returns a field as it is printed.
    pub fn text(&self, field: &str) -> Result<&str> {
        let value = self.fields.get(field).map(String::as_str);
        value.with_context(|| format!("{self:?} has no {field}"))
    }

    /// Returns a field that is a number.
    pub fn number(&self, field: &str) -> Result<i64> {
        let text = self.text(field)?;
        let number = match text.strip_prefix("0x") {
            Some(digits) => i64::from_str_radix(digits, 16),
            None => text.parse(),
        };
        number.with_context(|| format!("{field}={text}"))
    }

    /// Checks fields as they are printed: `"pages=24 error=0"`.
    pub fn has(&self, fields: &str) -> Result<()> {
        for field in fields.split_whitespace() {
            let (name, value) = field.split_once('=').context("no field")?;
            let seen = self.text(name)?;
            ensure!(seen == value, "{field} expected: {self:#?}");
        }
        Ok(())
    }
}
