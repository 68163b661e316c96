// SPDX-License-Identifier: GPL-2.0

//! What a program does: steps, one a line of text.
//!
//! A step names slots, devices and pages by numbers that are made to fit when it
//! runs; a step for which there is nothing, such as an empty slot, is skipped. So
//! a program from which any step is taken away is a program still.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;

/// How many mappings a program can have at a time.
pub const SLOTS: usize = 5;
/// The most pages of a mapping.
pub const MAX_PAGES: usize = 1024;
/// How many open device files a program has.
pub const HANDLES: usize = 3;
/// How many queues a program has, by turns on its handles.
pub const QUEUES: usize = 6;
/// How many words engines and processors add to. The first half has 8 bytes, and is for both;
/// the others have 4.
pub const COUNTERS: usize = 8;
/// How many private devices there are.
pub const NODES: usize = 2;

/// The device that a handle is open on: the last one is a second open of the first.
pub fn node_of(handle: usize) -> usize {
    handle % NODES
}

/// The handle that a queue is made with.
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
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$value,)*];

            /// As it is written.
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
    /// Whose step it is.
    Side { Parent = "parent", Child = "child", }
}

words! {
    /// What a mapping is of.
    Kind { Small = "small", Huge = "huge", Shared = "shared", File = "file", }
}

words! {
    /// What is done with pages by a processor or its kernel.
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
    /// Whether it changes what comes of jobs on the pages, or ignores what they have written.
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
    /// What concerns a device or its file as a whole.
    Whole { Release = "RELEASE", FailAlloc = "FAIL_ALLOC", Reopen = "reopen", }
}

words! {
    /// How engines execute packets.
    Job { Run = "run", Submit = "submit", }
}

words! {
    /// What concerns a queue, or all queues of its device.
    Queue { Wait = "wait", Destroy = "destroy", Reset = "reset", }
}

/// Pages of a slot, before they are made to fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub at: u16,
    pub len: u16,
}

impl Span {
    /// The pages of a slot of `pages` pages.
    pub fn within(self, pages: usize) -> Range<usize> {
        let start = usize::from(self.at) % pages;
        let len = usize::from(self.len).clamp(1, pages - start);
        start..start + len
    }
}

/// An operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Map memory, where the slot is empty.
    Map { slot: u8, kind: Kind, pages: u16 },
    /// Unmap the slot from a page on; all of it from page 0 on.
    Unmap { slot: u8, at: u16 },
    /// The part of a slot from a page on becomes the slot `into`, if that is empty.
    Split { slot: u8, at: u16, into: u8 },
    /// Move to another address, and change the size.
    Move { slot: u8, pages: u16 },
    /// Move the pages to the slot `into`, if that is empty, and stay mapped.
    Take { slot: u8, into: u8 },
    /// By a processor.
    Memory { what: Memory, slot: u8, span: Span },
    /// By a device.
    Device {
        what: Command,
        handle: u8,
        slot: u8,
        span: Span,
    },
    /// By or to a whole device.
    Whole { what: Whole, handle: u8 },
    /// Have an engine execute the packets of a seed on a part of a slot and of another, and
    /// wait for it, or go on.
    Job {
        what: Job,
        queue: u8,
        slot: u8,
        span: Span,
        other: u8,
        seed: u32,
    },
    /// Wait for the jobs of a queue, or have them end.
    Queue { what: Queue, queue: u8 },
    /// Have an engine add to a counter so many times, and add as often oneself.
    Count { queue: u8, counter: u8, times: u8 },
    /// Have the kernel reclaim so many MiB.
    Reclaim { mib: u8 },
    /// Check everything.
    Verify,
    /// Start a child, if there is none.
    Fork,
    /// End the child.
    Exit,
}

impl Op {
    /// Whether it leaves a job at work.
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

    /// What its outcomes are counted under.
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

/// An operation and who does it.
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

/// Reads a program: a step a line; empty lines and what follows `#` say nothing.
///
/// # Errors
///
/// What is wrong with which line.
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
