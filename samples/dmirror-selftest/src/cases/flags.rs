// SPDX-License-Identifier: GPL-2.0

//! FLAGS: an allocation that fails on demand, and the place of the pages afterwards.

use dmirror_client::device::{Buffer, prot};
use dmirror_client::place::Usage;
use dmirror_client::{Command, Counts};

use super::huge;
use crate::prelude::*;
use crate::steps::{ALL, Verb::*, Who::*, again, steps};

cases! { "flags":
    cleared = "A flag that was set can be cleared, and has no effect then."
        => tidy(steps(|| Memory::new(PAGES), [
            (A, Does(fail)), (A, Does(clear)), (A, Out(ALL)), (A, Does(fail)), (A, Does(clear)),
            (A, Back(ALL, PAGES)),
            (A, Does(clear)), // when there is nothing to clear
            (Cpu, Reads(ALL)),
        ])),
    need_no_range = "FLAGS looks at no address.",
    unknown = "A bit that has no meaning is EINVAL, and sets nothing.",
    of_the_device = "Flags are the device's: one open file clears what another one set."
        => tidy(steps(|| Memory::new(PAGES), [
            (A, Does(fail)), (B, Does(clear)), (A, Out(ALL)), (Cpu, Reads(ALL)),
        ])),
    once = "Only one allocation fails: of two huge pages the second one goes whole."
        => tidy(again(3, steps(|| huge::huge(2), [
            (A, Does(fail)), (A, Out(0..hpage_pmd_nr())), (A, Out(hpage_pmd_nr()..usize::MAX)),
            // The first huge page had to go in small pages, the second one did not.
            (A, Does(has_one)), (Cpu, Reads(ALL)),
        ]))),
    small_pages_out = "A small page that is refused a device page goes in a second try.",
    huge_page_out = "Without a device block a huge page goes to the device in small pages."
        => tidy(steps(|| huge::huge(2), [
            (A, Does(fail)), (A, Out(ALL)), (A, Does(has_one)), (A, Reads(ALL)), (Cpu, Reads(ALL)),
        ])),
    untouched_huge_out = "Without a device block untouched huge memory becomes small zeroed device pages."
        => tidy(steps(|| Ok(Memory::of(huge::options(1)?.map()?)), [
            (A, Does(fail)),
            (A, Does(|device, memory| zeros("the view", &memory.view(device, memory.all())?))),
            (A, Shows(ALL, prot::WRITE | prot::PRIVATE_LOCAL)), (Cpu, ReadsZeros(ALL)),
        ])),
    small_pages_back = "A small page that is refused a system page comes back in a second try.",
    huge_page_back = "Without a huge system page a huge page comes back in small pages."
        => tidy(steps(|| huge::huge(1), [
            (A, Out(ALL)), (A, Does(fail)), (A, Back(ALL, hpage_pmd_nr())), (A, Does(in_small)),
            (Cpu, Reads(ALL)),
        ])),
    fault = "A CPU fault for which there is no page at first gets the right data.",
    huge_fault = "A CPU fault for which there is no huge page at first gets the right data.",
}

const PAGES: usize = 24;

/// A request that the next allocation fails. It ends with the failure or on drop.
struct Failing<'a>(&'a Device);

impl<'a> Failing<'a> {
    fn new(device: &'a Device) -> Result<Self> {
        device.fail_next_allocation()?;
        Ok(Self(device))
    }
}

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        // test_hmm cannot clear flags; there the flag ends with the open file.
        let _ = self.0.clear_flags();
    }
}

fn set(device: &Device, addr: u64, flags: u64) -> Result<Counts, dmirror_client::CallError> {
    device.call(Command::Flags, addr, flags, Buffer::Null)
}

fn need_no_range(device: Device) -> Result<()> {
    let _failing = Failing::new(&device)?;
    for addr in [0, 1, 123, u64::MAX] {
        set(&device, addr, 1)?;
        set(&device, addr, 0)?;
    }
    Ok(())
}

fn unknown(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    for flags in [2, 3, 0x80, 1 << 32, 1 << 63, u64::MAX] {
        let answer = set(&device, 0, flags);
        fails_counted(&format!("flags {flags:#x}"), answer, Errno::EINVAL)?;
    }
    memory.out_and_read(&device)
}

fn fail(device: &Device, _: &Memory) -> Result<()> {
    Ok(device.fail_next_allocation()?)
}

fn clear(device: &Device, _: &Memory) -> Result<()> {
    Ok(device.clear_flags()?)
}

/// Returns a case that clears all flags at its end.
fn tidy(case: impl Fn(&Context) -> Result<()>) -> impl Fn(&Context) -> Result<()> {
    move |context| {
        let device = context.open()?;
        let result = case(context);
        let _ = device.clear_flags(); // as in `Failing`
        result
    }
}

fn in_small(_: &Device, memory: &Memory) -> Result<()> {
    let usage = Usage::of(memory.region.range())?;
    equal("bytes in huge pages", usage.huge, 0)
}

/// Checks that the device has one huge page of `memory`.
fn has_one(device: &Device, memory: &Memory) -> Result<()> {
    let bytes = device.snapshot(memory.region.range())?;
    let huge = bytes.iter().filter(|byte| **byte & prot::PMD != 0).count();
    equal("pages in huge pages", huge, hpage_pmd_nr())
}

fn small_pages_out(device: Device) -> Result<()> {
    let (memory, witness) = (Memory::new(PAGES)?, huge::huge(1)?);
    let _failing = Failing::new(&device)?;
    memory.out(&device)?;
    // One of the pages was refused, and asked again, so no other page is refused.
    witness.out(&device)?;
    has_one(&device, &witness)?;
    memory.both_read(&device)
}

fn small_pages_back(device: Device) -> Result<()> {
    let (memory, witness) = (Memory::new(PAGES)?, huge::huge(1)?);
    memory.out(&device)?;
    witness.out(&device)?;
    let _failing = Failing::new(&device)?;
    memory.move_back(&device, memory.all(), PAGES)?;
    // The failure was used up, as on the way out.
    witness.move_back(&device, witness.all(), witness.region.pages())?;
    witness.is_huge()?;
    memory.intact()?;
    witness.intact()
}

fn fault(device: Device) -> Result<()> {
    let memory = Memory::resident(&device, PAGES)?;
    for page in memory.all() {
        let _failing = Failing::new(&device)?;
        memory.verify(page..page + 1)?;
        memory.expect("after the fault", page..page + 1, Where::System)?;
    }
    memory.refill(2);
    memory.out(&device)
}

fn huge_fault(device: Device) -> Result<()> {
    let memory = huge::huge(1)?;
    memory.out(&device)?;
    let failing = Failing::new(&device)?;
    memory.verify(300..301)?;
    drop(failing);
    memory.intact()?;
    memory.refill(2);
    memory.out(&device)?;
    let _failing = Failing::new(&device)?;
    let word = memory.region.len() / page_size() * 9;
    memory.region.store(word, memory.region.load(word));
    memory.intact()
}
