// SPDX-License-Identifier: GPL-2.0

//! The real world: memory of this process, and the devices of the module.

use std::fs;
use std::fs::File;
use std::io;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use dmirror_client::Device;
use dmirror_client::Errno;
use dmirror_client::Place;
use dmirror_client::Region;
use dmirror_client::Stats;
use dmirror_client::Survey;
use dmirror_client::device;
use dmirror_client::device::Buffer;
use dmirror_client::fork_child;
use dmirror_client::hpage_pmd_size;
use dmirror_client::page_size;
use dmirror_client::place::device_memories;
use dmirror_client::process;
use dmirror_client::queue;
use dmirror_client::region::Advice;
use dmirror_client::region::Protection;

use crate::content::Seen;
use crate::content::Stamp;
use crate::content::UNTOUCHED;
use crate::content::words_per_page;
use crate::engines::Engines;
use crate::model::Model;
use crate::noise::Targets;
use crate::op::Command;
use crate::op::HANDLES;
use crate::op::Kind;
use crate::op::MAX_PAGES;
use crate::op::Memory;
use crate::op::NODES;
use crate::op::Op;
use crate::op::SLOTS;
use crate::op::Whole;
use crate::op::handle_of;
use crate::op::node_of;
use crate::runner::Runner;
use crate::world::Add;
use crate::world::Answer;
use crate::world::Child;
use crate::world::Failure;
use crate::world::Outcome;
use crate::world::Where;
use crate::world::World;

/// The time limit for a step of a child, and for its end.
pub const PATIENCE: Duration = Duration::from_secs(400);

/// Opens device `node`.
pub fn open(node: usize) -> io::Result<Device> {
    Device::open(format!("/dev/hmm_dmirror{node}"))
}

/// Returns the sums of a device's statistics that do not agree, if it has statistics.
pub fn disagreements(node: usize) -> Vec<String> {
    let seen = || {
        let stats = Stats::of(&format!("hmm_dmirror{node}"));
        let stats = stats.ok().flatten();
        stats.map_or_else(Vec::new, |stats| stats.disagreements())
    };
    // A process gives its pages back only a moment after it has ended.
    for _ in 0..100 {
        if seen().is_empty() {
            return Vec::new();
        }
        thread::sleep(Duration::from_millis(10));
    }
    seen()
}

/// Finds the page frames of each device, by moving a page there.
pub fn frames() -> Result<Vec<Range<u64>>> {
    let frames = |node| {
        let device = open(node).context("cannot open a device: is the module loaded?")?;
        let region = Region::anonymous(1)?;
        region.store(0, 1);
        let mut view = vec![0; page_size()];
        device.migrate_to_device(region.range(), &mut view)?;
        let survey = Survey::of(region.range())?;
        let memory = device_memories()?.into_iter().find(|memory| {
            let holds = |place: &Place| matches!(place, Place::Device { frame, .. } if memory.frames.contains(frame));
            survey.places().iter().any(holds)
        });
        // Without privileges the frames are unknown: the range is empty.
        Ok(memory.map_or(0..0, |memory| memory.frames))
    };
    (0..NODES).map(frames).collect()
}

/// This process, with its memory and its open devices.
pub struct Real {
    regions: [Option<Region>; SLOTS],
    devices: Vec<Device>,
    engines: Engines,
    frames: Vec<Range<u64>>,
    /// The ranges for the noise thread, if there is one.
    targets: Option<Arc<Targets>>,
}

fn errno(error: &io::Error) -> Errno {
    error
        .raw_os_error()
        .map_or(Errno::UnknownErrno, Errno::from_raw)
}

impl Real {
    /// Opens all handles, and maps no slot.
    pub fn new(frames: Vec<Range<u64>>, targets: Option<Arc<Targets>>) -> io::Result<Self> {
        let devices = (0..HANDLES).map(|handle| open(node_of(handle)));
        Ok(Self {
            regions: [const { None }; SLOTS],
            devices: devices.collect::<io::Result<_>>()?,
            engines: Engines::new()?,
            frames,
            targets,
        })
    }

    fn region(&self, slot: usize) -> &Region {
        // PANIC: the model has it, and both are changed together.
        self.regions[slot].as_ref().expect("the slot is mapped")
    }

    /// Puts a region, or none, into a slot, and updates the targets.
    fn put(&mut self, slot: usize, region: Option<Region>) {
        self.regions[slot] = region;
        if let Some(targets) = &self.targets {
            let ranges = self.regions.iter().flatten().map(Region::range);
            targets.set(ranges.collect());
        }
    }

    /// Serves a parent, step by step, up to a line that is no operation.
    fn serve(runner: &mut Runner<Self>, stream: UnixStream) -> io::Result<()> {
        let mut out = stream.try_clone()?;
        for line in BufReader::new(stream).lines() {
            let line = line?;
            let op = line.parse::<Op>();
            // A line that is no operation is the last one. The stream itself never ends:
            // this process has inherited its other side, too.
            let ends = op.is_err();
            let answer = match op {
                Ok(op) => runner.run(&op),
                Err(_) => runner.verify().map(|()| "ended".into()),
            };
            match answer {
                Ok(outcome) => writeln!(out, "ok {outcome}")?,
                Err(failure) => writeln!(out, "bad {failure}")?,
            }
            if ends {
                break;
            }
        }
        Ok(())
    }
}

impl World for Real {
    type Child = RealChild;

    fn map(&mut self, slot: usize, kind: Kind, pages: usize) -> Result<(), Errno> {
        let options = Region::options(pages);
        let options = match kind {
            Kind::Small => options,
            Kind::Huge => options.align(hpage_pmd_size()).huge(true),
            Kind::Shared => options.shared(),
            Kind::File => {
                let file = empty_file().map_err(|error| errno(&error))?;
                options.private_file(file)
            }
        };
        let region = options.map().map_err(|error| errno(&error))?;
        self.put(slot, Some(region));
        Ok(())
    }

    fn unmap(&mut self, slot: usize, at: usize) {
        if at == 0 {
            self.put(slot, None);
        } else if let Some(mut region) = self.regions[slot].take() {
            drop(region.split_off(at));
            self.put(slot, Some(region));
        }
    }

    fn split(&mut self, slot: usize, at: usize, into: usize) {
        if let Some(mut region) = self.regions[slot].take() {
            let tail = region.split_off(at);
            self.put(slot, Some(region));
            self.put(into, Some(tail));
        }
    }

    fn relocate(&mut self, slot: usize, pages: usize) -> Result<(), Errno> {
        let region = self.regions[slot].take().ok_or(Errno::EINVAL)?;
        let answer = region.resize(pages);
        let result = answer.as_ref().map(|_| ()).map_err(errno);
        self.put(slot, answer.ok());
        result
    }

    fn take(&mut self, slot: usize, into: usize) -> Result<(), Errno> {
        let taken = self.region(slot).take_pages();
        let taken = taken.map_err(|error| errno(&error))?;
        self.put(into, Some(taken));
        Ok(())
    }

    fn load(&mut self, slot: usize, page: usize) -> Seen {
        let region = self.region(slot);
        let first = page * words_per_page();
        Seen::in_words(|nth| region.load(first + nth))
    }

    fn store(&mut self, slot: usize, page: usize, stamp: Stamp) {
        let region = self.region(slot);
        let first = page * words_per_page();
        for nth in 0..words_per_page() {
            region.store(first + nth, stamp.word(nth));
        }
    }

    fn manage(&mut self, what: Memory, slot: usize, range: &Range<usize>) -> Result<(), Errno> {
        let (region, pages) = (self.region(slot), range.clone());
        let advice = match what {
            Memory::Read | Memory::Write => return Err(Errno::EINVAL),
            Memory::Replace => return region.replace(pages).map_err(|error| errno(&error)),
            Memory::ProtectNone | Memory::ProtectRead | Memory::ProtectWrite => {
                let protection = match what {
                    Memory::ProtectNone => Protection::None,
                    Memory::ProtectRead => Protection::Read,
                    _ => Protection::ReadWrite,
                };
                let answer = region.protect(pages, protection);
                return answer.map_err(|error| errno(&error));
            }
            Memory::Lock => return region.lock(pages).map_err(|error| errno(&error)),
            Memory::Unlock => return region.unlock(pages).map_err(|error| errno(&error)),
            Memory::DontNeed => Advice::DontNeed,
            Memory::Free => Advice::Free,
            Memory::Cold => Advice::Cold,
            Memory::PageOut => Advice::PageOut,
            Memory::WillNeed => Advice::WillNeed,
            Memory::HugePages => Advice::Huge,
            Memory::NoHugePages => Advice::NoHuge,
            Memory::Collapse => Advice::Collapse,
            Memory::PopulateRead => Advice::PopulateRead,
            Memory::PopulateWrite => Advice::PopulateWrite,
            Memory::DontFork => Advice::DontFork,
            Memory::DoFork => Advice::DoFork,
            Memory::WipeOnFork => Advice::WipeOnFork,
            Memory::Mergeable => Advice::Mergeable,
            Memory::Unmergeable => Advice::Unmergeable,
        };
        let answer = region.advise(pages, advice);
        answer.map_err(|error| errno(&error))
    }

    fn device(
        &mut self,
        what: Command,
        handle: usize,
        (slot, range): (usize, &Range<usize>),
        stamps: &[Stamp],
    ) -> Answer {
        let part = self.region(slot).part(range.clone());
        let mut view = Vec::new();
        let mut bytes = Vec::new();
        for stamp in stamps {
            stamp.extend(&mut view);
        }
        let command = match what {
            Command::Read => device::Command::Read,
            Command::ReadUnlocked => device::Command::ReadUnlocked,
            Command::Write => device::Command::Write,
            Command::ToDevice => device::Command::MigrateToDevice,
            Command::ToSystem => device::Command::MigrateToSystem,
            Command::Snapshot => device::Command::Snapshot,
            Command::Exclusive => device::Command::Exclusive,
            Command::CheckExclusive => device::Command::CheckExclusive,
        };
        let buffer = match what {
            Command::Read | Command::ReadUnlocked | Command::ToDevice | Command::Exclusive => {
                view.resize(part.bytes() as usize, UNTOUCHED);
                Buffer::Output(&mut view)
            }
            Command::Write => Buffer::Input(&view),
            Command::Snapshot => {
                bytes.resize(range.len(), UNTOUCHED);
                Buffer::Bytes(&mut bytes)
            }
            Command::ToSystem | Command::CheckExclusive => Buffer::Null,
        };
        let answer = self.devices[handle].call(command, part.addr(), part.pages(), buffer);
        let (error, counts) = match answer {
            Ok(counts) => (None, Some(counts)),
            Err(error) => (Some(error.errno), error.counts),
        };
        let view = match what {
            Command::Write => Vec::new(),
            _ => Seen::in_bytes(&view),
        };
        Answer {
            error,
            pages: counts.map(|counts| counts.pages),
            view,
            bytes,
        }
    }

    fn whole(&mut self, what: Whole, handle: usize) -> Answer {
        let device = &mut self.devices[handle];
        let answer = match what {
            Whole::Release => device.release().map(drop).map_err(|error| error.errno),
            Whole::FailAlloc => device.fail_next_allocation().map_err(|error| error.errno),
            Whole::Reopen => open(node_of(handle))
                .map(|opened| *device = opened)
                .map_err(|error| errno(&error)),
        };
        Answer {
            error: answer.err(),
            pages: None,
            view: Vec::new(),
            bytes: Vec::new(),
        }
    }

    fn reclaim(&mut self, mib: usize) -> Result<(), Errno> {
        let file = "/sys/fs/cgroup/memory.reclaim";
        fs::write(file, format!("{mib}M")).map_err(|error| errno(&error))
    }

    fn places(&mut self, slot: usize, range: &Range<usize>) -> Result<Vec<Where>, Failure> {
        let survey = Survey::of(self.region(slot).part(range.clone()));
        let survey = survey.map_err(|error| format!("cannot read pagemap: {error}"))?;
        let place = |place: &Place| match place {
            Place::Absent | Place::System { .. } | Place::Hidden => Where::System,
            Place::Device { frame, .. } => {
                Where::Device(self.frames.iter().position(|range| range.contains(frame)))
            }
            Place::Swapped => Where::Swapped,
            Place::Held => Where::Held,
        };
        Ok(survey.places().iter().map(place).collect())
    }

    fn used(&mut self, handle: usize) -> Option<(u64, u64)> {
        let room = self.devices[handle].room().ok()??;
        Some((room.pages - room.free_pages, room.pages))
    }

    fn disagreements(&mut self, handle: usize) -> Vec<String> {
        disagreements(node_of(handle))
    }

    fn addr(&self, slot: usize) -> u64 {
        self.region(slot).addr()
    }

    fn fill(&mut self, slot: usize, page: usize, bytes: &[u8]) {
        let region = self.region(slot);
        for (nth, word) in bytes.chunks_exact(8).enumerate() {
            let word = u64::from_ne_bytes(word.try_into().unwrap_or_default());
            region.store(page * words_per_page() + nth, word);
        }
    }

    fn submit(&mut self, queue: usize, packets: u64, npackets: u32) -> Result<u64, Errno> {
        let device = &self.devices[handle_of(queue)];
        self.engines.submit(queue, device, packets, npackets)
    }

    fn wait(&mut self, queue: usize, job: u64) -> Result<queue::Outcome, Errno> {
        self.engines.wait(queue, job)
    }

    fn destroy(&mut self, queue: usize) -> Result<(), Errno> {
        self.engines.destroy(queue)
    }

    fn reset(&mut self, handle: usize) -> Result<(), Errno> {
        self.devices[handle].reset().map_err(|error| error.errno)
    }

    fn count(&mut self, queue: usize, counter: usize, add: &Add) -> Result<u64, Errno> {
        let device = &self.devices[handle_of(queue)];
        self.engines.count(queue, device, counter, add)
    }

    fn add(&mut self, counter: usize, add: &Add) {
        self.engines
            .add(&self.devices[counter % HANDLES], counter, add);
    }

    fn counter(&mut self, counter: usize) -> u64 {
        self.engines.counter(counter)
    }

    fn fork(&mut self, model: Model) -> Result<RealChild, Errno> {
        let (here, there) = UnixStream::pair().map_err(|error| errno(&error))?;
        let child = fork_child(|| {
            let Ok(mut world) = Self::new(self.frames.clone(), None) else {
                return 2;
            };
            let regions = std::mem::take(&mut self.regions);
            for (slot, (region, known)) in regions.into_iter().zip(&model.slots).enumerate() {
                world.regions[slot] = region.filter(|_| known.is_some());
            }
            let mut runner = Runner::new(model, world);
            i32::from(Self::serve(&mut runner, there).is_err())
        });
        let child = child.map_err(|error| errno(&error))?;
        let timeout = here.set_read_timeout(Some(PATIENCE));
        timeout.map_err(|error| errno(&error))?;
        Ok(RealChild {
            child,
            stream: BufReader::new(here),
        })
    }
}

/// Creates a file of zeroes that has no name.
fn empty_file() -> io::Result<File> {
    let path = format!("/dev/shm/dmirror-stress-{}", std::process::id());
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)?;
    fs::remove_file(&path)?;
    file.set_len((MAX_PAGES * page_size()) as u64)?;
    Ok(file)
}

/// A forked process that runs steps on request.
pub struct RealChild {
    child: process::Child,
    stream: BufReader<UnixStream>,
}

impl RealChild {
    fn ask(&mut self, line: &str) -> Result<Outcome, Failure> {
        let mut answer = String::new();
        let asked = writeln!(self.stream.get_mut(), "{line}");
        let read = asked.and_then(|()| self.stream.read_line(&mut answer));
        match answer.trim_end().split_once(' ') {
            Some(("ok", outcome)) => Ok(outcome.into()),
            Some((_, failure)) => Err(failure.into()),
            None => Err(match read {
                Ok(_) => "it has died".into(),
                Err(error) => format!("it does not answer: {error}"),
            }),
        }
    }
}

impl Child for RealChild {
    fn step(&mut self, op: &Op) -> Result<Outcome, Failure> {
        self.ask(&op.to_string())
    }

    fn end(mut self) -> Result<(), Failure> {
        self.ask("end")?;
        let Self { child, stream } = self;
        drop(stream);
        match child.wait_for(PATIENCE) {
            Ok(Ok(process::Exit::Status(0))) => Ok(()),
            Ok(Ok(exit)) => Err(format!("{exit:?}")),
            Ok(Err(_)) => Err("it does not end".into()),
            Err(error) => Err(error.to_string()),
        }
    }
}
