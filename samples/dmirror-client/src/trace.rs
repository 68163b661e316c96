// SPDX-License-Identifier: GPL-2.0

//! The module's trace events, in a trace buffer of its own, so that other tracing is not disturbed.
//! Documentation/tracing.md describes the events.
//!
//! An event is decoded with its format file, which the kernel provides: so even an event that this
//! library does not know has its fields.
//!
//! # Examples
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use dmirror_client::trace::Trace;
//!
//! let mut trace = Trace::new("example")?;
//! trace.switch_on("dmirror", None)?;
//! std::thread::sleep(Duration::from_secs(1));
//! for event in trace.take()? {
//!     println!("{} by {}", event.name, event.task);
//! }
//! # Ok::<(), std::io::Error>(())
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use nix::libc;

const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// A trace buffer, in which events can be switched on. Drop removes it.
#[derive(Debug)]
pub struct Trace {
    folder: PathBuf,
    pipe: File,
    formats: BTreeMap<String, Format>,
    /// The part of a line that has been read so far.
    rest: Vec<u8>,
    lost: u64,
    /// The names of threads.
    tasks: BTreeMap<i32, String>,
}

/// The placeholder for the name of a thread that the kernel has not recorded, which it does when it
/// switches to another thread.
const NAMELESS: &str = "<...>";

/// The fields of an event, from its format file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Format {
    fields: Vec<String>,
}

/// A field's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number.
    Number(i64),
    /// An address.
    Address(u64),
    /// A word, for example that of a cause.
    Word(String),
}

/// An event that was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its time: microseconds since boot.
    pub micros: u64,
    /// Its name.
    pub name: String,
    /// The name of the thread that was running.
    pub task: String,
    /// The number of that thread.
    pub tid: i32,
    /// The CPU number.
    pub cpu: u32,
    /// The fields, in the order of the format file.
    pub fields: Vec<(String, Value)>,
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Address(address) => write!(f, "{address:#x}"),
            Self::Word(word) => f.write_str(word),
        }
    }
}

impl Value {
    fn of(text: &str) -> Self {
        if let Some(Ok(address)) = text
            .strip_prefix("0x")
            .map(|hex| u64::from_str_radix(hex, 16))
        {
            return Self::Address(address);
        }
        text.parse()
            .map_or_else(|_| Self::Word(text.to_owned()), Self::Number)
    }
}

impl Format {
    /// Parses a format file.
    pub fn parse(text: &str) -> Self {
        let fields = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("field:")?.split(';').next())
            .filter_map(|field| field.split_whitespace().last())
            .map(|field| field.split('[').next().unwrap_or(field))
            .filter(|field| !field.starts_with("common_"));
        Self {
            fields: fields.map(str::to_owned).collect(),
        }
    }

    /// Splits `name=value name=value`. A value ends where the next field of the format begins, so
    /// it may contain blanks. If the text has no field of the format, splits it at blanks.
    fn decode(&self, text: &str) -> Vec<(String, Value)> {
        let mut found: Vec<(usize, usize, &str)> = Vec::new();
        for field in &self.fields {
            let start = starts_of(text, field).next();
            found.extend(start.map(|start| (start, start + field.len() + 1, field.as_str())));
        }
        found.sort_unstable();
        if found.is_empty() {
            return words(text);
        }
        let ends = found.iter().skip(1).map(|(start, ..)| *start);
        let ends: Vec<usize> = ends.chain([text.len()]).collect();
        found
            .iter()
            .zip(ends)
            .map(|((_, value, name), end)| {
                ((*name).to_owned(), Value::of(text[*value..end].trim()))
            })
            .collect()
    }
}

/// Returns the positions at which `field=` begins a word of `text`.
fn starts_of<'a>(text: &'a str, field: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(field)
        .map(|(start, _)| start)
        .filter(move |&start| {
            text[start + field.len()..].starts_with('=')
                && (start == 0 || text[..start].ends_with(' '))
        })
}

fn words(text: &str) -> Vec<(String, Value)> {
    let pairs = text
        .split_whitespace()
        .filter_map(|word| word.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), Value::of(value)))
        .collect()
}

impl Event {
    /// Parses a line `task-tid [cpu] flags seconds: name: field=value …`. The name of a task may
    /// contain anything.
    fn parse(line: &str, formats: &BTreeMap<String, Format>) -> Option<Self> {
        line.match_indices(" [").find_map(|(bracket, _)| {
            let (task, tid) = line[..bracket].trim().rsplit_once('-')?;
            let (cpu, rest) = line[bracket + 2..].split_once("] ")?;
            let (_flags, rest) = rest.trim_start().split_once(' ')?;
            let (time, rest) = rest.trim_start().split_once(": ")?;
            let (seconds, micros) = time.split_once('.')?;
            let (name, fields) = rest.split_once(':')?;
            let none = Format::default();
            let format = formats.get(name).unwrap_or(&none);
            Some(Self {
                micros: seconds.parse::<u64>().ok()? * 1_000_000 + micros.parse::<u64>().ok()?,
                name: name.to_owned(),
                task: task.to_owned(),
                tid: tid.trim().parse().ok()?,
                cpu: cpu.parse().ok()?,
                fields: format.decode(fields.trim()),
            })
        })
    }

    /// Returns a field as text.
    pub fn text(&self, field: &str) -> Option<String> {
        self.value(field).map(Value::to_string)
    }

    /// Returns a field that is a number.
    pub fn number(&self, field: &str) -> Option<i64> {
        match self.value(field)? {
            Value::Number(number) => Some(*number),
            Value::Address(address) => i64::try_from(*address).ok(),
            Value::Word(_) => None,
        }
    }

    /// Returns the value of a field.
    pub fn value(&self, field: &str) -> Option<&Value> {
        let mut fields = self.fields.iter();
        fields.find_map(|(name, value)| (name == field).then_some(value))
    }
}

impl Trace {
    /// Creates an empty buffer in which no event is switched on. Its name begins with `name`.
    ///
    /// # Errors
    ///
    /// `NotFound` if tracefs is not mounted, `PermissionDenied` without root.
    pub fn new(name: &str) -> io::Result<Self> {
        let folder = instances()?.join(format!("{name}-{}", std::process::id()));
        fs::create_dir(&folder)?;
        let pipe = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(folder.join("trace_pipe"));
        let pipe = pipe.inspect_err(|_| {
            let _ = fs::remove_dir(&folder);
        })?;
        let trace = Self {
            folder,
            pipe,
            formats: BTreeMap::new(),
            rest: Vec::new(),
            lost: 0,
            tasks: BTreeMap::new(),
        };
        // Comparable with what programs measure, and consistent on all CPUs.
        trace.write("trace_clock", "mono")?;
        Ok(trace)
    }

    /// Sets the buffer size to `kib` KiB per CPU; when it is full, the oldest unread events are
    /// overwritten.
    ///
    /// # Errors
    ///
    /// The error of writing the file: `OutOfMemory`.
    pub fn make_room(&self, kib: u32) -> io::Result<()> {
        self.write("buffer_size_kb", &kib.to_string())
    }

    /// Switches on one event of a trace system, or all of them; returns their names.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no such event, for example because the module is not loaded.
    pub fn switch_on(&mut self, system: &str, event: Option<&str>) -> io::Result<Vec<String>> {
        let system = Path::new("events").join(system);
        let mut names = Vec::new();
        match event {
            Some(event) => names.push(event.to_owned()),
            None => {
                for entry in fs::read_dir(self.folder.join(&system))? {
                    let entry = entry?;
                    let is_event = entry.path().join("format").exists();
                    names.extend(
                        is_event
                            .then(|| entry.file_name().into_string())
                            .and_then(Result::ok),
                    );
                }
            }
        }
        names.sort_unstable();
        for name in &names {
            let folder = system.join(name);
            let format = fs::read_to_string(self.folder.join(&folder).join("format"))?;
            self.formats.insert(name.clone(), Format::parse(&format));
            self.write(folder.join("enable"), "1")?;
        }
        Ok(names)
    }

    /// Takes the events since the last call, oldest first. Does not wait.
    ///
    /// # Errors
    ///
    /// The error of reading the buffer.
    pub fn take(&mut self) -> io::Result<Vec<Event>> {
        let mut piece = [0; 1 << 16];
        loop {
            match self.pipe.read(&mut piece) {
                Ok(0) => break,
                Ok(bytes) => self.rest.extend(piece.iter().take(bytes)),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => break,
                    io::ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
            // Bounded, because a buffer that is written to continuously would never be empty.
            if self.rest.len() > 64 * piece.len() {
                break;
            }
        }
        let whole = self
            .rest
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |end| end + 1);
        let text: Vec<u8> = self.rest.drain(..whole).collect();
        let (mut events, lost) = parse(&String::from_utf8_lossy(&text), &self.formats);
        self.lost += lost;
        self.note_names(&events);
        for event in events.iter_mut().filter(|event| event.task == NAMELESS) {
            if let Some(name) = self.name_of(event.tid) {
                event.task = name;
            }
        }
        Ok(events)
    }

    /// Records the names of the threads of all events: the first event of a program may be recorded
    /// before its name is.
    fn note_names(&mut self, events: &[Event]) {
        for event in events.iter().filter(|event| event.task != NAMELESS) {
            self.tasks.insert(event.tid, event.task.clone());
        }
    }

    fn name_of(&self, tid: i32) -> Option<String> {
        let known = self.tasks.get(&tid).cloned();
        known.or_else(|| {
            let name = fs::read_to_string(format!("/proc/{tid}/comm")).ok()?;
            Some(name.trim_end().to_owned())
        })
    }

    /// Returns the number of events that were overwritten before they were read.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn write(&self, file: impl AsRef<Path>, text: &str) -> io::Result<()> {
        fs::write(self.folder.join(file), text)
    }
}

/// The kernel does not remove a buffer that is being read, so the pipe is closed first.
impl Drop for Trace {
    fn drop(&mut self) {
        if let Ok(null) = File::open("/dev/null") {
            self.pipe = null;
        }
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Returns the directory in which buffers are created.
fn instances() -> io::Result<PathBuf> {
    let mut answer = io::ErrorKind::NotFound.into();
    for folder in TRACEFS {
        let folder = Path::new(folder).join("instances");
        match fs::metadata(&folder) {
            Ok(_) => return Ok(folder),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => answer = error,
            Err(_) => {}
        }
    }
    Err(answer)
}

/// Parses lines; returns the events, and the number of lost events that the lines report.
fn parse(text: &str, formats: &BTreeMap<String, Format>) -> (Vec<Event>, u64) {
    let mut lost = 0;
    let mut events = Vec::new();
    for line in text.lines() {
        // CPU:1 [LOST 123 EVENTS]
        if let Some((_, rest)) = line.split_once("[LOST ") {
            lost += rest
                .split(' ')
                .next()
                .and_then(|word| word.parse().ok())
                .unwrap_or(0);
        } else {
            events.extend(Event::parse(line, formats));
        }
    }
    (events, lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formats() -> BTreeMap<String, Format> {
        let of = |name: &str, text| (name.to_owned(), Format::parse(text));
        BTreeMap::from([
            of(
                "migrate_end",
                include_str!("testdata/migrate_end.format.txt"),
            ),
            of("evict", include_str!("testdata/evict.format.txt")),
        ])
    }

    #[test]
    fn a_format_has_the_fields_of_the_event_alone() {
        let format = Format::parse(include_str!("testdata/migrate_end.format.txt"));
        let fields = "device pid address pages order from to cause moved error";
        assert_eq!(format.fields, fields.split(' ').collect::<Vec<_>>());
    }

    #[test]
    fn reads_what_a_guest_has_written() {
        let (events, lost) = parse(include_str!("testdata/trace_pipe.txt"), &formats());
        assert_eq!(lost, 0);
        let ends = events.iter().filter(|event| event.name == "migrate_end");
        let moved: i64 = ends.filter_map(|event| event.number("moved")).sum();
        assert_eq!(moved, 3 * 512);
        let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
        assert_eq!(names.iter().filter(|name| **name == "cpu_fault").count(), 3);
        for event in &events {
            let demo = ["dmirror-demo", "dmirror0/0"].contains(&event.task.as_str());
            assert!(demo, "{event:?}");
            assert!(event.tid > 0 && event.micros > 0, "{event:?}");
            assert!(event.number("device").is_some(), "{event:?}");
        }
    }

    #[test]
    fn a_task_may_be_called_anything() {
        let line = "   a-1 [0] b: c-17      [001] d..2.   12.000345: evict: device=1 pid=9 block=3 \
                    cause=eviction moved=5 left=0 error=-12 ns=7";
        let event = Event::parse(line, &formats()).unwrap();
        assert_eq!(
            (event.task.as_str(), event.tid, event.cpu),
            ("a-1 [0] b: c", 17, 1)
        );
        assert_eq!(event.micros, 12_000_345);
        assert_eq!(event.text("cause").as_deref(), Some("eviction"));
        assert_eq!(event.number("error"), Some(-12));
        assert_eq!(event.number("cause"), None);
        assert_eq!(event.value("size"), None);
    }

    #[test]
    fn events_that_nobody_knows_have_their_fields() {
        let line = " x-1 [000] ..... 1.000001: news: at=0x1000 who=some one=2 what";
        let event = Event::parse(line, &formats()).unwrap();
        assert_eq!(event.value("at"), Some(&Value::Address(0x1000)));
        assert_eq!(event.text("who").as_deref(), Some("some"));
        let format =
            Format::parse("\tfield:u32 at;\toffset:8;\n\tfield:char who[16];\toffset:12;\n");
        let known = BTreeMap::from([("news".to_owned(), format)]);
        let event = Event::parse(line, &known).unwrap();
        assert_eq!(event.text("who").as_deref(), Some("some one=2 what"));
    }

    #[test]
    fn says_what_was_lost() {
        let (events, lost) = parse(
            "CPU:1 [LOST 12 EVENTS]\n\nCPU:0 [LOST 3 EVENTS]\n",
            &formats(),
        );
        assert_eq!((events, lost), (Vec::new(), 15));
    }
}
