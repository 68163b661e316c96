// SPDX-License-Identifier: GPL-2.0

//! mprotect over resident pages, beyond what there is about mappings in general.

use crate::prelude::*;

cases! { "mprotect":
    no_access = "A CPU that touches resident pages without access gets SIGSEGV, and they stay on the device.",
    device_obeys = "The device neither writes pages that were made read-only on it, nor reads pages without access.",
    back_and_forth = "Pages whose protection goes back and forth on the device take writes in the end.",
    while_migrating = "Protection that changes while another thread migrates the pages holds, and loses no data.",
}

const PAGES: usize = 32;

fn no_access(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    memory.region.protect(memory.all(), Protection::None)?;
    for write in [false, true] {
        let child = helper(|| {
            match write {
                true => memory.region.store(9, 9),
                false => drop(memory.region.load(9)),
            }
            Ok(())
        })?;
        equal(
            "end of the child",
            child.exit()?,
            Exit::Signal(Signal::SIGSEGV),
        )?;
    }
    memory.expect("without access", memory.all(), Where::Device)?;
    memory.region.protect(memory.all(), Protection::Read)?;
    memory.verify(0..4)?;
    memory.region.protect(memory.all(), Protection::ReadWrite)?;
    memory.expect("not yet read", 4..PAGES, Where::Device)?;
    memory.verify(memory.all())?;
    memory.refill(2);
    memory.verify(memory.all())
}

fn device_obeys(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let range = memory.region.range();
    memory.move_out(&device, memory.all())?;
    memory.device_refills(&device, 2)?;
    memory.expect("after the device wrote", memory.all(), Where::Device)?;
    let fresh = vec![0x77; memory.region.len()];
    let mut view = vec![0; memory.region.len()];
    memory.region.protect(memory.all(), Protection::Read)?;
    fails(
        "WRITE of read-only pages",
        device.write(range, &fresh),
        Errno::EPERM,
    )?;
    device.read(range, &mut view)?;
    memory.data().check_bytes(&view, 0)?;
    memory.region.protect(memory.all(), Protection::None)?;
    fails(
        "READ without access",
        device.read(range, &mut view),
        Errno::EFAULT,
    )?;
    fails(
        "WRITE without access",
        device.write(range, &fresh),
        Errno::EFAULT,
    )
    .or_else(|_| {
        fails(
            "WRITE without access",
            device.write(range, &fresh),
            Errno::EPERM,
        )
    })?;
    memory.region.protect(memory.all(), Protection::ReadWrite)?;
    memory.device_refills(&device, 3)?;
    memory.verify(memory.all())
}

fn back_and_forth(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    for round in 2..6 {
        memory.move_out(&device, memory.all())?;
        for protection in [Protection::Read, Protection::None, Protection::ReadWrite] {
            memory.region.protect(0..PAGES / 2, protection)?;
            memory.region.protect(PAGES / 4..PAGES, protection)?;
            memory.expect("after mprotect", memory.all(), Where::Device)?;
        }
        memory.refill(round);
        memory.verify(memory.all())?;
    }
    Ok(())
}

fn while_migrating(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let region = &memory.region;
    thread::scope(|scope| {
        let protector = scope.spawn(|| {
            (0..100).try_for_each(|_| {
                region.protect(0..PAGES / 2, Protection::Read)?;
                region.protect(0..PAGES, Protection::ReadWrite)?;
                region.protect(PAGES / 4..PAGES, Protection::Read)
            })
        });
        let mut view = vec![0; region.len()];
        while !protector.is_finished() {
            unless_held(device.migrate_to_device(region.range(), &mut view))?;
            memory.verify(3..PAGES - 3)?;
            unless_held(device.migrate_to_system(region.range()))?;
        }
        joined(protector)
    })?;
    memory.move_out(&device, memory.all())?;
    let child = helper(|| {
        region.store(PAGES / 2 * Region::words_per_page(), 0);
        Ok(())
    })?;
    equal(
        "a write to read-only memory",
        child.exit()?,
        Exit::Signal(Signal::SIGSEGV),
    )?;
    region.protect(0..PAGES, Protection::ReadWrite)?;
    memory.verify(memory.all())
}
