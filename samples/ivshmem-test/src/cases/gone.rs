// SPDX-License-Identifier: GPL-2.0

//! Devices that go away while pages are on them. The cases that use a slot come last.

use std::fs;
use std::io::ErrorKind;
use std::io::Read;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use dmirror_client::Errno;
use dmirror_client::Module;
use dmirror_client::Region;

use super::PAGES;
use super::all_moved;
use super::cases;
use super::child;
use super::empty;
use super::ended_well;
use super::equal;
use super::failed;
use super::filled;
use super::me;
use super::moved;
use super::on_device;
use super::the_bound_device;
use super::wait_for;
use crate::ask;
use crate::device;
use crate::device::Device;
use crate::pattern;

cases![
    unbind_brings_back,
    open_file_outlives_device,
    unbind_while_moving,
    unload_brings_back,
    removed_device_comes_back,
    second_device_is_refused,
    unplug_brings_back,
    plugged_device_is_bound,
];

/// Checks that an open file of a device that has gone is useless.
fn is_gone(device: &Device, region: &Region) -> Result<()> {
    let expected = failed(Errno::ENODEV, 0);
    equal("to the device", device.to_device(region), expected)?;
    equal("back", device.to_system(region), expected)?;
    ensure!(!device::file_is_there(), "the device file is there still");
    Ok(())
}

/// Unbinding by sysfs brings back all pages, of all processes.
fn unbind_brings_back() -> Result<()> {
    let folder = the_bound_device()?;
    let device = Device::open()?;
    let region = moved(&device, PAGES)?;
    let (child, mut line) = child(|line| {
        let mine = moved(&device, PAGES)?;
        line.your_turn()?;
        line.my_turn()?;
        on_device(&mine, 0)?;
        on_device(&region, 0)?;
        pattern::check(&mine, me())
    })?;
    line.my_turn()?;
    ask::host(&format!("used {}", 2 * PAGES))?;
    device::tell_driver("unbind", &folder)?;
    ask::host("released")?;
    on_device(&region, 0)?;
    is_gone(&device, &region)?;
    pattern::check(&region, me())?;
    line.your_turn()?;
    ended_well(child)?;
    device::tell_driver("bind", &folder)?;
    drop(moved(&Device::open()?, PAGES)?);
    empty()
}

/// A file that was opened before the device went away stays useless when the device is back.
fn open_file_outlives_device() -> Result<()> {
    let folder = the_bound_device()?;
    let old = Device::open()?;
    device::tell_driver("unbind", &folder)?;
    device::tell_driver("bind", &folder)?;
    let region = filled(PAGES)?;
    let expected = failed(Errno::ENODEV, 0);
    equal("by the old file", old.to_device(&region), expected)?;
    let new = Device::open()?;
    equal("by a new file", new.to_device(&region), all_moved(PAGES))?;
    // A fault does not depend on the file.
    drop(new);
    pattern::check(&region, me())?;
    empty()
}

/// Devices come and go while processes move pages.
fn unbind_while_moving() -> Result<()> {
    let folder = the_bound_device()?;
    let mut movers = Vec::new();
    for _ in 0..2 {
        let (child, mut line) = child(|line| {
            line.0.set_nonblocking(true)?;
            let region = filled(PAGES)?;
            line.your_turn()?;
            let mut rounds = 0;
            // Go on until the parent says something, or has gone.
            while line.0.read(&mut [0]).is_err() {
                let Ok(device) = Device::open() else { continue };
                device.to_device(&region);
                if rounds % 2 == 0 {
                    device.to_system(&region);
                }
                pattern::check(&region, me())?;
                rounds += 1;
            }
            ensure!(rounds > 0, "did nothing");
            Ok(())
        })?;
        line.my_turn()?;
        movers.push((child, line));
    }
    for _ in 0..10 {
        thread::sleep(Duration::from_millis(150));
        device::tell_driver("unbind", &folder)?;
        ask::host("released")?;
        device::tell_driver("bind", &folder)?;
    }
    for (child, mut line) in movers {
        line.your_turn()?;
        ended_well(child)?;
    }
    empty()
}

/// Unloading the module brings back all pages; an open file keeps the module loaded.
fn unload_brings_back() -> Result<()> {
    let module = Module::named("ivshmem");
    let device = Device::open()?;
    let region = moved(&device, PAGES)?;
    ensure!(
        module.unload().is_err(),
        "the module was unloaded while its file is open"
    );
    drop(device);
    module.unload()?;
    ensure!(!module.is_loaded(), "the module is loaded still");
    on_device(&region, 0)?;
    ask::host("released")?;
    pattern::check(&region, me())?;
    let status = Command::new("load-module")
        .arg("ivshmem")
        .stdin(Stdio::null())
        .status()?;
    ensure!(status.success(), "the module does not load again");
    drop(moved(&Device::open()?, PAGES)?);
    empty()
}

/// A device that is removed by sysfs, as by an unplug, gives back its pages. It works again after
/// a scan of the bus.
fn removed_device_comes_back() -> Result<()> {
    let folder = the_bound_device()?;
    let device = Device::open()?;
    let region = moved(&device, PAGES)?;
    fs::write(folder.join("remove"), "1")?;
    ask::host("released")?;
    on_device(&region, 0)?;
    is_gone(&device, &region)?;
    pattern::check(&region, me())?;
    fs::write("/sys/bus/pci/rescan", "1")?;
    equal("devices after a scan", the_bound_device()?, folder)?;
    drop(moved(&Device::open()?, PAGES)?);
    empty()
}

/// Makes lockdep, if the kernel has it, prove nothing from now on. The driver of PCIe slots takes
/// its `reset_lock` and the lock of `pci_lock_rescan_remove()` in both orders for each device that
/// comes or goes (`pciehp_configure_device()`, `pciehp_unconfigure_device()` of Linux 7.3).
fn spare_lockdep() -> Result<()> {
    match fs::write("/proc/sys/kernel/prove_locking", "0") {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// The driver refuses a second device of the kind, which does not disturb the first.
fn second_device_is_refused() -> Result<()> {
    spare_lockdep()?;
    let folder = the_bound_device()?;
    let device = Device::open()?;
    let region = moved(&device, PAGES)?;
    ask::host("plug second")?;
    wait_for("the second device", || {
        device::present().is_ok_and(|all| all.len() == 2)
    })?;
    let all = device::present()?;
    let second = all
        .iter()
        .find(|path| fs::canonicalize(path).is_ok_and(|path| path != folder));
    let second = second.context("no second device")?;
    ensure!(
        device::tell_driver("bind", second).is_err(),
        "the second device was bound"
    );
    equal("bound devices", the_bound_device()?, folder)?;
    ask::host(&format!("holds {} {PAGES}", me()))?;
    ask::host("unplug second")?;
    wait_for("its end", || {
        device::present().is_ok_and(|all| all.len() == 1)
    })?;
    pattern::check(&region, me())?;
    empty()
}

/// QEMU removes the device from its slot, as a user would by hand; all pages come back first.
fn unplug_brings_back() -> Result<()> {
    spare_lockdep()?;
    let device = Device::open()?;
    let region = moved(&device, PAGES)?;
    let (child, mut line) = child(|line| {
        let mine = moved(&device, PAGES)?;
        line.your_turn()?;
        line.my_turn()?;
        on_device(&mine, 0)?;
        pattern::check(&mine, me())
    })?;
    line.my_turn()?;
    ask::host(&format!("used {}", 2 * PAGES))?;
    ask::host("unplug")?;
    wait_for("the end of the device", || {
        device::present().is_ok_and(|all| all.is_empty())
    })?;
    ask::host("released")?;
    on_device(&region, 0)?;
    is_gone(&device, &region)?;
    pattern::check(&region, me())?;
    line.your_turn()?;
    ended_well(child)
}

/// A device that is plugged into the slot is bound automatically.
fn plugged_device_is_bound() -> Result<()> {
    spare_lockdep()?;
    ask::host("plug")?;
    wait_for("the device file", device::file_is_there)?;
    let device = Device::open()?;
    let region = moved(&device, PAGES)?;
    ask::host(&format!("holds {} {PAGES}", me()))?;
    pattern::check(&region, me())?;
    empty()
}
