// SPDX-License-Identifier: GPL-2.0

//! mprotect over resident pages, beyond the cases about mappings in general.

use crate::prelude::*;

cases! { "mprotect":
    no_access = "A CPU that touches resident pages without access gets SIGSEGV, and they stay on the device."
        => resident(PAGES, no_access),
    device_obeys = "The device neither writes pages that were made read-only on it, nor reads pages without access."
        => resident(PAGES, device_obeys),
    back_and_forth = "Pages whose protection goes back and forth on the device take writes in the end.",
    while_migrating = "Protection that changes while another thread migrates the pages holds, and loses no data."
        => kept(in_system(PAGES), while_migrating),
}

const PAGES: usize = 32;

fn no_access(_: &Device, memory: &Memory) -> Result<()> {
    memory.region.protect(memory.all(), Protection::None)?;
    segfaults(|| _ = memory.region.load(9))?;
    segfaults(|| memory.region.store(9, 9))?;
    memory.expect("without access", memory.all(), Where::Device)?;
    memory.region.protect(memory.all(), Protection::Read)?;
    memory.verify(0..4)?;
    memory.region.protect(memory.all(), Protection::ReadWrite)?;
    memory.expect("not yet read", 4..PAGES, Where::Device)?;
    memory.intact()?;
    memory.rewrite(2)
}

fn device_obeys(device: &Device, memory: &Memory) -> Result<()> {
    let range = memory.region.range();
    memory.device_refills(device, 2)?;
    memory.expect("after the device wrote", memory.all(), Where::Device)?;
    let fresh = vec![0x77; memory.region.len()];
    let write = |errno| fails("WRITE", device.write(range, &fresh), errno);
    memory.region.protect(memory.all(), Protection::Read)?;
    write(Errno::EPERM).context("of read-only pages")?;
    memory.reads(device)?;
    memory.region.protect(memory.all(), Protection::None)?;
    let answer = device.read(range, &mut vec![0; memory.region.len()]);
    fails("READ without access", answer, Errno::EFAULT)?;
    let answer = write(Errno::EFAULT).or_else(|_| write(Errno::EPERM));
    answer.context("without access")?;
    memory.region.protect(memory.all(), Protection::ReadWrite)?;
    memory.cpu_sees(device, 3)
}

fn back_and_forth(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    for round in 2..6 {
        memory.out(&device)?;
        for protection in [Protection::Read, Protection::None, Protection::ReadWrite] {
            memory.region.protect(0..PAGES / 2, protection)?;
            memory.region.protect(PAGES / 4..PAGES, protection)?;
            memory.expect("after mprotect", memory.all(), Where::Device)?;
        }
        memory.rewrite(round)?;
    }
    Ok(())
}

fn while_migrating(device: &Device, memory: &Memory) -> Result<()> {
    let region = &memory.region;
    thread::scope(|scope| {
        let protector = scope.spawn(|| {
            (0..100).try_for_each(|_| {
                region.protect(0..PAGES / 2, Protection::Read)?;
                region.protect(0..PAGES, Protection::ReadWrite)?;
                region.protect(PAGES / 4..PAGES, Protection::Read)
            })
        });
        while !protector.is_finished() {
            unless_held(memory.try_out(device))?;
            memory.verify(3..PAGES - 3)?;
            unless_held(device.migrate_to_system(region.range()))?;
        }
        joined(protector)
    })?;
    memory.out(device)?;
    segfaults(|| region.store(PAGES / 2 * Region::words_per_page(), 0))?;
    Ok(region.protect(0..PAGES, Protection::ReadWrite)?)
}
