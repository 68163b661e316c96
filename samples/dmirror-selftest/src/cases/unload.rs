// SPDX-License-Identifier: GPL-2.0

//! Unloading the module with pages on the device: they all come back, and the
//! programs go on.

use std::ffi::OsString;
use std::io;

use dmirror_client::place::device_memories;

use super::huge;
use crate::prelude::*;
use crate::reload::Unloaded;

cases! { "unload":
    pages_come_back = "Unloading brings back all resident pages with their data, and the program goes on.",
    refused_while_open = "The module is not unloaded while a file is open.",
    other_processes = "Unloading brings back the pages of processes that know nothing of it, shared ones too.",
    while_pages_are_touched = "Threads that touch resident pages while the module goes read the right data.",
    nothing_is_left = "After unloading /proc/iomem shows no memory of the device.",
    huge_pages = "Unloading brings back huge pages of several processes, shared ones too.",
    leaves_no_trace = "However often the module loads and unloads with resident pages, /proc/iomem, debugfs and memory are as before. DMIRROR_LOADS=N says how often; set --timeout, too.",
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
        let unloaded = thread::scope(|scope| {
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

fn huge_pages(context: &Context) -> Result<()> {
    let (module, loader) = context.module()?;
    let (there, gone) = (Gate::new()?, Gate::new()?);
    let memory = huge::huge(2)?;
    memory.move_out(&context.open()?, memory.all())?;
    // It shares the pages, and has others of its own.
    let child = helper(|| {
        let own = huge::huge(1)?;
        own.refill(3);
        own.move_out(&context.open()?, own.all())?;
        there.open()?;
        gone.wait()?;
        own.expect("after unloading", own.all(), Where::System)?;
        own.verify(own.all())?;
        memory.verify(memory.all())?;
        memory.refill(2);
        memory.verify(memory.all())
    })?;
    there.wait()?;
    let unloaded = Unloaded::new(&module, loader)?;
    memory.expect("after unloading", memory.all(), Where::System)?;
    gone.open()?;
    child.join()?;
    memory.verify(memory.all())?;
    unloaded.load_again()
}

/// What should be as before whenever the module is gone.
#[derive(Debug, PartialEq)]
struct Traces {
    iomem: String,
    debugfs: Vec<OsString>,
}

impl Traces {
    fn now() -> Result<Self> {
        let mut debugfs = Vec::new();
        for entry in fs::read_dir("/sys/kernel/debug").into_iter().flatten() {
            debugfs.push(entry?.file_name());
        }
        debugfs.sort_unstable();
        Ok(Self {
            iomem: fs::read_to_string("/proc/iomem")?,
            debugfs,
        })
    }
}

/// Memory that the system could give away, in bytes: the most of what it says for
/// a second, since some is free only a while after it was given back.
fn settled() -> Result<i64> {
    let mut most = available()?;
    for _ in 0..10 {
        thread::sleep(Duration::from_millis(100));
        most = most.max(available()?);
    }
    Ok(most)
}

/// What the system says of it now, and what each CPU keeps for itself, which it does not count:
/// tens of megabytes, now and then.
fn available() -> Result<i64> {
    let all = fs::read_to_string("/proc/meminfo")?;
    let line = all
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: i64 = line
        .and_then(|line| line.split_whitespace().next())
        .context("/proc/meminfo")?
        .parse()?;
    let zones = fs::read_to_string("/proc/zoneinfo")?;
    let kept: i64 = zones
        .lines()
        .filter_map(|line| line.trim().strip_prefix("count:"))
        .filter_map(|count| count.trim().parse::<i64>().ok())
        .sum();
    Ok(kib * 1024 + kept * page_size() as i64)
}

fn leaves_no_trace(context: &Context) -> Result<()> {
    const TIME: Duration = Duration::from_secs(12);
    const MAY_BE_LOST: i64 = 8 << 20;
    let (module, loader) = context.module()?;
    let wanted: Option<u32> = match std::env::var("DMIRROR_LOADS") {
        Ok(number) => Some(number.parse().context("DMIRROR_LOADS")?),
        Err(_) => None,
    };
    let (small, whole) = (Memory::new(64)?, huge::huge(1)?);
    let (mut traces, mut before) = (None, None);
    let (start, mut loads) = (Instant::now(), 0);
    // The first few rounds fill caches.
    while wanted.map_or(loads < 8 || start.elapsed() < TIME, |wanted| loads < wanted) {
        let device = context.open()?;
        small.move_out(&device, small.all())?;
        whole.move_out(&device, whole.all())?;
        drop(device);
        let unloaded = Unloaded::new(&module, loader)?;
        let now = Traces::now()?;
        match &traces {
            None => traces = Some(now),
            Some(first) => equal("what is left", &now, first)?,
        }
        loads += 1;
        if loads == 5 {
            before = Some(settled()?);
        }
        unloaded.load_again()?;
        small
            .verify(small.all())
            .and_then(|()| whole.verify(whole.all()))
            .with_context(|| format!("load {loads}"))?;
    }
    let unloaded = Unloaded::new(&module, loader)?;
    let after = settled()?;
    unloaded.load_again()?;
    if let Some(before) = before {
        let lost = before - after;
        println!("{loads} loads cost {lost} bytes");
        ensure!(
            lost < MAY_BE_LOST,
            "{loads} loads have cost {lost} bytes of memory"
        );
    }
    Ok(())
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
