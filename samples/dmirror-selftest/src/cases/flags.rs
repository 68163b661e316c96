// SPDX-License-Identifier: GPL-2.0

//! FLAGS: an allocation that fails on demand, and what becomes of the pages.

use dmirror_client::device::{Buffer, prot};
use dmirror_client::place::Usage;
use dmirror_client::{Command, Counts};

use super::huge;
use crate::prelude::*;

cases! { "flags":
    cleared = "A flag that was set can be cleared, and has no effect then.",
    need_no_range = "FLAGS looks at no address.",
    unknown = "A bit that has no meaning is EINVAL, and sets nothing.",
    of_the_device = "Flags are the device's: one open file clears what another one set.",
    once = "Only one allocation fails: of two huge pages the second one goes whole.",
    small_pages_out = "A small page that is refused a device page goes in a second try.",
    huge_page_out = "Without a device block a huge page goes to the device in small pages.",
    untouched_huge_out = "Without a device block untouched huge memory becomes small zeroed device pages.",
    small_pages_back = "A small page that is refused a system page comes back in a second try.",
    huge_page_back = "Without a huge system page a huge page comes back in small pages.",
    fault = "A CPU fault for which there is no page at first gets the right data.",
    huge_fault = "A CPU fault for which there is no huge page at first gets the right data.",
}

const PAGES: usize = 24;

/// Has the next allocation fail, until it has failed or this is dropped.
struct Failing<'a>(&'a Device);

impl<'a> Failing<'a> {
    fn new(device: &'a Device) -> Result<Self> {
        device.fail_next_allocation()?;
        Ok(Self(device))
    }
}

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        // test_hmm cannot; there the flag ends with the open file.
        let _ = self.0.clear_flags();
    }
}

fn set(device: &Device, addr: u64, flags: u64) -> Result<Counts, dmirror_client::CallError> {
    device.call(Command::Flags, addr, flags, Buffer::Null)
}

fn cleared(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let _failing = Failing::new(&device)?;
    device.clear_flags()?;
    memory.move_out(&device, memory.all())?;
    device.fail_next_allocation()?;
    device.clear_flags()?;
    memory.move_back(&device, memory.all(), PAGES)?;
    device.clear_flags()?; // when there is nothing to clear
    memory.verify(memory.all())
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
    memory.move_out(&device, memory.all())?;
    memory.verify(memory.all())
}

fn of_the_device(context: &Context) -> Result<()> {
    let (first, second) = (context.open()?, context.open()?);
    let memory = Memory::new(PAGES)?;
    let _failing = Failing::new(&first)?;
    second.clear_flags()?;
    memory.move_out(&first, memory.all())?;
    memory.verify(memory.all())
}

/// How many pages of `memory` the device has in huge pages.
fn in_huge_pages(device: &Device, memory: &Memory) -> Result<usize> {
    let bytes = device.snapshot(memory.region.range())?;
    Ok(bytes.iter().filter(|byte| **byte & prot::PMD != 0).count())
}

fn once(device: Device) -> Result<()> {
    for _ in 0..3 {
        let memory = huge::huge(2)?;
        let _failing = Failing::new(&device)?;
        memory.move_out(&device, 0..512)?;
        memory.move_out(&device, 512..1024)?;
        // The first one had to go in small pages, the second one had not.
        equal("pages in huge pages", in_huge_pages(&device, &memory)?, 512)?;
        memory.verify(memory.all())?;
    }
    Ok(())
}

fn small_pages_out(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let witness = huge::huge(1)?;
    let _failing = Failing::new(&device)?;
    memory.move_out(&device, memory.all())?;
    // One of them was refused a page, and asked again: nobody else is refused.
    witness.move_out(&device, witness.all())?;
    equal(
        "pages in huge pages",
        in_huge_pages(&device, &witness)?,
        512,
    )?;
    memory.device_reads(&device, memory.all())?;
    memory.verify(memory.all())
}

fn huge_page_out(device: Device) -> Result<()> {
    let memory = huge::huge(2)?;
    let _failing = Failing::new(&device)?;
    memory.move_out(&device, memory.all())?;
    equal("pages in huge pages", in_huge_pages(&device, &memory)?, 512)?;
    memory.device_reads(&device, memory.all())?;
    memory.verify(memory.all())
}

fn untouched_huge_out(device: Device) -> Result<()> {
    let memory = Memory::of(huge::options(1).map()?);
    let _failing = Failing::new(&device)?;
    let view = memory.view(&device, memory.all())?;
    ensure!(view.iter().all(|byte| *byte == 0));
    let small = prot::WRITE | prot::PRIVATE_LOCAL;
    snapshot_is("in small pages", &device, memory.region.range(), small)?;
    ensure!(memory.region.is_zero(memory.all()));
    Ok(())
}

fn small_pages_back(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let witness = huge::huge(1)?;
    memory.move_out(&device, memory.all())?;
    witness.move_out(&device, witness.all())?;
    let _failing = Failing::new(&device)?;
    memory.move_back(&device, memory.all(), PAGES)?;
    // As on the way out: the failure was used up.
    witness.move_back(&device, witness.all(), witness.region.pages())?;
    witness.is_huge()?;
    memory.verify(memory.all())?;
    witness.verify(witness.all())
}

fn huge_page_back(device: Device) -> Result<()> {
    let memory = huge::huge(1)?;
    let pages = memory.region.pages();
    memory.move_out(&device, memory.all())?;
    let _failing = Failing::new(&device)?;
    memory.move_back(&device, memory.all(), pages)?;
    let usage = Usage::of(memory.region.range())?;
    equal("bytes in huge pages", usage.huge, 0)?;
    memory.verify(memory.all())
}

fn fault(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    for page in memory.all() {
        let _failing = Failing::new(&device)?;
        memory.verify(page..page + 1)?;
        memory.expect("after the fault", page..page + 1, Where::System)?;
    }
    memory.refill(2);
    memory.move_out(&device, memory.all())
}

fn huge_fault(device: Device) -> Result<()> {
    let memory = huge::huge(1)?;
    memory.move_out(&device, memory.all())?;
    let failing = Failing::new(&device)?;
    memory.verify(300..301)?;
    drop(failing);
    memory.verify(memory.all())?;
    memory.refill(2);
    memory.move_out(&device, memory.all())?;
    let _failing = Failing::new(&device)?;
    let word = memory.region.len() / page_size() * 9;
    memory.region.store(word, memory.region.load(word));
    memory.verify(memory.all())
}
