// SPDX-License-Identifier: GPL-2.0

//! Files about page frames, read over the frames of the device while pages are there and while they
//! move. The files must see that a page of the device is not one of the kernel's ordinary pages.

use std::io::ErrorKind::NotFound;
use std::ops::Range;

use dmirror_client::Place;

use crate::prelude::*;

cases! { "frames":
    of_resident_pages = "kpageflags, kpagecount and kpagecgroup know nothing of the frames of resident pages."
        => kept(on_device(PAGES), of_resident_pages),
    whole_range = "The files about page frames can be read over the whole range of a device and around it."
        => resident(PAGES, whole_range),
    of_pages_that_came_back = "Pages that came back are anonymous memory that is mapped once.",
    during_migration = "The files about page frames can be read while pages go to the device and come back.",
    idle = "The bitmap of idle pages has no resident page in it, and marking all of them idle does no harm."
        => kept(in_system(PAGES), idle),
    idle_during_migration = "The bitmap of idle pages can be read and written while pages move.",
}

const PAGES: usize = 64;

const FILES: [&str; 3] = ["/proc/kpageflags", "/proc/kpagecount", "/proc/kpagecgroup"];
const BITMAP: &str = "/sys/kernel/mm/page_idle/bitmap";

/// Bits of kpageflags, from linux/kernel-page-flags.h.
const ANON: u64 = 1 << 12;
const NOPAGE: u64 = 1 << 20;
const OFFLINE: u64 = 1 << 23;

/// A file with a word for each frame.
struct PerFrame(File);

impl PerFrame {
    fn open(path: &str) -> Result<Self> {
        if !is_root() {
            return skip("page frames are shown to root only");
        }
        match File::open(path) {
            Err(error) if error.kind() == NotFound => skip(format!("the kernel has no {path}")),
            file => Ok(Self(file.context(path.to_owned())?)),
        }
    }

    /// Returns the existing files about frames, with their paths.
    fn all() -> Vec<(&'static str, Self)> {
        let open = |path| Some((path, Self::open(path).ok()?));
        FILES.into_iter().filter_map(open).collect()
    }

    /// Returns the words of `frames`; fewer if the file ends before.
    fn read(&self, frames: Range<u64>) -> Result<Vec<u64>> {
        let mut bytes = vec![0xff; (frames.end - frames.start) as usize * 8];
        let mut done = 0;
        while done < bytes.len() {
            let at = frames.start * 8 + done as u64;
            match self.0.read_at(&mut bytes[done..], at)? {
                0 => break,
                length => done += length,
            }
        }
        let words = bytes[..done].chunks_exact(8);
        let words = words.map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default()));
        Ok(words.collect())
    }

    /// Returns the word of a frame, or `None` beyond the end of the file.
    fn read_one(&self, frame: u64) -> Result<Option<u64>> {
        Ok(self.read(frame..frame + 1)?.first().copied())
    }
}

/// Returns the range of device frames from the first to the last one with a page of `memory`.
fn frames_there(memory: &Memory) -> Result<Range<u64>> {
    let survey = Survey::of(memory.region.range())?;
    at("the pages", &survey, Where::Device)?;
    let frames = frames(memory)?;
    let (first, last) = (frames.iter().min(), frames.iter().max());
    Ok(*first.context("no page")?..*last.context("no page")? + 1)
}

/// Returns the frames that hold pages of `memory`, on the device or in system memory.
fn frames(memory: &Memory) -> Result<Vec<u64>> {
    let survey = Survey::of(memory.region.range())?;
    if !survey.frames_shown() {
        return skip("page frames are shown to root only");
    }
    let frame = |place: &Place| match place {
        Place::Device { frame, .. } | Place::System { frame } => Ok(*frame),
        place => bail!("expected a page with a frame, seen {place:?}"),
    };
    survey.places().iter().map(frame).collect()
}

/// Checks that a file about frames says nothing of frames of the device.
fn says_nothing(path: &str, words: &[u64]) -> Result<()> {
    // The kernel hands out none of these frames. So they have no flags except for those that say
    // so, no mappings, and no group.
    let odd = words.iter().find(|word| *word & !(NOPAGE | OFFLINE) != 0);
    ensure!(odd.is_none(), "{path} says {odd:x?} of a frame there");
    Ok(())
}

fn of_resident_pages(_: &Device, memory: &Memory) -> Result<()> {
    for (path, file) in PerFrame::all() {
        let words = file.read(frames_there(memory)?)?;
        println!("{path}: {} words", words.len());
        says_nothing(path, &words)?;
    }
    PerFrame::open(FILES[0])?;
    memory.expect("after the files were read", memory.all(), Where::Device)
}

fn whole_range(_: &Device, memory: &Memory) -> Result<()> {
    let survey = Survey::of(memory.region.range())?;
    let frames = frames_there(memory)?;
    let mut devices = survey.devices();
    let device = devices.find(|device| device.frames.contains(&frames.start));
    let range = &device
        .context("no device in /proc/iomem holds the pages")?
        .frames;
    println!("frames of the device: {range:x?}");
    // Read a section of memory on either side: the kernel's records end there.
    let section = (128 << 20) / page_size() as u64;
    for (path, file) in PerFrame::all() {
        for edge in [range.start, frames.start, range.end] {
            let around = file.read(edge.saturating_sub(600)..edge + 600);
            around.with_context(|| format!("{path} around {edge:#x}"))?;
            file.read(edge.saturating_sub(section)..edge.saturating_sub(section - 8))?;
        }
        let step = (range.end - range.start) / 4096 + 1;
        for frame in range.clone().step_by(step as usize) {
            says_nothing(path, &file.read(frame..frame + 1)?)?;
        }
    }
    memory.intact()
}

fn of_pages_that_came_back(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let (flags, counts) = (PerFrame::open(FILES[0])?, PerFrame::open(FILES[1])?);
    memory.out(&device)?;
    memory.move_back(&device, 0..PAGES / 2, PAGES / 2)?;
    memory.intact()?;
    for frame in frames(&memory)? {
        let (flags, count) = (flags.read_one(frame)?, counts.read_one(frame)?);
        let is_anon = flags.is_some_and(|flags| flags & ANON != 0);
        ensure!(is_anon, "the flags of frame {frame:#x} are {flags:x?}");
        equal("the count of mappings", count, Some(1))?;
    }
    Ok(())
}

/// Calls `look` again and again while another process moves memory out and back. `look` gets the
/// frames of the device, and the frames that held the memory before the move.
fn while_moving(context: &Context, look: impl Fn(Range<u64>, &[u64]) -> Result<()>) -> Result<()> {
    const ROUNDS: usize = 12;
    let (found, go, done) = (Gate::new()?, Gate::new()?, Gate::new()?);
    let move_around = || -> Result<()> {
        let device = context.open()?;
        let memory = Memory::new(PAGES)?;
        for frame in frames(&memory)? {
            found.send(frame)?;
        }
        memory.out(&device)?;
        let frames = frames_there(&memory)?;
        found.send(frames.start)?;
        found.send(frames.end)?;
        go.wait()?;
        for round in 0..ROUNDS {
            memory.refill(round as u16 + 2);
            // A page that someone looks at may stay behind.
            let _ = memory.try_out(&device);
            if round % 2 == 0 {
                let _ = device.migrate_to_system(memory.region.range());
            }
            memory.intact()?;
        }
        Ok(())
    };
    let child = helper(|| {
        let result = move_around();
        done.open()?;
        result
    })?;
    let system: Vec<u64> = (0..PAGES).map(|_| found.receive()).collect::<Result<_>>()?;
    let there = found.receive()?..found.receive()?;
    go.open()?;
    let mut looks = 0;
    while !done.is_open()? {
        look(there.clone(), &system)?;
        looks += 1;
    }
    println!("looked {looks} times");
    child.join()
}

fn during_migration(context: &Context) -> Result<()> {
    let files = PerFrame::all();
    PerFrame::open(FILES[0])?;
    while_moving(context, |there, system| {
        for (path, file) in &files {
            says_nothing(path, &file.read(there.clone())?)?;
            for frame in system {
                file.read_one(*frame)?;
            }
        }
        Ok(())
    })
}

/// The bitmap of idle pages, a word for each 64 frames.
struct Idle {
    read: PerFrame,
    write: File,
}

impl Idle {
    fn open() -> Result<Self> {
        let read = PerFrame::open(BITMAP)?;
        let write = File::options().write(true).open(BITMAP)?;
        Ok(Self { read, write })
    }

    /// Returns the range of the words that hold `frames`.
    fn words(frames: Range<u64>) -> Range<u64> {
        frames.start / 64..frames.end.div_ceil(64)
    }

    fn get(&self, frames: Range<u64>) -> Result<Vec<u64>> {
        self.read.read(Self::words(frames))
    }

    /// Marks pages idle. The file ends after the last frame of memory.
    fn mark(&self, frames: Range<u64>) -> Result<()> {
        for word in Self::words(frames) {
            match self.write.write_at(&[0xff; 8], word * 8) {
                Err(error) if error.raw_os_error() == Some(Errno::ENXIO as i32) => {}
                answer => drop(answer.context("marking pages idle")?),
            }
        }
        Ok(())
    }
}

fn idle(device: &Device, memory: &Memory) -> Result<()> {
    let idle = Idle::open()?;
    let system = frames(memory)?;
    memory.out(device)?;
    let there = frames_there(memory)?;
    idle.mark(there.clone())?;
    let words = idle.get(there)?;
    let none = words.iter().all(|word| *word == 0);
    ensure!(none, "pages of the device are idle: {words:x?}");
    memory.expect("after marking", memory.all(), Where::Device)?;
    memory.intact()?;
    // Mark the pages idle before they go.
    for frame in system {
        idle.mark(frame..frame + 1)?;
    }
    for frame in frames(memory)? {
        idle.mark(frame..frame + 1)?;
    }
    memory.out(device)?;
    memory.move_back(device, memory.all(), PAGES)
}

fn idle_during_migration(context: &Context) -> Result<()> {
    let idle = Idle::open()?;
    while_moving(context, |there, system| {
        idle.mark(there.clone())?;
        idle.get(there)?;
        for frame in system {
            idle.mark(*frame..*frame + 1)?;
            idle.get(*frame..*frame + 1)?;
        }
        Ok(())
    })
}
