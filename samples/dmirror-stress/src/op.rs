// SPDX-License-Identifier: GPL-2.0

//! The steps of a program, one per line of text.
//!
//! A step names slots, devices and pages by numbers that are made to fit when it
//! runs; a step that has nothing to work on, such as an empty slot, is skipped. So
//! a program stays valid when any step is removed.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;

/// The number of mappings that a program can have at a time.
pub const SLOTS: usize = 5;
/// The most pages of a mapping.
pub const MAX_PAGES: usize = 1024;
/// The number of open device files of a program.
pub const HANDLES: usize = 3;
/// The number of queues of a program, created on its handles in turn.
pub const QUEUES: usize = 6;
/// The number of counters. Those of the first half have 8 bytes, and both engines and CPUs add
/// to them; the others have 4 bytes, and only engines add to them.
pub const COUNTERS: usize = 8;
/// The number of private devices.
pub const NODES: usize = 2;

/// Returns the device that a handle is open on: the last handle is a second open of the first.
pub fn node_of(handle: usize) -> usize {
    handle % NODES
}

/// Returns the handle that a queue is created with.
pub fn handle_of(queue: usize) -> usize {
    queue % HANDLES
}

/// Defines an enum whose values are words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($value:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $(#[doc = $word] $value,)* }

        impl $name {
            /// All values.
            pub const ALL: &[Self] = &[$(Self::$value,)*];

            /// Returns the word of the value.
            pub fn word(self) -> &'static str {
                match self { $(Self::$value => $word,)* }
            }
        }

        impl FromStr for $name {
            type Err = anyhow::Error;

            fn from_str(word: &str) -> Result<Self> {
                let mut all = Self::ALL.iter().copied();
                let found = all.find(|value| value.word() == word);
                found.with_context(|| format!("{word:?} is no {}", stringify!($name)))
            }
        }
    };
}

words! {
    /// The process that runs a step.
    Side { Parent = "parent", Child = "child", }
}

words! {
    /// The kind of memory of a mapping.
    Kind { Small = "small", Huge = "huge", Shared = "shared", File = "file", }
}

words! {
    /// An operation on pages by a CPU or its kernel.
    Memory {
        Read = "read",
        Write = "write",
        Replace = "replace",
        ProtectNone = "protect-none",
        ProtectRead = "protect-read",
        ProtectWrite = "protect-write",
        Lock = "lock",
        Unlock = "unlock",
        DontNeed = "dontneed",
        Free = "free",
        Cold = "cold",
        PageOut = "pageout",
        WillNeed = "willneed",
        HugePages = "hugepage",
        NoHugePages = "nohugepage",
        Collapse = "collapse",
        PopulateRead = "populate-read",
        PopulateWrite = "populate-write",
        DontFork = "dontfork",
        DoFork = "dofork",
        WipeOnFork = "wipeonfork",
        Mergeable = "mergeable",
        Unmergeable = "unmergeable",
    }
}

impl Memory {
    /// Returns whether it changes the results of jobs on the pages, or discards their writes.
    pub fn changes_jobs(self) -> bool {
        matches!(
            self,
            Self::Write
                | Self::Replace
                | Self::ProtectNone
                | Self::ProtectRead
                | Self::ProtectWrite
                | Self::DontNeed
                | Self::Free
        )
    }
}

words! {
    /// A command for a range.
    Command {
        Read = "READ",
        ReadUnlocked = "READ_UNLOCKED",
        Write = "WRITE",
        ToDevice = "MIGRATE_TO_DEV",
        ToSystem = "MIGRATE_TO_SYS",
        Snapshot = "SNAPSHOT",
        Exclusive = "EXCLUSIVE",
        CheckExclusive = "CHECK_EXCLUSIVE",
    }
}

words! {
    /// An operation on a device or its file as a whole.
    Whole { Release = "RELEASE", FailAlloc = "FAIL_ALLOC", Reopen = "reopen", }
}

words! {
    /// The mode of a job: `run` waits for its end, `submit` leaves it in flight.
    Job { Run = "run", Submit = "submit", }
}

words! {
    /// An operation on a queue, or on all queues of its device.
    Queue { Wait = "wait", Destroy = "destroy", Reset = "reset", }
}

/// A range of pages, before it is made to fit a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub at: u16,
    pub len: u16,
}

impl Span {
    /// Returns the range in a slot of `pages` pages.
    pub fn within(self, pages: usize) -> Range<usize> {
        let start = usize::from(self.at) % pages;
        let len = usize::from(self.len).clamp(1, pages - start);
        start..start + len
    }
}

/// An operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Map memory, if the slot is empty.
    Map { slot: u8, kind: Kind, pages: u16 },
    /// Unmap the slot from page `at` on, which is all of it for page 0.
    Unmap { slot: u8, at: u16 },
    /// Split off the part of a slot from page `at` on as the slot `into`, if that is empty.
    Split { slot: u8, at: u16, into: u8 },
    /// Move to another address, and change the size.
    Move { slot: u8, pages: u16 },
    /// Move the pages to the slot `into`, if that is empty, and stay mapped.
    Take { slot: u8, into: u8 },
    /// An operation on pages by a CPU or its kernel.
    Memory { what: Memory, slot: u8, span: Span },
    /// A command for a range, to a device.
    Device {
        what: Command,
        handle: u8,
        slot: u8,
        span: Span,
    },
    /// An operation on a whole device.
    Whole { what: Whole, handle: u8 },
    /// Make an engine execute the packets of a seed on a part of a slot and of another; then
    /// wait for the job, or go on.
    Job {
        what: Job,
        queue: u8,
        slot: u8,
        span: Span,
        other: u8,
        seed: u32,
    },
    /// Wait for the jobs of a queue, destroy the queue, or reset its device.
    Queue { what: Queue, queue: u8 },
    /// Make an engine add 4 * `times` + 1 times to a counter; the CPU adds as often to 8-byte ones.
    Count { queue: u8, counter: u8, times: u8 },
    /// Make the kernel reclaim `mib` MiB.
    Reclaim { mib: u8 },
    /// Check everything.
    Verify,
    /// Start a child, if there is none.
    Fork,
    /// End the child.
    Exit,
}

impl Op {
    /// Returns whether it leaves a job in flight.
    pub fn is_beside(&self) -> bool {
        matches!(
            self,
            Self::Count { .. }
                | Self::Job {
                    what: Job::Submit,
                    ..
                }
        )
    }

    /// Returns the name under which its outcomes are counted.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Map { .. } => "map",
            Self::Unmap { .. } => "unmap",
            Self::Split { .. } => "split",
            Self::Move { .. } => "move",
            Self::Take { .. } => "take",
            Self::Memory { what, .. } => what.word(),
            Self::Device { what, .. } => what.word(),
            Self::Whole { what, .. } => what.word(),
            Self::Job { what, .. } => what.word(),
            Self::Queue { what, .. } => what.word(),
            Self::Count { .. } => "count",
            Self::Reclaim { .. } => "reclaim",
            Self::Verify => "verify",
            Self::Fork => "fork",
            Self::Exit => "exit",
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        match *self {
            Self::Map { slot, kind, pages } => write!(f, "{name} {slot} {} {pages}", kind.word()),
            Self::Unmap { slot, at } => write!(f, "{name} {slot} {at}"),
            Self::Split { slot, at, into } => write!(f, "{name} {slot} {at} {into}"),
            Self::Move { slot, pages } => write!(f, "{name} {slot} {pages}"),
            Self::Take { slot, into } => write!(f, "{name} {slot} {into}"),
            Self::Memory { slot, span, .. } => write!(f, "{name} {slot} {}+{}", span.at, span.len),
            Self::Device {
                handle, slot, span, ..
            } => write!(f, "{name} {handle} {slot} {}+{}", span.at, span.len),
            Self::Whole { handle, .. } => write!(f, "{name} {handle}"),
            Self::Job {
                queue,
                slot,
                span: Span { at, len },
                other,
                seed,
                ..
            } => write!(f, "{name} {queue} {slot} {at}+{len} {other} {seed}"),
            Self::Queue { queue, .. } => write!(f, "{name} {queue}"),
            Self::Count {
                queue,
                counter,
                times,
            } => write!(f, "{name} {queue} {counter} {times}"),
            Self::Reclaim { mib } => write!(f, "{name} {mib}"),
            Self::Verify | Self::Fork | Self::Exit => f.write_str(name),
        }
    }
}

/// The words of a line, one after the other.
struct Words<'a>(std::str::SplitAsciiWhitespace<'a>);

impl Words<'_> {
    fn next<T: FromStr>(&mut self, what: &str) -> Result<T> {
        let word = self.0.next().with_context(|| format!("no {what}"))?;
        word.parse()
            .ok()
            .with_context(|| format!("{word:?} is no {what}"))
    }

    fn index(&mut self, what: &str, limit: usize) -> Result<u8> {
        let number: u8 = self.next(what)?;
        if usize::from(number) >= limit {
            bail!("{what} {number} is not below {limit}");
        }
        Ok(number)
    }

    fn slot(&mut self) -> Result<u8> {
        self.index("slot", SLOTS)
    }

    fn size(&mut self) -> Result<u16> {
        let pages: u16 = self.next("number of pages")?;
        if pages == 0 || usize::from(pages) > MAX_PAGES {
            bail!("{pages} pages are none or too many");
        }
        Ok(pages)
    }

    fn span(&mut self) -> Result<Span> {
        let word: String = self.next("range of pages")?;
        let (at, len) = word.split_once('+').context("a range is AT+LENGTH")?;
        let (at, len) = (at.parse()?, len.parse()?);
        Ok(Span { at, len })
    }
}

impl FromStr for Op {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let mut words = Words(line.split_ascii_whitespace());
        let name: String = words.next("operation")?;
        let op = match name.as_str() {
            "map" => Self::Map {
                slot: words.slot()?,
                kind: words.next("kind")?,
                pages: words.size()?,
            },
            "unmap" => Self::Unmap {
                slot: words.slot()?,
                at: words.next("page")?,
            },
            "split" => Self::Split {
                slot: words.slot()?,
                at: words.next("page")?,
                into: words.slot()?,
            },
            "move" => Self::Move {
                slot: words.slot()?,
                pages: words.size()?,
            },
            "take" => Self::Take {
                slot: words.slot()?,
                into: words.slot()?,
            },
            "count" => Self::Count {
                queue: words.index("queue", QUEUES)?,
                counter: words.index("counter", COUNTERS)?,
                times: words.next("number of times")?,
            },
            "reclaim" => Self::Reclaim {
                mib: words.next("number of MiB")?,
            },
            "verify" => Self::Verify,
            "fork" => Self::Fork,
            "exit" => Self::Exit,
            name => {
                if let Ok(what) = name.parse() {
                    Self::Memory {
                        what,
                        slot: words.slot()?,
                        span: words.span()?,
                    }
                } else if let Ok(what) = name.parse() {
                    Self::Device {
                        what,
                        handle: words.index("handle", HANDLES)?,
                        slot: words.slot()?,
                        span: words.span()?,
                    }
                } else if let Ok(what) = name.parse() {
                    Self::Whole {
                        what,
                        handle: words.index("handle", HANDLES)?,
                    }
                } else if let Ok(what) = name.parse() {
                    Self::Queue {
                        what,
                        queue: words.index("queue", QUEUES)?,
                    }
                } else if let Ok(what) = name.parse() {
                    Self::Job {
                        what,
                        queue: words.index("queue", QUEUES)?,
                        slot: words.slot()?,
                        span: words.span()?,
                        other: words.slot()?,
                        seed: words.next("seed")?,
                    }
                } else {
                    bail!("{name:?} is no operation")
                }
            }
        };
        match words.0.next() {
            None => Ok(op),
            Some(word) => bail!("{word:?} is too much"),
        }
    }
}

/// An operation, and the process that runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub side: Side,
    pub op: Op,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.side.word(), self.op)
    }
}

impl FromStr for Step {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let (side, op) = line.trim().split_once(' ').context("no operation")?;
        let (side, op) = (side.parse()?, op.parse()?);
        Ok(Self { side, op })
    }
}

/// Reads a program, one step per line; ignores empty lines and the text after `#`.
///
/// # Errors
///
/// An error that names the line and its fault.
pub fn parse_program(text: &str) -> Result<Vec<Step>> {
    let mut program = Vec::new();
    for (nth, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            let step = line.parse();
            program.push(step.with_context(|| format!("line {}: {line}", nth + 1))?);
        }
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_read_as_they_are_written() {
        for seed in 0..20 {
            let program = crate::generate::program(seed, 200);
            let lines: Vec<String> = program.iter().map(Step::to_string).collect();
            assert_eq!(parse_program(&lines.join("\n")).unwrap(), program);
        }
    }

    #[test]
    fn comments_say_nothing() {
        let program = parse_program("# a program\n\nparent verify # all\n").unwrap();
        assert_eq!(program[0].to_string(), "parent verify");
        assert_eq!(program.len(), 1);
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "parent",
            "uncle verify",
            "parent jump 1",
            "parent map 9 small 4",
            "parent map 0 small 0",
            "parent map 0 small 5000",
            "parent read 0 3",
            "parent READ 3 0 1+1",
            "parent run 6 0 1+1 0 1",
            "parent submit 0 0 1+1 0",
            "parent count 0 8 1",
            "parent verify 1",
        ] {
            assert!(line.parse::<Step>().is_err(), "{line}");
        }
    }

    #[test]
    fn spans_fit_any_slot() {
        let span = |at, len| Span { at, len };
        assert_eq!(span(5, 3).within(10), 5..8);
        assert_eq!(span(12, 30).within(10), 2..10);
        assert_eq!(span(9, 0).within(10), 9..10);
    }
}
