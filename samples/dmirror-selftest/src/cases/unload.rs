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
    let memory = Memory::resident(&context.open()?, PAGES)?;
    let unloaded = Unloaded::new(&module, loader)?;
    memory.expect("after unloading", memory.all(), Where::System)?;
    memory.intact()?;
    memory.rewrite(2)?;
    unloaded.load_again()?;
    memory.out_and_read(&context.open()?)
}

fn refused_while_open(context: &Context) -> Result<()> {
    let (module, loader) = context.module()?;
    let device = context.open()?;
    let memory = Memory::resident(&device, PAGES)?;
    match module.unload() {
        Ok(()) => {
            loader.load(&module, &[])?;
            bail!("the module was unloaded while a file was open");
        }
        Err(error) => equal("unloading", errno(&error), Errno::EWOULDBLOCK)?,
    }
    memory.expect("after the refusal", memory.all(), Where::Device)?;
    memory.move_back(&device, memory.all(), PAGES)?;
    memory.intact()
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}

/// Unloads the module while memory on the device is shared with a child. The child opens `there`
/// when it is ready, and goes on when `gone` is open.
fn unload_shared(
    context: &Context,
    memory: &Memory,
    child: impl FnOnce(&Gate, &Gate) -> Result<()>,
) -> Result<()> {
    let (module, loader) = context.module()?;
    let (there, gone) = (Gate::new()?, Gate::new()?);
    memory.out(&context.open()?)?;
    let child = helper(|| {
        child(&there, &gone)?;
        memory.intact()?;
        memory.rewrite(2)
    })?;
    there.wait()?;
    let unloaded = Unloaded::new(&module, loader)?;
    memory.expect("after unloading", memory.all(), Where::System)?;
    gone.open()?;
    memory.survives(child)?;
    unloaded.load_again()
}

fn other_processes(context: &Context) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    // The child shares the pages, writes to some, and reads all afterwards.
    unload_shared(context, &memory, |there, gone| {
        there.open()?;
        memory.fill(0..20);
        gone.wait()
    })
}

fn while_pages_are_touched(context: &Context) -> Result<()> {
    let (module, loader) = context.module()?;
    for _ in 0..3 {
        let memory = Memory::resident(&context.open()?, PAGES)?;
        let (region, data) = (&memory.region, memory.data());
        let unloaded = thread::scope(|scope| {
            let readers = [3, 7, 11].map(|step| {
                let page = move |page| page * step % PAGES;
                let mut pages = (0..PAGES).map(page);
                scope.spawn(move || pages.try_for_each(|page| data.check(region, page..page + 1)))
            });
            let unloaded = Unloaded::new(&module, loader);
            readers.into_iter().try_for_each(joined)?;
            unloaded
        })?;
        memory.expect("after unloading", memory.all(), Where::System)?;
        memory.intact()?;
        unloaded.load_again()?;
    }
    Ok(())
}

fn nothing_is_left(context: &Context) -> Result<()> {
    let (module, loader) = context.module()?;
    let memory = Memory::resident(&context.open()?, PAGES)?;
    let survey = Survey::of(memory.region.range())?;
    let of_device: Vec<_> = survey.devices().cloned().collect();
    ensure!(
        !of_device.is_empty(),
        "no range of /proc/iomem holds the pages"
    );
    let unloaded = Unloaded::new(&module, loader)?;
    let memories = device_memories()?;
    let left = memories.iter().find(|left| of_device.contains(left));
    ensure!(left.is_none(), "{left:x?} is left in /proc/iomem");
    memory.intact()?;
    unloaded.load_again()
}

fn huge_pages(context: &Context) -> Result<()> {
    let memory = huge::huge(2)?;
    // The child shares the pages, and has others of its own.
    unload_shared(context, &memory, |there, gone| {
        let own = huge::huge(1)?;
        own.refill(3);
        own.out(&context.open()?)?;
        there.open()?;
        gone.wait()?;
        own.expect("after unloading", own.all(), Where::System)?;
        own.intact()
    })
}

/// The state of the system that must be as before whenever the module is gone.
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

/// Returns the memory that the system could give away, in bytes: the maximum during one second,
/// since some memory is free only a while after it was given back.
fn settled() -> Result<i64> {
    let mut most = available()?;
    for _ in 0..10 {
        thread::sleep(Duration::from_millis(100));
        most = most.max(available()?);
    }
    Ok(most)
}

/// Returns the memory that the system could give away now, in bytes. This is `MemAvailable` plus
/// the pages that each CPU keeps for itself, which it does not count: tens of megabytes, now and
/// then.
fn available() -> Result<i64> {
    let all = fs::read_to_string("/proc/meminfo")?;
    let line = all
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    let kib: i64 = kib.context("/proc/meminfo")?.parse()?;
    let zones = fs::read_to_string("/proc/zoneinfo")?;
    let kept =
        |line: &str| -> Option<i64> { line.trim().strip_prefix("count:")?.trim().parse().ok() };
    let kept: i64 = zones.lines().filter_map(kept).sum();
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
        small.out(&device)?;
        whole.out(&device)?;
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
        let intact = small.intact().and_then(|()| whole.intact());
        intact.with_context(|| format!("load {loads}"))?;
    }
    let unloaded = Unloaded::new(&module, loader)?;
    let after = settled()?;
    unloaded.load_again()?;
    if let Some(before) = before {
        let lost = before - after;
        println!("{loads} loads cost {lost} bytes");
        ensure!(lost < MAY_BE_LOST, "{loads} loads have cost {lost} bytes");
    }
    Ok(())
}

fn again_and_again(context: &Context) -> Result<()> {
    let (module, loader) = context.module()?;
    let memory = Memory::new(64)?;
    for round in 2..6 {
        memory.refill(round);
        memory.out(&context.open()?)?;
        Unloaded::new(&module, loader)?.load_again()?;
        memory.intact().with_context(|| format!("round {round}"))?;
    }
    Ok(())
}
