// SPDX-License-Identifier: GPL-2.0

//! Jobs: the changes that engines make to memory, and the outcomes that they report.
//!
//! A job works on an area: a part of a slot, one of whose pages holds the packets, and a part of
//! another slot. While it is in flight, nothing else writes to the area, or changes its protection
//! or its address: a step that would do so waits for the job first. So the result of a job is known
//! before it is submitted. All that keeps the content goes on meanwhile: pages move to either
//! device and back, are read, swapped out, made exclusive, forked, merged; jobs of other queues
//! work on other areas, and later jobs of the same queue on the same area.

use std::collections::BTreeMap;
use std::ops::Range;

use dmirror_client::PageRange;
use dmirror_client::interpreter;
use dmirror_client::interpreter::Denied;
use dmirror_client::packet;
use dmirror_client::packet::Opcode;
use dmirror_client::packet::Packet;
use dmirror_client::page_size;
use dmirror_client::program::Dice;
use dmirror_client::program::Ground;
use dmirror_client::queue;

use crate::flight::DEPTH;
use crate::flight::Flight;
use crate::flight::Work;
use crate::model::Access;
use crate::model::Model;
use crate::op::Command;
use crate::op::Job;
use crate::op::handle_of;
use crate::runner::Runner;
use crate::runner::SKIPPED;
use crate::world::Failure;
use crate::world::Outcome;
use crate::world::World;

/// The most pages of a part of an area.
const MOST: usize = 64;

/// The most packets that a job executes.
const PACKETS: u64 = 48;

/// Below this (mmap_min_addr), and from `NOWHERE_FROM` on by default, nothing is mapped.
const NOWHERE_BELOW: u64 = 1 << 16;
const NOWHERE_FROM: u64 = 1 << 47;

/// Parts of slots.
pub(crate) type Area = Vec<(usize, Range<usize>)>;

/// A slot, and a page of it.
type At = (usize, usize);

/// Memory as the model knows it, and pages that a job has changed.
struct View<'m> {
    model: &'m Model,
    addrs: &'m [Option<u64>],
    area: &'m Area,
    pages: BTreeMap<At, Copied>,
    /// Set if the job would access memory outside its area that can be mapped.
    strayed: bool,
}

/// A page of a view.
struct Copied {
    bytes: Vec<u8>,
    is_changed: bool,
}

/// The expected result of a job.
struct Forecast {
    outcome: queue::Outcome,
    npackets: u64,
    /// The pages that change, with their new bytes.
    changed: Vec<(At, Vec<u8>)>,
}

impl View<'_> {
    /// Returns the slot and page of an address.
    fn page_at(&mut self, addr: u64) -> Result<At, Denied> {
        let page = page_size() as u64;
        for (slot, range) in self.area {
            let Some(start) = self.addrs[*slot] else {
                continue;
            };
            let nth = addr
                .checked_sub(start)
                .map(|offset| (offset / page) as usize);
            if let Some(nth) = nth.filter(|nth| range.contains(nth)) {
                return Ok((*slot, nth));
            }
        }
        self.strayed |= (NOWHERE_BELOW..NOWHERE_FROM).contains(&addr);
        Err(Denied::Unmapped)
    }

    /// Returns the page of an address, if this access to it is allowed.
    fn page(&mut self, addr: u64, access: Access) -> Result<&mut Copied, Denied> {
        let at = self.page_at(addr)?;
        let page = self.model.page(at);
        match page.access {
            Access::None => return Err(Denied::Unreadable),
            Access::Read if access == Access::Write => return Err(Denied::ReadOnly),
            Access::Read | Access::Write => {}
        }
        Ok(self.pages.entry(at).or_insert_with(|| Copied {
            bytes: self.model.library.bytes(page.content),
            is_changed: false,
        }))
    }
}

impl interpreter::Memory for View<'_> {
    fn read(&mut self, addr: u64, bytes: &mut [u8]) -> Result<(), Denied> {
        let offset = addr as usize % page_size();
        let page = self.page(addr, Access::Read)?;
        bytes.copy_from_slice(&page.bytes[offset..offset + bytes.len()]);
        Ok(())
    }

    fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), Denied> {
        let offset = addr as usize % page_size();
        let page = self.page(addr, Access::Write)?;
        page.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        page.is_changed = true;
        Ok(())
    }
}

/// The parameters of a job, as a step gives them.
pub(crate) struct Order {
    pub what: Job,
    pub queue: usize,
    pub area: Area,
    pub seed: u32,
}

impl<W: World> Runner<W> {
    /// Returns the area of a job: a part of a slot, and one of `other` if that is mapped.
    pub(crate) fn area(&self, slot: usize, range: &Range<usize>, other: usize) -> Area {
        let cut = |range: &Range<usize>| range.start..range.end.min(range.start + MOST);
        let pages = self.model.slots[slot].as_ref();
        let pages = pages.map_or(0, |slot| slot.pages.len());
        // One page for the packets, and one to work on.
        let start = range.start.min(pages.saturating_sub(2));
        let mut area = vec![(slot, cut(&(start..range.end.max(start + 2).min(pages))))];
        if let Some(mapped) = self.model.slots[other].as_ref().filter(|_| other != slot) {
            let start = range.start % mapped.pages.len();
            area.push((other, cut(&(start..mapped.pages.len()))));
        }
        area
    }

    /// Makes an engine execute packets.
    ///
    /// # Errors
    ///
    /// A description of the first violation.
    pub(crate) fn job(&mut self, order: &Order) -> Result<Outcome, Failure> {
        let Order {
            what,
            queue,
            ref area,
            seed,
        } = *order;
        let (slot, range) = area[0].clone();
        if range.len() < 2 {
            return Ok(SKIPPED.into());
        }
        let mut dice = Dice::new(seed.into());
        let code = (slot, range.start + dice.below(range.len() as u64) as usize);
        if !self.prepare(queue, area, code)? {
            return Ok(SKIPPED.into());
        }
        let addrs = self.addrs();
        let at = addrs[slot].unwrap_or_default() + (code.1 * page_size()) as u64;
        if self.model.page(code).access == Access::Write {
            let changes_itself = what == Job::Run && dice.one_in(8);
            let ground = self.ground(area, code, &addrs, changes_itself);
            self.write_packets(code, &ground.program(&mut dice));
        }
        let npackets = 1 + dice.below(PACKETS);
        let changes = |forecast: &Forecast| forecast.changed.iter().any(|(at, _)| *at == code);
        let mut forecast = self.foresee(area, &addrs, at, npackets);
        let changes_itself = forecast.as_ref().is_some_and(changes);
        if changes_itself && !self.flights[queue].is_empty() {
            // If an earlier job has another result, such a job may do anything.
            self.collect(queue)?;
            forecast = self.foresee(area, &addrs, at, npackets);
        }
        let Some(forecast) = forecast else {
            return Ok(SKIPPED.into());
        };
        let packets = self.model.library.bytes(self.model.page(code).content);
        let has = |opcode: Opcode| {
            let number = (opcode as u32).to_le_bytes();
            let mut packets = packets.chunks_exact(Packet::SIZE);
            changes_itself || packets.any(|packet| packet.starts_with(&number))
        };
        let submitted = self.world.submit(queue, at, forecast.npackets as u32);
        let job = submitted.map_err(|errno| format!("SUBMIT to queue {queue}: {errno}"))?;
        self.model.flying |= 1 << queue;
        for (slot, range) in area {
            for page in self.model.part_mut(*slot, range) {
                page.busy |= 1 << queue;
            }
        }
        for ((slot, page), bytes) in forecast.changed {
            let content = self.model.library.keep(bytes);
            for page in self.model.part_mut(slot, &(page..page + 1)) {
                page.holds(content);
                page.changing |= 1 << queue;
            }
        }
        self.flights[queue].push(Flight {
            job,
            expected: forecast.outcome,
            what: Work::Packets {
                area: area.clone(),
                is_atomic: has(Opcode::Atomic),
            },
        });
        if what == Job::Submit && !changes_itself && !self.model.is_child {
            return Ok("ok".into());
        }
        let outcome = self.collect(queue)?;
        for (slot, range) in area.iter().filter(|_| seed % 2 == 0) {
            self.device(Command::Read, handle_of(queue), *slot, range)?;
        }
        Ok(outcome)
    }

    /// Waits for other queues that use an area, and for all that use the page for the packets;
    /// rewrites pages of unknown content. Returns false if such a page is not writable.
    fn prepare(&mut self, queue: usize, area: &Area, code: At) -> Result<bool, Failure> {
        let others = !(1 << queue);
        for (slot, range) in area {
            self.settle(*slot, range, others)?;
        }
        self.settle(code.0, &(code.1..code.1 + 1), u8::MAX)?;
        if self.flights[queue].len() >= DEPTH {
            self.collect(queue)?;
        }
        for (slot, range) in area {
            let pages = self.model.part_mut(*slot, range);
            if (pages.iter()).any(|page| page.maybe_zero && page.access < Access::Write) {
                return Ok(false);
            }
            let unsure = range.clone().zip(pages.iter());
            let unsure = unsure.filter(|(_, page)| page.maybe_zero);
            let unsure: Vec<usize> = unsure.map(|(nth, _)| nth).collect();
            for page in unsure {
                self.refill(*slot, page);
            }
        }
        Ok(true)
    }

    /// Returns the memory that the packets of a job may use.
    fn ground(
        &self,
        area: &Area,
        (code_slot, code): At,
        addrs: &[Option<u64>],
        changes_itself: bool,
    ) -> Ground {
        let page = page_size() as u64;
        let mut data = Vec::new();
        for (slot, range) in area {
            let start = addrs[*slot].unwrap_or_default();
            let parts = match *slot == code_slot && !changes_itself {
                true => vec![range.start..code, code + 1..range.end],
                false => vec![range.clone()],
            };
            for part in parts {
                // The last page is for packets that go too far.
                let pages = (part.len() as u64).saturating_sub(1).max(1);
                if !part.is_empty() {
                    data.extend(PageRange::new(start + part.start as u64 * page, pages));
                }
            }
        }
        let at = addrs[code_slot].unwrap_or_default() + code as u64 * page;
        Ground {
            data,
            code: at..at + page,
        }
    }

    fn write_packets(&mut self, (slot, nth): At, packets: &[Packet]) {
        let bytes = packet::bytes(packets);
        self.world.fill(slot, nth, &bytes);
        let content = self.model.library.keep(bytes);
        for page in self.model.part_mut(slot, &(nth..nth + 1)) {
            page.holds(content);
            page.touched();
        }
    }

    /// Returns the expected result of a job, cut short before the first packet whose result is
    /// unknown; `None` if nothing is left of the job.
    fn foresee(
        &self,
        area: &Area,
        addrs: &[Option<u64>],
        at: u64,
        npackets: u64,
    ) -> Option<Forecast> {
        let mut view = View {
            model: &self.model,
            addrs,
            area,
            pages: BTreeMap::new(),
            strayed: false,
        };
        let outcome = interpreter::run(&mut view, at, npackets);
        if view.strayed {
            return match outcome.executed {
                0 => None,
                npackets => self.foresee(area, addrs, at, npackets),
            };
        }
        let changed = view.pages.into_iter().filter(|(_, page)| page.is_changed);
        Some(Forecast {
            outcome,
            npackets,
            changed: changed.map(|(at, page)| (at, page.bytes)).collect(),
        })
    }

    fn addrs(&self) -> Vec<Option<u64>> {
        let slots = self.model.slots.iter().enumerate();
        slots
            .map(|(nth, slot)| slot.as_ref().map(|_| self.world.addr(nth)))
            .collect()
    }
}
