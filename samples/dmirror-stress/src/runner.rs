// SPDX-License-Identifier: GPL-2.0

//! Runs steps: applies them to the world and to the model, and compares the two.

use std::ops::Range;

use dmirror_client::Errno;

use crate::flight::Flight;
use crate::job::Order;
use crate::model::Access;
use crate::model::Model;
use crate::model::Page;
use crate::model::Slot;
use crate::op::Kind;
use crate::op::MAX_PAGES;
use crate::op::Memory;
use crate::op::NODES;
use crate::op::Op;
use crate::op::QUEUES;
use crate::op::SLOTS;
use crate::op::Side;
use crate::op::Step;
use crate::op::Whole;
use crate::op::node_of;
use crate::world::Child;
use crate::world::Failure;
use crate::world::Outcome;
use crate::world::Where;
use crate::world::World;

/// The outcome of a step that has nothing to work on.
pub(crate) const SKIPPED: &str = "skipped";

/// A process, its model, and its child.
pub struct Runner<W: World> {
    pub(crate) model: Model,
    pub(crate) world: W,
    /// The jobs that nobody has waited for, of each queue.
    pub(crate) flights: [Vec<Flight>; QUEUES],
    child: Option<W::Child>,
}

/// Returns the outcome of a call that may fail.
fn outcome(answer: Result<(), Errno>) -> Outcome {
    answer.map_or_else(|errno| format!("{errno:?}"), |()| "ok".into())
}

impl<W: World> Runner<W> {
    /// Creates a runner without jobs in flight and without a child.
    pub fn new(model: Model, world: W) -> Self {
        Self {
            model,
            world,
            flights: [const { Vec::new() }; QUEUES],
            child: None,
        }
    }

    /// Runs a step on the side that it names.
    ///
    /// # Errors
    ///
    /// A description of the first violation.
    pub fn step(&mut self, step: &Step) -> Result<Outcome, Failure> {
        match step.side {
            Side::Parent => self.run(&step.op),
            Side::Child => match &mut self.child {
                None => Ok(SKIPPED.into()),
                Some(child) => {
                    let answer = child.step(&step.op);
                    answer.map_err(|failure| format!("in the child: {failure}"))
                }
            },
        }
    }

    /// Ends the child, checks everything, and unmaps all memory.
    ///
    /// # Errors
    ///
    /// A description of the first violation.
    pub fn finish(mut self) -> Result<(), Failure> {
        self.exit()?;
        self.verify()?;
        for slot in 0..SLOTS {
            if self.model.slots[slot].take().is_some() {
                self.world.unmap(slot, 0);
            }
        }
        if self.model.alone {
            for handle in 0..NODES {
                self.check_empty(handle, "after all was unmapped")?;
                // While others move pages, the sums need not agree.
                if let Some(sum) = self.world.disagreements(handle).first() {
                    let node = node_of(handle);
                    return Err(format!("statistics of device {node} do not agree: {sum}"));
                }
            }
        }
        Ok(())
    }

    /// Runs a step of this process.
    ///
    /// # Errors
    ///
    /// A description of the first violation.
    pub fn run(&mut self, op: &Op) -> Result<Outcome, Failure> {
        let skipped = Ok(SKIPPED.into());
        let size = |slot: u8| self.model.slots[usize::from(slot)].as_ref();
        let size = |slot: u8| size(slot).map(|slot| slot.pages.len());
        match *op {
            Op::Map { slot, kind, pages } if size(slot).is_none() => {
                let (slot, pages) = (slot.into(), pages.into());
                let answer = self.world.map(slot, kind, pages);
                if answer.is_ok() {
                    self.model.slots[slot] = Some(Slot::new(kind, pages));
                }
                Ok(outcome(answer))
            }
            Op::Unmap { slot, at } => {
                let Some(pages) = size(slot) else {
                    return skipped;
                };
                let (slot, at) = (usize::from(slot), usize::from(at) % pages);
                self.settle(slot, &(0..pages), u8::MAX)?;
                self.world.unmap(slot, at);
                let mapped = &mut self.model.slots[slot];
                if at == 0 {
                    *mapped = None;
                } else if let Some(mapped) = mapped {
                    mapped.pages.truncate(at);
                }
                Ok("ok".into())
            }
            Op::Split { slot, at, into } => match size(slot) {
                Some(pages) if usize::from(at) % pages > 0 && size(into).is_none() => {
                    let (slot, into) = (usize::from(slot), usize::from(into));
                    let at = usize::from(at) % pages;
                    self.settle(slot, &(0..pages), u8::MAX)?;
                    self.world.split(slot, at, into);
                    let tail = self.model.slots[slot].as_mut().map(|slot| Slot {
                        kind: slot.kind,
                        pages: slot.pages.split_off(at),
                        moved: slot.moved,
                    });
                    self.model.slots[into] = tail;
                    Ok("ok".into())
                }
                _ => skipped,
            },
            Op::Move { slot, pages } if size(slot).is_some() && !self.model.is_wiped(slot) => {
                let all = 0..size(slot).unwrap_or_default();
                self.settle(slot.into(), &all, u8::MAX)?;
                Ok(self.relocate(slot.into(), pages.into()))
            }
            Op::Take { slot, into } => match &self.model.slots[usize::from(slot)] {
                Some(Slot {
                    kind: Kind::Small | Kind::Huge,
                    pages,
                    ..
                }) if size(into).is_none() && !self.model.is_wiped(slot) => {
                    let all = 0..pages.len();
                    self.settle(slot.into(), &all, u8::MAX)?;
                    Ok(self.take(slot.into(), into.into()))
                }
                _ => skipped,
            },
            Op::Memory { what, slot, span } => match size(slot) {
                Some(pages) => self.memory(what, slot.into(), &span.within(pages)),
                None => skipped,
            },
            Op::Device {
                what,
                handle,
                slot,
                span,
            } => match size(slot) {
                Some(pages) => {
                    let (slot, range) = (slot.into(), span.within(pages));
                    let outcome = self.device(what, handle.into(), slot, &range)?;
                    self.check_places(slot, &range)?;
                    Ok(outcome)
                }
                None => skipped,
            },
            Op::Job {
                what,
                queue,
                slot,
                span,
                other,
                seed,
            } => match size(slot) {
                Some(pages) => self.job(&Order {
                    what,
                    queue: queue.into(),
                    area: self.area(slot.into(), &span.within(pages), other.into()),
                    seed,
                }),
                None => skipped,
            },
            Op::Queue { what, queue } => self.queue(what, queue.into()),
            Op::Count {
                queue,
                counter,
                times,
            } => self.count(queue.into(), counter.into(), times.into()),
            Op::Whole { what, handle } => self.whole(what, handle.into()),
            Op::Reclaim { mib } => {
                for page in self.model.pages_mut() {
                    page.swapped = true;
                }
                Ok(outcome(self.world.reclaim(mib.into())))
            }
            Op::Verify => self.verify().map(|()| "ok".into()),
            Op::Fork if self.child.is_none() => self.fork(),
            Op::Exit if self.child.is_some() => self.exit().map(|()| "ok".into()),
            Op::Map { .. } | Op::Move { .. } | Op::Fork | Op::Exit => skipped,
        }
    }

    fn relocate(&mut self, slot: usize, pages: usize) -> Outcome {
        let Some(mapped) = &self.model.slots[slot] else {
            return SKIPPED.into();
        };
        // There is nothing behind the end of a file.
        let limit = match mapped.kind {
            Kind::Shared | Kind::File => mapped.pages.len(),
            Kind::Small | Kind::Huge => MAX_PAGES,
        };
        let pages = pages.min(limit);
        let answer = self.world.relocate(slot, pages);
        let mapped = &mut self.model.slots[slot];
        match mapped {
            Some(mapped) if answer.is_ok() => {
                // Added pages have the properties of the last page.
                let mut fresh = mapped.pages.last().copied().unwrap_or(Page::FRESH);
                fresh.emptied();
                mapped.pages.resize(pages, fresh);
                mapped.moved = true;
            }
            mapped => *mapped = None,
        }
        outcome(answer)
    }

    fn take(&mut self, slot: usize, into: usize) -> Outcome {
        let answer = self.world.take(slot, into);
        if answer.is_ok() {
            self.model.slots[into] = self.model.slots[slot].clone();
            if let Some(taken) = &mut self.model.slots[into] {
                taken.moved = true;
            }
            for page in self.model.slots[slot].iter_mut().flat_map(|s| &mut s.pages) {
                page.emptied();
            }
        }
        outcome(answer)
    }

    fn memory(
        &mut self,
        what: Memory,
        slot: usize,
        range: &Range<usize>,
    ) -> Result<Outcome, Failure> {
        let kind = self.model.slots[slot].as_ref().map(|slot| slot.kind);
        if what.changes_jobs() {
            self.settle(slot, range, u8::MAX)?;
        }
        match what {
            // The replaced part would be private from then on, but the rest would not.
            Memory::Replace if kind == Some(Kind::Shared) => return Ok(SKIPPED.into()),
            Memory::WipeOnFork if self.model.slots[slot].as_ref().is_some_and(|s| s.moved) => {
                return Ok(SKIPPED.into());
            }
            Memory::Read => return self.read(slot, range),
            Memory::Write => {
                let stamps = self.model.new_stamps(slot, range);
                let Some(mapped) = &mut self.model.slots[slot] else {
                    return Ok(SKIPPED.into());
                };
                for (page, stamp) in range.clone().zip(stamps) {
                    if mapped.pages[page].access == Access::Write {
                        self.world.store(slot, page, stamp);
                        mapped.pages[page].written(stamp);
                        mapped.pages[page].touched();
                    }
                }
                self.check_places(slot, range)?;
                return Ok("ok".into());
            }
            _ => {}
        }
        let answer = self.world.manage(what, slot, range);
        let Some(mapped) = &mut self.model.slots[slot] else {
            return Ok(SKIPPED.into());
        };
        let done = answer.is_ok();
        // The content of shared memory does not belong to the mapping.
        let keeps = kind == Some(Kind::Shared);
        for page in mapped.part_mut(range) {
            match what {
                Memory::Replace if done => *page = Page::FRESH,
                Memory::DontNeed if keeps => {}
                Memory::DontNeed if done => page.emptied(),
                // A call that failed may have done a part of the pages.
                Memory::DontNeed | Memory::Free if !keeps => page.maybe_zero = true,
                Memory::ProtectNone if done => page.access = Access::None,
                Memory::ProtectRead if done => page.access = Access::Read,
                Memory::ProtectWrite if done => page.access = Access::Write,
                Memory::PageOut | Memory::Cold => page.swapped = true,
                Memory::DontFork => page.not_forked = true,
                Memory::DoFork if done => page.not_forked = false,
                Memory::WipeOnFork if done => page.wiped = true,
                Memory::Mergeable => page.mergeable = true,
                Memory::Unmergeable if done => page.mergeable = false,
                _ => {}
            }
        }
        Ok(outcome(answer))
    }

    /// Reads the readable pages of a range with the CPU.
    fn read(&mut self, slot: usize, range: &Range<usize>) -> Result<Outcome, Failure> {
        let Some(mapped) = &mut self.model.slots[slot] else {
            return Ok(SKIPPED.into());
        };
        for page in range.clone() {
            let known = &mut mapped.pages[page];
            if known.access >= Access::Read {
                let seen = self.world.load(slot, page);
                let found = known.observe(seen);
                found.map_err(|what| format!("the CPU, slot {slot} page {page}: {what}"))?;
                known.touched();
            }
        }
        self.check_places(slot, range)?;
        Ok("ok".into())
    }

    fn whole(&mut self, what: Whole, handle: usize) -> Result<Outcome, Failure> {
        if what == Whole::Reopen {
            self.destroy_all_of(handle)?;
        }
        let answer = self.world.whole(what, handle);
        let node = node_of(handle);
        match (what, answer.error) {
            (Whole::Release, None) => {
                for page in self.model.pages_mut() {
                    page.devices &= !(1 << node);
                }
                if self.model.is_quiet() {
                    self.check_empty(handle, "after RELEASE")?;
                }
            }
            (Whole::Reopen, None) => {
                for page in self.model.pages_mut() {
                    page.exclusive &= !(1 << handle);
                }
            }
            (Whole::FailAlloc, None) => {}
            (Whole::Release, Some(Errno::EBUSY | Errno::ENOMEM)) if !self.model.is_quiet() => {}
            (_, Some(errno)) => return Err(format!("{} {handle}: {errno}", what.word())),
        }
        Ok(answer
            .error
            .map_or_else(|| "ok".into(), |errno| format!("{errno:?}")))
    }

    fn fork(&mut self) -> Result<Outcome, Failure> {
        let model = self.model.fork();
        let child = self.world.fork(model);
        let answer = child.map(|child| self.child = Some(child));
        Ok(outcome(answer))
    }

    fn exit(&mut self) -> Result<(), Failure> {
        let ended = self.child.take().map_or(Ok(()), Child::end);
        ended.map_err(|failure| format!("at the end of the child: {failure}"))
    }

    /// Compares everything with the model: first without touching pages, then by reading them.
    ///
    /// # Errors
    ///
    /// A description of the first violation.
    pub fn verify(&mut self) -> Result<(), Failure> {
        self.collect_all()?;
        let mut on_device = [0; NODES];
        for slot in 0..SLOTS {
            let Some(mapped) = &self.model.slots[slot] else {
                continue;
            };
            let all = 0..mapped.pages.len();
            for place in self.check_places(slot, &all)? {
                if let Where::Device(Some(node)) = place {
                    on_device[node] += 1;
                }
            }
            for handle in 0..NODES {
                self.device(crate::op::Command::Snapshot, handle, slot, &all)?;
            }
        }
        if self.model.alone {
            for (node, &mapped) in on_device.iter().enumerate() {
                match self.world.used(node) {
                    Some((used, _)) if used < mapped => {
                        return Err(format!(
                            "device {node} says that {used} pages are in use, and {mapped} are mapped"
                        ));
                    }
                    _ => {}
                }
            }
        }
        for slot in 0..SLOTS {
            if let Some(mapped) = &self.model.slots[slot] {
                let all = 0..mapped.pages.len();
                self.read(slot, &all)?;
            }
        }
        Ok(())
    }

    fn check_empty(&mut self, handle: usize, when: &str) -> Result<(), Failure> {
        match self.world.used(handle) {
            Some((used, _)) if used > 0 => {
                let node = node_of(handle);
                Err(format!("device {node} has {used} pages in use {when}"))
            }
            _ => Ok(()),
        }
    }

    /// Compares the places of pages with the possible ones, without touching the pages.
    pub(crate) fn check_places(
        &mut self,
        slot: usize,
        range: &Range<usize>,
    ) -> Result<Vec<Where>, Failure> {
        let places = self.world.places(slot, range)?;
        let Some(mapped) = &self.model.slots[slot] else {
            return Ok(places);
        };
        for (nth, (place, page)) in places.iter().zip(mapped.part(range)).enumerate() {
            let possible = match *place {
                Where::System => true,
                Where::Device(Some(node)) => self.model.may_be_on(page, node),
                Where::Device(None) => (0..NODES).any(|node| self.model.may_be_on(page, node)),
                Where::Swapped => self.model.swap,
                Where::Held => {
                    page.held || page.shared || !self.model.is_quiet() || self.model.swap
                }
            };
            if !possible {
                let page = range.start + nth;
                return Err(format!("slot {slot} page {page} is {place:?}"));
            }
        }
        Ok(places)
    }
}
