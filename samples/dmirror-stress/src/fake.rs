// SPDX-License-Identifier: GPL-2.0

//! A world of plain lists, for tests of the stress test itself: it can be told to
//! have a bug, which must be found and shrunk to the steps that show it.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use dmirror_client::Errno;
use dmirror_client::device::prot;

use crate::content::Seen;
use crate::content::Stamp;
use crate::model::Access;
use crate::model::Model;
use crate::op::Command;
use crate::op::HANDLES;
use crate::op::Kind;
use crate::op::MAX_PAGES;
use crate::op::Memory;
use crate::op::Op;
use crate::op::SLOTS;
use crate::op::Step;
use crate::op::Whole;
use crate::op::node_of;
use crate::runner::Runner;
use crate::world::Answer;
use crate::world::Child;
use crate::world::Failure;
use crate::world::Outcome;
use crate::world::Where;
use crate::world::World;

/// What is wrong with a fake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    None,
    /// A page that is moved to a device and then to another address is stale there.
    StaleAfterMove,
    /// A device writes where it may only read.
    WritesReadOnly,
    /// MIGRATE_TO_SYS leaves the last page.
    LeavesOne,
    /// A page of the second device is not freed.
    Leaks,
}

#[derive(Clone, Copy, Debug)]
struct Page {
    content: Option<Stamp>,
    older: Option<Stamp>,
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

/// A fake process.
#[derive(Clone, Debug)]
pub struct Fake {
    slots: [Option<(Kind, Vec<Page>)>; SLOTS],
    bug: Bug,
    /// Pages that are never freed.
    lost: Rc<RefCell<u64>>,
}

impl Fake {
    pub fn new(bug: Bug) -> Self {
        Self {
            slots: [const { None }; SLOTS],
            bug,
            lost: Rc::default(),
        }
    }

    fn pages(&mut self, slot: usize) -> &mut Vec<Page> {
        &mut self.slots[slot].as_mut().unwrap().1
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
        page.content.map_or(Seen::Zero, Seen::Data)
    }

    fn store(&mut self, slot: usize, page: usize, stamp: Stamp) {
        let page = &mut self.pages(slot)[page];
        assert_eq!(page.access, Access::Write);
        (page.on, page.exclusive) = (None, None);
        page.older = page.content;
        page.content = Some(stamp);
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
            let content = page.content.map_or(Seen::Zero, Seen::Data);
            if let Err(errno) = self.access(what, handle, &mut page, kind) {
                answer.error = Some(errno);
                break;
            }
            match what {
                Command::Read | Command::ReadUnlocked | Command::Exclusive => {
                    answer.view[nth] = content;
                }
                Command::Write => page.content = Some(stamps[nth]),
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

/// A process that is forked from a fake one.
pub struct FakeChild(Box<Runner<Fake>>);

impl Child for FakeChild {
    fn step(&mut self, op: &Op) -> Result<Outcome, Failure> {
        self.0.run(op)
    }

    fn end(mut self) -> Result<(), Failure> {
        self.0.verify()
    }
}

/// Runs a program on a fake.
fn run(program: &[Step], bug: Bug) -> Result<(), Failure> {
    let mut runner = Runner::new(Model::new(true, false), Fake::new(bug));
    assert!(program.iter().all(|step| {
        match step.op {
            Op::Device { handle, .. } => usize::from(handle) < HANDLES,
            _ => true,
        }
    }));
    for step in program {
        runner.step(step)?;
    }
    runner.finish()
}

/// The shortest program found that shows a bug.
fn shortest(bug: Bug) -> Vec<String> {
    let programs = (0..12).map(|seed| crate::generate::program(seed, 300));
    let found = programs
        .filter(|program| run(program, bug).is_err())
        .map(|program| crate::shrink::shrink(&program, |part| run(part, bug).is_err()))
        .min_by_key(Vec::len)
        .expect("a bug is found");
    found.iter().map(ToString::to_string).collect()
}

#[test]
fn a_world_without_bugs_passes() {
    for seed in 0..30 {
        let program = crate::generate::program(seed, 400);
        assert_eq!(run(&program, Bug::None), Ok(()), "seed {seed}");
    }
}

#[test]
fn each_bug_is_found_and_shrunk() {
    for (bug, most) in [
        (Bug::StaleAfterMove, 4),
        (Bug::WritesReadOnly, 3),
        (Bug::LeavesOne, 3),
        (Bug::Leaks, 3),
    ] {
        let program = shortest(bug);
        assert!(program.len() <= most, "{bug:?}: {program:#?}");
    }
}
