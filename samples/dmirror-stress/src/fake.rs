// SPDX-License-Identifier: GPL-2.0

//! A world of plain lists, for tests of the stress test itself: it can have a bug, which
//! the stress test must find, and shrink to the steps that show it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use dmirror_client::Errno;
use dmirror_client::device::prot;
use dmirror_client::interpreter;
use dmirror_client::interpreter::Denied;
use dmirror_client::packet::Opcode;
use dmirror_client::packet::Packet;
use dmirror_client::page_size;
use dmirror_client::queue;

use crate::content::Content;
use crate::content::Library;
use crate::content::Seen;
use crate::content::Stamp;
use crate::model::Access;
use crate::model::Model;
use crate::op::COUNTERS;
use crate::op::Command;
use crate::op::Kind;
use crate::op::MAX_PAGES;
use crate::op::Memory;
use crate::op::Op;
use crate::op::QUEUES;
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

mod tests;

/// The bug of a fake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    None,
    /// A page on a device has stale content after a move to another address.
    StaleAfterMove,
    /// A device writes where it may only read.
    WritesReadOnly,
    /// MIGRATE_TO_SYS leaves the last page on the device.
    LeavesOne,
    /// A page of the second device is not freed.
    Leaks,
    /// An engine writes where it may only read.
    EngineWritesReadOnly,
    /// An engine executes the packet after a failed one, too.
    EngineGoesOn,
    /// One of several additions is lost.
    LosesAddition,
}

#[derive(Clone, Copy, Debug)]
struct Page {
    content: Option<Content>,
    older: Option<Content>,
    access: Access,
    on: Option<usize>,
    exclusive: Option<usize>,
}

const FRESH: Page = Page {
    content: None,
    older: None,
    access: Access::Write,
    on: None,
    exclusive: None,
};

/// The distance between the slots of a fake, in bytes.
const SLOT_SIZE: u64 = 1 << 40;

/// A fake process.
#[derive(Clone, Debug)]
pub struct Fake {
    slots: [Option<(Kind, Vec<Page>)>; SLOTS],
    library: Library,
    /// The outcomes of the jobs of each queue.
    jobs: [Vec<queue::Outcome>; QUEUES],
    counters: [u64; COUNTERS],
    bug: Bug,
    /// The number of pages that are never freed.
    lost: Rc<RefCell<u64>>,
}

impl Fake {
    pub fn new(bug: Bug) -> Self {
        Self {
            slots: [const { None }; SLOTS],
            library: Library::default(),
            jobs: [const { Vec::new() }; QUEUES],
            counters: [0; COUNTERS],
            bug,
            lost: Rc::default(),
        }
    }

    fn pages(&mut self, slot: usize) -> &mut Vec<Page> {
        &mut self.slots[slot].as_mut().unwrap().1
    }

    fn seen(&self, content: Option<Content>) -> Seen {
        match content {
            None => Seen::Zero,
            Some(Content::Pattern(stamp)) => Seen::Data(stamp),
            Some(Content::Other(_)) => Seen::in_bytes(&self.library.bytes(content))[0],
        }
    }

    /// Returns the page at an address, and the offset of the address in it.
    fn page_at(&mut self, addr: u64) -> Result<(&mut Page, usize), Denied> {
        let slot = (addr / SLOT_SIZE).checked_sub(1).ok_or(Denied::Unmapped)?;
        let slot = self.slots.get_mut(slot as usize).and_then(Option::as_mut);
        let offset = (addr % SLOT_SIZE) as usize;
        let page = slot.and_then(|slot| slot.1.get_mut(offset / page_size()));
        let page = page.ok_or(Denied::Unmapped)?;
        match page.access {
            Access::None => Err(Denied::Unreadable),
            _ => Ok((page, offset % page_size())),
        }
    }

    fn access(
        &mut self,
        what: Command,
        handle: usize,
        page: &mut Page,
        kind: Kind,
    ) -> Result<(), Errno> {
        let bug = self.bug;
        let of_file = matches!(kind, Kind::Shared | Kind::File);
        let readable = page.access >= Access::Read;
        let writable = page.access == Access::Write;
        match what {
            Command::Read | Command::ReadUnlocked if !readable => return Err(Errno::EFAULT),
            Command::Write if !readable => return Err(Errno::EFAULT),
            Command::Write if !writable && bug != Bug::WritesReadOnly => return Err(Errno::EPERM),
            Command::Exclusive if !writable => return Err(Errno::EFAULT),
            Command::Exclusive if of_file => return Err(Errno::EOPNOTSUPP),
            Command::Exclusive => {
                page.on = None;
                page.exclusive = Some(handle);
            }
            Command::CheckExclusive if page.exclusive == Some(handle) => return Err(Errno::EPERM),
            Command::Read | Command::ReadUnlocked | Command::Write => {
                page.on = page.on.filter(|on| *on == node_of(handle));
            }
            _ => {}
        }
        Ok(())
    }
}

/// The memory of a fake while an engine works on it.
struct Engine<'f> {
    fake: &'f mut Fake,
    /// The pages that it has read or written, by their address.
    pages: BTreeMap<u64, Vec<u8>>,
    /// Set if it has met an atomic operation.
    is_atomic: bool,
}

impl<'f> Engine<'f> {
    /// Executes packets at once. A job with an atomic operation leaves all writable pages that
    /// it has used exclusive.
    fn run(fake: &'f mut Fake, handle: usize, packets: u64, npackets: u64) -> queue::Outcome {
        let mut engine = Self {
            fake,
            pages: BTreeMap::new(),
            is_atomic: false,
        };
        let outcome = interpreter::run(&mut engine, packets, npackets);
        for (addr, bytes) in engine.pages {
            let content = engine.fake.library.keep(bytes);
            if let Ok((page, _)) = engine.fake.page_at(addr) {
                page.content = content;
                if engine.is_atomic && page.access == Access::Write {
                    (page.on, page.exclusive) = (None, Some(handle));
                }
            }
        }
        outcome
    }

    fn bytes(&mut self, addr: u64) -> Result<(&mut [u8], Access), Denied> {
        let (page, offset) = self.fake.page_at(addr)?;
        let Page {
            content, access, ..
        } = *page;
        let start = addr - offset as u64;
        let library = &self.fake.library;
        let bytes = self.pages.entry(start);
        let bytes = bytes.or_insert_with(|| library.bytes(content));
        Ok((&mut bytes[offset..], access))
    }
}

impl interpreter::Memory for Engine<'_> {
    fn read(&mut self, addr: u64, bytes: &mut [u8]) -> Result<(), Denied> {
        bytes.copy_from_slice(&self.bytes(addr)?.0[..bytes.len()]);
        self.is_atomic |= bytes.len() == Packet::SIZE
            && bytes.starts_with(&(Opcode::Atomic as u32).to_le_bytes());
        Ok(())
    }

    fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), Denied> {
        let careless = self.fake.bug == Bug::EngineWritesReadOnly;
        let (page, access) = self.bytes(addr)?;
        if access == Access::Read && !careless {
            return Err(Denied::ReadOnly);
        }
        page[..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

impl World for Fake {
    type Child = FakeChild;

    fn map(&mut self, slot: usize, kind: Kind, pages: usize) -> Result<(), Errno> {
        assert!(self.slots[slot].is_none() && pages <= MAX_PAGES);
        self.slots[slot] = Some((kind, vec![FRESH; pages]));
        Ok(())
    }

    fn unmap(&mut self, slot: usize, at: usize) {
        if self.bug == Bug::Leaks && self.pages(slot).iter().any(|page| page.on == Some(1)) {
            *self.lost.borrow_mut() += 1;
        }
        self.pages(slot).truncate(at);
        if at == 0 {
            self.slots[slot] = None;
        }
    }

    fn split(&mut self, slot: usize, at: usize, into: usize) {
        assert!(self.slots[into].is_none() && at > 0);
        let tail = self.pages(slot).split_off(at);
        let kind = self.slots[slot].as_ref().unwrap().0;
        self.slots[into] = Some((kind, tail));
    }

    fn relocate(&mut self, slot: usize, pages: usize) -> Result<(), Errno> {
        let stale = self.bug == Bug::StaleAfterMove;
        let access = self.pages(slot).last().unwrap().access;
        let fresh = Page { access, ..FRESH };
        self.pages(slot).resize(pages, fresh);
        for page in self.pages(slot) {
            if stale && page.on.is_some() {
                page.content = page.older;
            }
        }
        Ok(())
    }

    fn take(&mut self, slot: usize, into: usize) -> Result<(), Errno> {
        self.slots[into] = self.slots[slot].clone();
        for page in self.pages(slot) {
            let access = page.access;
            *page = Page { access, ..FRESH };
        }
        Ok(())
    }

    fn load(&mut self, slot: usize, page: usize) -> Seen {
        let page = &mut self.pages(slot)[page];
        assert!(page.access >= Access::Read);
        (page.on, page.exclusive) = (None, None);
        let content = page.content;
        self.seen(content)
    }

    fn store(&mut self, slot: usize, page: usize, stamp: Stamp) {
        let page = &mut self.pages(slot)[page];
        assert_eq!(page.access, Access::Write);
        (page.on, page.exclusive) = (None, None);
        page.older = page.content;
        page.content = Some(Content::Pattern(stamp));
    }

    fn manage(&mut self, what: Memory, slot: usize, range: &Range<usize>) -> Result<(), Errno> {
        let shared = self.slots[slot].as_ref().unwrap().0 == Kind::Shared;
        for page in &mut self.pages(slot)[range.clone()] {
            let access = page.access;
            match what {
                Memory::Replace => *page = FRESH,
                Memory::DontNeed if !shared => *page = Page { access, ..FRESH },
                Memory::Free if shared => return Err(Errno::EINVAL),
                Memory::Free => page.content = None,
                Memory::ProtectNone => page.access = Access::None,
                Memory::ProtectRead => page.access = Access::Read,
                Memory::ProtectWrite => page.access = Access::Write,
                _ => {}
            }
        }
        Ok(())
    }

    fn device(
        &mut self,
        what: Command,
        handle: usize,
        (slot, range): (usize, &Range<usize>),
        stamps: &[Stamp],
    ) -> Answer {
        let mut answer = Answer {
            error: None,
            pages: None,
            view: vec![Seen::Untouched; range.len()],
            bytes: Vec::new(),
        };
        let (kind, node) = (self.slots[slot].as_ref().unwrap().0, node_of(handle));
        let mut done = 0;
        for (nth, index) in range.clone().enumerate() {
            let mut page = self.pages(slot)[index];
            let content = self.seen(page.content);
            if let Err(errno) = self.access(what, handle, &mut page, kind) {
                answer.error = Some(errno);
                break;
            }
            match what {
                Command::Read | Command::ReadUnlocked | Command::Exclusive => {
                    answer.view[nth] = content;
                }
                Command::Write => page.content = Some(Content::Pattern(stamps[nth])),
                Command::ToDevice | Command::ToSystem if page.access == Access::None => {
                    answer.error = Some(Errno::EINVAL);
                    break;
                }
                Command::ToDevice => {
                    let other = page.on.is_some_and(|on| on != node);
                    if kind == Kind::Shared || other || page.exclusive.is_some() {
                        answer.error = Some(Errno::ENOENT);
                        continue;
                    }
                    page.on = Some(node);
                    answer.view[nth] = content;
                }
                Command::ToSystem => {
                    let left = self.bug == Bug::LeavesOne && index + 1 == range.end;
                    page.on = page.on.filter(|on| *on != node || left);
                }
                Command::Snapshot => answer.bytes.push(match (page.access, page.on) {
                    (Access::None, _) => prot::ERROR,
                    (_, Some(on)) if on != node => prot::NONE,
                    (Access::Read, on) => prot::READ | on.map_or(0, |_| prot::PRIVATE_LOCAL),
                    (_, on) => prot::WRITE | on.map_or(0, |_| prot::PRIVATE_LOCAL),
                }),
                Command::CheckExclusive => {}
            }
            done += 1;
            self.pages(slot)[index] = page;
        }
        answer.pages = Some(done);
        answer
    }

    fn whole(&mut self, what: Whole, handle: usize) -> Answer {
        for page in self.slots.iter_mut().flatten().flat_map(|slot| &mut slot.1) {
            match what {
                Whole::Release => page.on = page.on.filter(|on| *on != node_of(handle)),
                Whole::Reopen => page.exclusive = page.exclusive.filter(|by| *by != handle),
                Whole::FailAlloc => {}
            }
        }
        Answer {
            error: None,
            pages: Some(0),
            view: Vec::new(),
            bytes: Vec::new(),
        }
    }

    fn reclaim(&mut self, _mib: usize) -> Result<(), Errno> {
        Err(Errno::ENOENT)
    }

    fn places(&mut self, slot: usize, range: &Range<usize>) -> Result<Vec<Where>, Failure> {
        let place = |page: &Page| match page.on {
            Some(on) => Where::Device(Some(on)),
            None if page.exclusive.is_some() => Where::Held,
            None => Where::System,
        };
        Ok(self.pages(slot)[range.clone()].iter().map(place).collect())
    }

    fn used(&mut self, handle: usize) -> Option<(u64, u64)> {
        let node = node_of(handle);
        let pages = self.slots.iter().flatten().flat_map(|slot| &slot.1);
        let used = pages.filter(|page| page.on == Some(node)).count() as u64;
        Some((used + *self.lost.borrow() * node as u64, 4096))
    }

    fn disagreements(&mut self, _handle: usize) -> Vec<String> {
        Vec::new()
    }

    fn addr(&self, slot: usize) -> u64 {
        (slot as u64 + 1) * SLOT_SIZE
    }

    fn fill(&mut self, slot: usize, page: usize, bytes: &[u8]) {
        let content = self.library.keep(bytes.to_vec());
        let page = &mut self.pages(slot)[page];
        assert_eq!(page.access, Access::Write);
        (page.on, page.exclusive) = (None, None);
        page.content = content;
    }

    fn submit(&mut self, queue: usize, packets: u64, npackets: u32) -> Result<u64, Errno> {
        let handle = handle_of(queue);
        let outcome = Engine::run(self, handle, packets, npackets.into());
        if outcome.error.is_some() && self.bug == Bug::EngineGoesOn {
            Engine::run(self, handle, packets + 64 * (outcome.executed + 1), 1);
        }
        self.jobs[queue].push(outcome);
        Ok(self.jobs[queue].len() as u64)
    }

    fn wait(&mut self, queue: usize, job: u64) -> Result<queue::Outcome, Errno> {
        let outcome = self.jobs[queue].get(job as usize - 1);
        outcome.copied().ok_or(Errno::EINVAL)
    }

    fn destroy(&mut self, queue: usize) -> Result<(), Errno> {
        self.jobs[queue].clear();
        Ok(())
    }

    fn reset(&mut self, _handle: usize) -> Result<(), Errno> {
        Ok(())
    }

    fn count(&mut self, queue: usize, counter: usize, add: &Add) -> Result<u64, Errno> {
        self.add(counter, add);
        if self.bug == Bug::LosesAddition && add.times > 500 {
            self.counters[counter] = self.counters[counter].wrapping_sub(add.value);
        }
        self.jobs[queue].push(queue::Outcome::done(1));
        Ok(self.jobs[queue].len() as u64)
    }

    fn add(&mut self, counter: usize, add: &Add) {
        let sum = add.value.wrapping_mul(add.times);
        self.counters[counter] = self.counters[counter].wrapping_add(sum);
    }

    fn counter(&mut self, counter: usize) -> u64 {
        self.counters[counter]
    }

    fn fork(&mut self, model: Model) -> Result<FakeChild, Errno> {
        let mut fake = self.clone();
        for (slot, known) in fake.slots.iter_mut().zip(&model.slots) {
            match (slot.as_mut(), known) {
                (Some((_, pages)), Some(known)) => {
                    for (page, known) in pages.iter_mut().zip(&known.pages) {
                        page.content = page.content.filter(|_| !known.wiped);
                        (page.on, page.exclusive) = (None, None);
                    }
                }
                _ => *slot = None,
            }
        }
        Ok(FakeChild(Box::new(Runner::new(model, fake))))
    }
}

/// A child of a fake process.
pub struct FakeChild(Box<Runner<Fake>>);

impl Child for FakeChild {
    fn step(&mut self, op: &Op) -> Result<Outcome, Failure> {
        self.0.run(op)
    }

    fn end(mut self) -> Result<(), Failure> {
        self.0.verify()
    }
}
