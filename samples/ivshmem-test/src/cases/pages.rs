// SPDX-License-Identifier: GPL-2.0

//! Pages that go to the device and come back.

use std::fs;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use dmirror_client::Errno;
use dmirror_client::Exit;
use dmirror_client::Region;
use dmirror_client::Signal;
use dmirror_client::hpage_pmd_nr;
use dmirror_client::hpage_pmd_size;
use dmirror_client::page_size;

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
use crate::abi;
use crate::ask;
use crate::device::Device;
use crate::pattern;

cases![
    size_is_that_of_the_bar,
    bytes_are_in_the_bar,
    cpu_fault_brings_back,
    ioctl_brings_back,
    holes_are_zeroed,
    huge_pages_are_split,
    processes_are_told_apart,
    forked_pages_are_both_right,
    exit_frees,
    full_device_takes_what_fits,
    nonsense_is_refused,
    lost_device_is_a_bus_error,
];

/// The size of the BAR is the size of the device.
fn size_is_that_of_the_bar() -> Result<()> {
    let folder = the_bound_device()?;
    let bar = fs::metadata(folder.join("resource2"))?.len() as usize;
    let layout = abi::Layout::new(bar, page_size()).context("the BAR is too small")?;
    equal("pages", ask::host("size")?, layout.npages.to_string())?;
    ensure!(
        layout.page(layout.npages) <= bar,
        "the last page is behind the BAR"
    );
    empty()
}

/// While pages are on the device, their bytes are in the file on the host, and the directory names
/// their owner.
fn bytes_are_in_the_bar() -> Result<()> {
    let device = Device::open()?;
    let region = moved(&device, PAGES)?;
    ask::host(&format!("holds {} {PAGES}", me()))?;
    ask::host(&format!("used {PAGES}"))?;
    equal(
        "pages on account of the file",
        device.pages()?,
        PAGES as u64,
    )?;
    drop(region);
    empty()?;
    equal("pages on account of the file", device.pages()?, 0)
}

/// A CPU that touches a page brings back that page.
fn cpu_fault_brings_back() -> Result<()> {
    let device = Device::open()?;
    let region = moved(&device, PAGES)?;
    region.touch(5);
    on_device(&region, PAGES - 1)?;
    ask::host(&format!("holds {} {}", me(), PAGES - 1))?;
    pattern::check(&region, me())?;
    on_device(&region, 0)?;
    empty()?;
    // A page that was changed meanwhile moves with its new content.
    region.store(0, 42);
    equal("again", device.to_device(&region), all_moved(PAGES))?;
    equal("the first word", region.load(0), 42)?;
    drop(region);
    empty()
}

/// Pages come back by request as well.
fn ioctl_brings_back() -> Result<()> {
    let device = Device::open()?;
    let region = moved(&device, PAGES)?;
    equal("back", device.to_system(&region), all_moved(PAGES))?;
    on_device(&region, 0)?;
    empty()?;
    pattern::check(&region, me())?;
    equal("what is back", device.to_system(&region), all_moved(0))
}

/// Pages that were never touched are zero on the device.
fn holes_are_zeroed() -> Result<()> {
    let device = Device::open()?;
    // Leave other data in the pages of the device that get the zeroes.
    drop(moved(&device, PAGES)?);
    empty()?;
    let region = Region::options(PAGES).huge(false).map()?;
    equal("to the device", device.to_device(&region), all_moved(PAGES))?;
    ask::host(&format!("zeroes {} {PAGES}", me()))?;
    ensure!(region.is_zero(0..PAGES), "a page is not zero");
    empty()
}

/// A huge page moves as small pages.
fn huge_pages_are_split() -> Result<()> {
    let pages = hpage_pmd_nr();
    let device = Device::open()?;
    let region = Region::options(pages)
        .align(hpage_pmd_size())
        .huge(true)
        .map()?;
    pattern::fill(&region, me());
    equal("to the device", device.to_device(&region), all_moved(pages))?;
    on_device(&region, pages)?;
    ask::host(&format!("holds {} {pages}", me()))?;
    pattern::check(&region, me())?;
    empty()
}

/// The directory tells pages of several processes apart.
fn processes_are_told_apart() -> Result<()> {
    let mut children = Vec::new();
    for count in [10, 20, 30] {
        let (child, mut line) = child(|line| {
            let region = moved(&Device::open()?, count)?;
            line.your_turn()?;
            line.my_turn()?;
            pattern::check(&region, me())
        })?;
        line.my_turn()?;
        children.push((child, line, count));
    }
    ask::host("used 60")?;
    for (child, _, count) in &children {
        ask::host(&format!("holds {} {count}", child.pid()))?;
    }
    for (child, mut line, _) in children {
        line.your_turn()?;
        ended_well(child)?;
    }
    empty()
}

/// Parent and child share pages on the device; afterwards each sees its own content.
fn forked_pages_are_both_right() -> Result<()> {
    let device = Device::open()?;
    let region = moved(&device, PAGES)?;
    let parent = me();
    let (child, mut line) = child(|line| {
        on_device(&region, PAGES)?;
        line.my_turn()?;
        pattern::check(&region, parent)?;
        pattern::fill(&region, me());
        equal("to the device", device.to_device(&region), all_moved(PAGES))?;
        line.your_turn()?;
        line.my_turn()?;
        pattern::check(&region, me())
    })?;
    ask::host(&format!("holds {parent} {PAGES}"))?;
    line.your_turn()?;
    line.my_turn()?;
    ask::host(&format!("holds {} {PAGES}", child.pid()))?;
    pattern::check(&region, parent)?;
    line.your_turn()?;
    ended_well(child)?;
    pattern::check(&region, parent)?;
    empty()
}

/// A process that ends gives its pages back, without accessing them.
fn exit_frees() -> Result<()> {
    let (child, mut line) = child(|line| {
        let _region = moved(&Device::open()?, PAGES)?;
        line.your_turn()?;
        line.my_turn()
    })?;
    line.my_turn()?;
    ask::host(&format!("holds {} {PAGES}", child.pid()))?;
    child.signal(Signal::SIGKILL)?;
    equal("the child", child.wait()?, Exit::Signal(Signal::SIGKILL))?;
    empty()
}

/// A full device reports that; the pages that fit have moved, and no data is lost.
fn full_device_takes_what_fits() -> Result<()> {
    let fit: usize = ask::host("size")?.parse()?;
    let device = Device::open()?;
    let region = filled(fit + 100)?;
    let expected = failed(Errno::ENOSPC, fit);
    equal("to the device", device.to_device(&region), expected)?;
    on_device(&region, fit)?;
    ask::host(&format!("holds {} {fit}", me()))?;
    let other = filled(1)?;
    let expected = failed(Errno::ENOSPC, 0);
    equal("one more", device.to_device(&other), expected)?;
    region.touch(0);
    equal(
        "one more, when there is room",
        device.to_device(&other),
        all_moved(1),
    )?;
    pattern::check(&region, me())?;
    pattern::check(&other, me())?;
    empty()
}

/// Requests that make no sense are refused, and report that nothing has moved.
fn nonsense_is_refused() -> Result<()> {
    let device = Device::open()?;
    let region = filled(2)?;
    let at = region.addr();
    for (number, address, npages, errno) in [
        (abi::TO_DEVICE, at + 1, 1, Errno::EINVAL),
        (abi::TO_SYSTEM, at + 8, 1, Errno::EINVAL),
        (abi::TO_DEVICE, 0, 1, Errno::EFAULT),
        (abi::TO_DEVICE, at, u64::MAX, Errno::EFAULT),
        (
            abi::TO_DEVICE,
            at,
            u64::MAX / page_size() as u64,
            Errno::EFAULT,
        ),
        (abi::TO_DEVICE, 1 << 63, 1, Errno::EFAULT),
        (
            abi::TO_SYSTEM,
            (page_size() as u64).wrapping_neg(),
            1,
            Errno::EFAULT,
        ),
        (7, at, 1, Errno::ENOTTY),
    ] {
        let outcome = device.command(number, address, npages);
        let what = format!("{number} at {address:#x} for {npages}");
        equal(&what, outcome.result, Err(errno))?;
        ensure!(
            matches!(outcome.moved, 0 | u64::MAX),
            "{what}: {} have moved",
            outcome.moved
        );
    }
    equal(
        "nothing",
        device.command(abi::TO_DEVICE, at, 0),
        all_moved(0),
    )?;
    // The guard page behind the region is mapped, and holds nothing that could move.
    pattern::check(&region, me())?;
    empty()
}

/// If the device is lost without notice, a process gets SIGBUS or an error, and no wrong data.
fn lost_device_is_a_bus_error() -> Result<()> {
    let device = Device::open()?;
    let (child, mut line) = child(|line| {
        let region = moved(&device, PAGES)?;
        line.your_turn()?;
        line.my_turn()?;
        let word = region.touch(3);
        bail!("read {word:#x}");
    })?;
    line.my_turn()?;
    let region = moved(&device, PAGES)?;
    let other = filled(PAGES)?;
    ask::host("lose")?;
    let outcome = device.to_device(&other);
    let back = device.to_system(&region);
    line.your_turn()?;
    let exit = child.wait()?;
    ask::host("restore")?;
    equal("the child", exit, Exit::Signal(Signal::SIGBUS))?;
    let expected = failed(Errno::EIO, 0);
    equal("to the device", outcome, expected)?;
    equal("back", back, expected)?;
    pattern::check(&other, me())?;
    pattern::check(&region, me())?;
    empty()
}
