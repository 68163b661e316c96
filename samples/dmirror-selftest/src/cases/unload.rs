// SPDX-License-Identifier: GPL-2.0

//! Unloading the module with pages on the device: they all come back, and the
//! programs go on.

use std::io;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use dmirror_client::Errno;
use dmirror_client::place::device_memories;

use super::cases;
use crate::check::Where;
use crate::check::equal;
use crate::context::Context;
use crate::context::Gate;
use crate::context::helper;
use crate::memory::Memory;
use crate::reload::Unloaded;

cases! { "unload":
    pages_come_back = "Unloading brings back all resident pages with their data, and the program goes on.",
    refused_while_open = "The module is not unloaded while a file is open.",
    other_processes = "Unloading brings back the pages of processes that know nothing of it, shared ones too.",
    while_pages_are_touched = "Threads that touch resident pages while the module goes read the right data.",
    nothing_is_left = "After unloading /proc/iomem shows no memory of the device.",
    again_and_again = "The module loads and unloads many times with pages on the device.",
}

const PAGES: usize = 300;

fn pages_come_back(context: &Context) -> Result<()> {
    let (module, loader) = context.module()?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&context.open()?, memory.all())?;
    let unloaded = Unloaded::new(&module, loader)?;
    memory.expect("after unloading", memory.all(), Where::System)?;
    memory.verify(memory.all())?;
    memory.refill(2);
    memory.verify(memory.all())?;
    unloaded.load_again()?;
    memory.move_out(&context.open()?, memory.all())?;
    memory.verify(memory.all())
}

fn refused_while_open(context: &Context) -> Result<()> {
    let (module, loader) = context.module()?;
    let device = context.open()?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, memory.all())?;
    match module.unload() {
        Ok(()) => {
            loader.load(&module, &[])?;
            bail!("the module was unloaded while a file was open");
        }
        Err(error) => equal("unloading", errno(&error), Errno::EWOULDBLOCK)?,
    }
    memory.expect("after the refusal", memory.all(), Where::Device)?;
    memory.move_back(&device, memory.all(), PAGES)?;
    memory.verify(memory.all())
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}

fn other_processes(context: &Context) -> Result<()> {
    let (module, loader) = context.module()?;
    let gone = Gate::new()?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&context.open()?, memory.all())?;
    // It shares the pages, writes to some, and reads all afterwards.
    let child = helper(|| {
        memory.fill(0..20);
        gone.wait()?;
        memory.verify(memory.all())?;
        memory.refill(2);
        memory.verify(memory.all())
    })?;
    let unloaded = Unloaded::new(&module, loader)?;
    memory.expect("after unloading", memory.all(), Where::System)?;
    gone.open()?;
    child.join()?;
    memory.verify(memory.all())?;
    unloaded.load_again()
}

fn while_pages_are_touched(context: &Context) -> Result<()> {
    let (module, loader) = context.module()?;
    for _ in 0..3 {
        let memory = Memory::new(PAGES)?;
        memory.move_out(&context.open()?, memory.all())?;
        let (region, data) = (&memory.region, memory.data());
        let unloaded = std::thread::scope(|scope| {
            let readers: Vec<_> = [3, 7, 11]
                .map(|step| {
                    scope.spawn(move || {
                        (0..PAGES).try_for_each(|page| {
                            let page = page * step % PAGES;
                            data.check(region, page..page + 1)
                        })
                    })
                })
                .into();
            let unloaded = Unloaded::new(&module, loader);
            for reader in readers {
                reader
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            }
            unloaded
        })?;
        memory.expect("after unloading", memory.all(), Where::System)?;
        memory.verify(memory.all())?;
        unloaded.load_again()?;
    }
    Ok(())
}

fn nothing_is_left(context: &Context) -> Result<()> {
    let (module, loader) = context.module()?;
    let memory = Memory::new(PAGES)?;
    memory.move_out(&context.open()?, memory.all())?;
    let survey = dmirror_client::Survey::of(memory.region.range())?;
    let of_device: Vec<_> = survey.devices().cloned().collect();
    ensure!(
        !of_device.is_empty(),
        "no range of /proc/iomem holds the pages"
    );
    let unloaded = Unloaded::new(&module, loader)?;
    for left in device_memories()? {
        ensure!(
            !of_device.contains(&left),
            "{left:x?} is left in /proc/iomem"
        );
    }
    memory.verify(memory.all())?;
    unloaded.load_again()
}

fn again_and_again(context: &Context) -> Result<()> {
    let (module, loader) = context.module()?;
    let memory = Memory::new(64)?;
    for round in 2..6 {
        memory.refill(round);
        memory.move_out(&context.open()?, memory.all())?;
        Unloaded::new(&module, loader)?.load_again()?;
        memory
            .verify(memory.all())
            .with_context(|| format!("round {round}"))?;
    }
    Ok(())
}
