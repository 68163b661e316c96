// SPDX-License-Identifier: GPL-2.0

//! The steps of the demo. This file has those of the first part: a program moves pages.

use std::fmt::Display;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use dmirror_client::CallError;
use dmirror_client::Counts;
use dmirror_client::Device;
use dmirror_client::Exit;
use dmirror_client::Module;
use dmirror_client::PageRange;
use dmirror_client::Pattern;
use dmirror_client::Region;
use dmirror_client::Survey;
use dmirror_client::fork_child;
use dmirror_client::page_size;
use dmirror_client::place::FRAMES_HIDDEN;
use dmirror_client::place::Usage;
use dmirror_client::place::device_memories;

use crate::Arguments;
use crate::engines;
use crate::picture;
use crate::transcript::Transcript;

/// The memory of the program, and its expected content.
pub struct Memory {
    pub region: Region,
    pub data: Pattern,
}

/// Runs all steps.
pub fn run(arguments: &Arguments, out: &mut Transcript) -> Result<()> {
    let pages = arguments.pages();
    let mut memory = Memory::new(pages)?;

    let module = Module::loaded();
    let name = module.as_ref().map_or("unknown", |module| module.name());
    out.headline(
        "dmirror demo: a program's pages go to device memory and come back",
        &[
            (
                "device",
                format!("{} (module {name})", arguments.device.display()),
            ),
            (
                "memory",
                format!(
                    "{pages} pages, {} MiB, at {:#x}",
                    arguments.size,
                    memory.region.addr()
                ),
            ),
            (
                "where",
                "by /proc/self/pagemap and /proc/iomem; the module is not asked".into(),
            ),
            ("", picture::legend()),
        ],
    );
    if !Survey::of(memory.region.range())?.frames_shown() {
        out.fact("", FRAMES_HIDDEN);
    }

    let device = open(arguments, out)?;
    by_ioctl(&device, &memory, out)?;
    by_fault(&device, &mut memory, out)?;
    let window = arguments.device.file_name().map(|name| {
        let folder = std::path::Path::new("/sys/kernel/debug").join(name);
        folder.join("window")
    });
    across_fork(&device, &mut memory, window.as_deref(), out)?;
    engines::run(arguments, out)?;
    match module {
        _ if arguments.no_unload => {}
        Some(module) => without_the_module(device, &module, &mut memory, out)?,
        None => anyhow::bail!(
            "no module that offers {} is loaded",
            arguments.device.display()
        ),
    }
    Ok(())
}

fn open(arguments: &Arguments, out: &mut Transcript) -> Result<Device> {
    out.step("The device");
    let device = Device::open(&arguments.device).with_context(|| {
        format!(
            "cannot open {}: is the module loaded?",
            arguments.device.display()
        )
    })?;
    out.check("open", Ok(arguments.device.display().to_string()));
    Ok(device)
}

fn by_ioctl(device: &Device, memory: &Memory, out: &mut Transcript) -> Result<()> {
    let pages = memory.region.pages();
    out.step("The program writes its memory");
    memory.data.fill(&memory.region, 0..pages);
    memory.show(out, "where", 0)?;
    memory.usage(out)?;

    out.step("MIGRATE_TO_DEV moves all of it to the device");
    memory.move_out(device, out)?;
    memory.usage(out)?;

    out.step("MIGRATE_TO_SYS brings it back");
    let start = Instant::now();
    called(
        out,
        "ioctl",
        device.migrate_to_system(memory.region.range()),
        pages,
        start,
    );
    memory.show(out, "where", 0)?;
    memory.verify(out, "data", "the CPU reads");
    Ok(())
}

fn by_fault(device: &Device, memory: &mut Memory, out: &mut Transcript) -> Result<()> {
    let pages = memory.region.pages();
    let middle = pages / 2;
    out.step("The CPU reads one word of a page on the device: it faults, the page comes back");
    memory.move_out(device, out)?;
    let word = memory.region.touch(middle);
    out.check(
        "read",
        expect(
            format!("page {middle}: {word:#018x}"),
            word,
            memory.data.word(middle, 0),
        ),
    );
    memory.show(out, "where", pages - 1)?;

    out.step("The CPU reads all the rest, and so brings it back");
    memory.verify(out, "data", "the CPU reads");
    memory.show(out, "where", 0)?;

    out.step("The CPU writes to all pages while they are on the device");
    memory.move_out(device, out)?;
    memory.data = memory.data.round(2);
    memory.data.fill(&memory.region, 0..pages);
    memory.show(out, "where", 0)?;
    memory.verify(out, "data", "new data, the CPU reads");
    Ok(())
}

fn across_fork(
    device: &Device,
    memory: &mut Memory,
    window: Option<&std::path::Path>,
    out: &mut Transcript,
) -> Result<()> {
    let pages = memory.region.pages();
    let (old, of_parent, of_child) = (memory.data, memory.data.round(3), memory.data.round(4));
    out.step("fork with all pages on the device: parent and child read and write, each its own");
    memory.move_out(device, out)?;
    let writable = Survey::of(memory.region.range())?.entry_types();

    // The child waits until the parent has written its half of the memory.
    let (mut hold, release) = std::os::unix::net::UnixStream::pair()?;
    let region = &memory.region;
    let child = fork_child(|| {
        use std::io::Read;
        let waited = hold.read_exact(&mut [0]);
        let inherited = old.check(region, 0..pages);
        of_child.fill(region, 0..pages);
        let written = of_child.check(region, 0..pages);
        if waited.is_err() {
            4
        } else if inherited.is_err() {
            2
        } else {
            i32::from(written.is_err()) * 3
        }
    })?;
    let survey = Survey::of(region.range())?;
    if survey.frames_shown() {
        let shared = survey.entry_types();
        let found =
            format!("swap-like, of type {writable:?} before fork, {shared:?} after: read-only");
        let wrong = format!("expected another type of entry after fork, seen {shared:?} again");
        out.check(
            "entries",
            if shared == writable {
                Err(wrong)
            } else {
                Ok(found)
            },
        );
    }
    memory.show(out, "parent", pages)?;
    // Single pages are counted, but in sequential access a fault brings back the next pages, too.
    let window = window.filter(|file| file.exists());
    let before = window.map(std::fs::read_to_string).transpose()?;
    if let Some(file) = window {
        std::fs::write(file, page_size().to_string()).context("cannot set the window of faults")?;
        out.fact("window", "one page a fault, because pages are counted now");
    }
    of_parent.fill(region, 0..pages / 2);
    memory.show(out, "parent", pages - pages / 2)?;
    if let (Some(file), Some(before)) = (window, before) {
        std::fs::write(file, before.trim()).context("cannot set the window of faults back")?;
    }
    out.fact(
        "",
        "the parent has written the first half; now the child reads and writes all",
    );
    {
        use std::io::Write;
        (&release).write_all(&[1])?;
    }
    let child = match child.wait()? {
        Exit::Status(0) => Ok(format!(
            "{} read as before fork, then written",
            bytes(pages)
        )),
        Exit::Status(2) => Err("the child did not read the data from before fork".into()),
        Exit::Status(3) => Err("the child did not read what it had written".into()),
        exit => Err(format!("expected the child to exit with 0, seen {exit:?}")),
    };
    out.check("child", child);
    let halves = of_parent
        .check(region, 0..pages / 2)
        .and_then(|()| old.check(region, pages / 2..pages));
    out.check(
        "parent",
        verdict(halves, pages, "its own first half, the old second half"),
    );
    memory.show(out, "where", 0)?;
    memory.data = of_parent;
    memory.data.fill(&memory.region, 0..pages);
    Ok(())
}

fn without_the_module(
    device: Device,
    module: &Module,
    memory: &mut Memory,
    out: &mut Transcript,
) -> Result<()> {
    let pages = memory.region.pages();
    out.step("The program closes the device, with all pages on it");
    memory.move_out(&device, out)?;
    let of_device: Vec<_> = Survey::of(memory.region.range())?
        .devices()
        .cloned()
        .collect();
    drop(device);
    memory.show(out, "where", pages)?;
    out.check(
        "users",
        expect(
            format!("{} has 0 open files", module.name()),
            module.users()?,
            0,
        ),
    );

    out.step(format!(
        "The module {} is unloaded, and the program goes on",
        module.name()
    ));
    let start = Instant::now();
    module
        .unload()
        .with_context(|| format!("cannot unload {}", module.name()))?;
    let folder = module.folder();
    let gone = format!("{} is gone after {:.0?}", folder.display(), start.elapsed());
    out.check(
        "sysfs",
        if folder.exists() {
            Err(format!("{} is still there", folder.display()))
        } else {
            Ok(gone)
        },
    );
    if !of_device.is_empty() {
        let left = device_memories()?
            .iter()
            .filter(|memory| of_device.contains(memory))
            .count();
        out.check(
            "iomem",
            expect("no memory of the device is left".to_owned(), left, 0),
        );
    }
    memory.show(out, "where", 0)?;
    memory.verify(out, "data", "the CPU reads");
    memory.data = memory.data.round(5);
    memory.data.fill(&memory.region, 0..pages);
    memory.verify(out, "data", "new data, the CPU reads");
    Ok(())
}

impl Memory {
    /// Maps memory without touching it, aligned so that any granule fits.
    pub fn new(pages: usize) -> Result<Self> {
        let region = Region::options(pages)
            .align(2 << 20)
            .huge(false)
            .map()
            .context("cannot map memory")?;
        Ok(Self {
            data: Pattern::new(&region, 1),
            region,
        })
    }

    /// Moves all of it to the device and checks count, place and view.
    fn move_out(&self, device: &Device, out: &mut Transcript) -> Result<()> {
        let mut view = vec![0; self.region.len()];
        let start = Instant::now();
        let answer = device.migrate_to_device(self.region.range(), &mut view);
        called(out, "ioctl", answer, self.region.pages(), start);
        self.show(out, "where", self.region.pages())?;
        let compared = self.data.check_bytes(&view, 0);
        out.check(
            "data",
            verdict(compared, self.region.pages(), "the device's view"),
        );
        Ok(())
    }

    /// Draws the places of the pages, and checks how many pages are on the device.
    pub fn show(&self, out: &mut Transcript, label: &str, on_device: usize) -> Result<()> {
        let range = self.region.range();
        let survey = Survey::of(range)?;
        out.fact(label, picture::draw(&survey));
        let (seen, system) = (survey.on_device(), survey.in_system());
        let there = picture::there(&survey);
        let mut found = format!("{seen} {there}, {system} in system memory");
        for memory in survey.devices() {
            let (first, last) = (memory.frames.start, memory.frames.end - 1);
            found.push_str(&format!(" ({}, frames {first:#x}-{last:#x})", memory.name));
        }
        let right = seen == on_device && system == self.region.pages() - on_device;
        let expected = format!("expected {on_device} {there}, seen {found}");
        out.check("", if right { Ok(found) } else { Err(expected) });
        Ok(())
    }

    /// Checks every byte with the CPU.
    fn verify(&self, out: &mut Transcript, label: &str, how: &str) {
        let pages = self.region.pages();
        out.check(
            label,
            verdict(self.data.check(&self.region, 0..pages), pages, how),
        );
    }

    /// Checks that smaps counts all pages as resident and none as swapped.
    fn usage(&self, out: &mut Transcript) -> Result<()> {
        let range: PageRange = self.region.range();
        let usage = Usage::of(range)?;
        let kib = |bytes: u64| bytes / 1024;
        let found = format!("Rss {} kB, Swap {} kB", kib(usage.rss), kib(usage.swap));
        let right = usage.rss == range.bytes() && usage.swap == 0;
        let expected = format!(
            "expected Rss {} kB and no Swap, seen {found}",
            kib(range.bytes())
        );
        out.check("smaps", if right { Ok(found) } else { Err(expected) });
        Ok(())
    }
}

/// Checks the answer to a command that should have done `pages` pages.
fn called(
    out: &mut Transcript,
    label: &str,
    answer: Result<Counts, CallError>,
    pages: usize,
    start: Instant,
) {
    let time = start.elapsed();
    let result = match answer {
        Ok(counts) => {
            let found = format!(
                "{} pages in {:.1} ms",
                counts.pages,
                time.as_secs_f64() * 1e3
            );
            expect(found, counts.pages, pages as u64)
        }
        Err(error) => Err(error.to_string()),
    };
    out.check(label, result);
}

/// Compares a value with the expected one; returns `found` if they are equal.
pub fn expect<T: PartialEq + Display>(
    found: String,
    seen: T,
    expected: T,
) -> Result<String, String> {
    if seen == expected {
        Ok(found)
    } else {
        Err(format!("expected {expected}, seen {seen}"))
    }
}

fn verdict(
    compared: Result<(), dmirror_client::pattern::Mismatch>,
    pages: usize,
    how: &str,
) -> Result<String, String> {
    compared
        .map(|()| format!("{} compared, all right ({how})", bytes(pages)))
        .map_err(|mismatch| format!("{how}: {mismatch}"))
}

fn bytes(pages: usize) -> String {
    format!("{} bytes", pages * page_size())
}
