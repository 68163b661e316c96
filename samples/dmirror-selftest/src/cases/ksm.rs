// SPDX-License-Identifier: GPL-2.0

//! KSM, which merges equal pages. Merged pages may go to a device, and KSM ignores pages that are
//! on a device.

use crate::daemon::Daemon;
use crate::prelude::*;

cases! { "ksm":
    merged = "Merged pages go to the device or stay (ENOENT), and have their data there and back."
        => asked_out(1, merged),
    resident = "Equal pages on the device stay there, unmerged, while KSM scans.",
    writes_of_both_sides = "After merged pages were asked to the device a write to one of them changes no other."
        => asked_out(3, writes_of_both_sides),
    scan_beside_merged = "KSM finds more equal pages after merged ones were asked to the device."
        => asked_out(4, scan_beside_merged),
    unmerge = "MADV_UNMERGEABLE gives each page its own data again, also for merged pages that were asked to the device."
        => asked_out(5, unmerge),
    end_of_process = "A process with merged pages leaves nothing on the device when it ends.",
}

/// The number of pages of each half; page n of one half has the data of page n of the other.
const TWINS: usize = 16;

/// Starts KSM, as fast as it goes, or skips.
fn ksm() -> Result<Daemon> {
    let (pages, sleep) = (("pages_to_scan", "2000"), ("sleep_millisecs", "1"));
    Daemon::start("KSM", "ksm", &[pages, sleep, ("run", "1")])
}

/// Returns the number of pages of this process that are merged with others.
fn merged_pages() -> Result<u64> {
    number_in("/proc/self/ksm_stat", "ksm_merging_pages ")
}

/// Two halves with equal data.
struct Twins {
    region: Region,
    base: u64,
}

impl Twins {
    fn new(base: u64) -> Result<Self> {
        let region = Region::options(2 * TWINS).huge(false).map()?;
        let twins = Self { region, base };
        (0..2 * TWINS).for_each(|page| twins.fill(page, base));
        Ok(twins)
    }

    fn word(base: u64, page: usize, word: usize) -> u64 {
        (base << 32) | (((page % TWINS) as u64) << 16) | word as u64
    }

    fn fill(&self, page: usize, base: u64) {
        let words = Region::words_per_page();
        for word in 0..words {
            let data = Self::word(base, page, word);
            self.region.store(page * words + word, data);
        }
    }

    /// Checks that each page of `bytes` has the data that was written to it, by `base`.
    fn check(bytes: &[u8], base: impl Fn(usize) -> u64) -> Result<()> {
        for (page, bytes) in bytes.chunks_exact(page_size()).enumerate() {
            for (word, bytes) in bytes.chunks_exact(8).enumerate() {
                let seen = u64::from_ne_bytes(bytes.try_into()?);
                let expected = Self::word(base(page), page, word);
                equal(&format!("page {page}, word {word}"), seen, expected)?;
            }
        }
        Ok(())
    }

    /// Checks all pages as the CPU reads them, by `base`.
    fn verify(&self, base: impl Fn(usize) -> u64) -> Result<()> {
        Self::check(&self.region.to_bytes(0..2 * TWINS), base)
    }

    fn intact(&self) -> Result<()> {
        self.verify(|_| self.base)
    }

    /// Allows KSM to merge the pages.
    fn offer(&self) -> Result<()> {
        Ok(self.region.advise(0..2 * TWINS, Advice::Mergeable)?)
    }

    /// Waits until all pages are merged.
    fn merge(&self, ksm: &Daemon) -> Result<()> {
        self.offer()?;
        for _ in 0..5 {
            ksm.wait(2)?;
            if merged_pages()? >= 2 * TWINS as u64 {
                return Ok(());
            }
        }
        bail!("KSM merged {} pages of {}", merged_pages()?, 2 * TWINS)
    }

    /// Tries to move all pages to the device, and checks the device's view if all came.
    fn ask_out(&self, device: &Device) -> Result<()> {
        let range = self.region.range();
        let mut view = vec![0; self.region.len()];
        let answer = device.migrate_to_device(range, &mut view);
        let there = Survey::of(range)?.on_device();
        println!("MIGRATE_TO_DEV: {answer:?}; then {there} pages are on the device");
        let all = answer.is_ok();
        unless_held(answer)?;
        if all {
            all_at("after moving out", range, Where::Device)?;
            Self::check(&view, |_| self.base).context("the device's view")?;
        }
        Ok(())
    }

    fn back(&self, device: &Device) -> Result<()> {
        unless_held(device.migrate_to_system(self.region.range()))
    }
}

/// Returns a case with KSM at work and merged pages that the device has tried to take.
fn asked_out(
    base: u64,
    body: impl Fn(&Device, &Twins, &Daemon) -> Result<()>,
) -> impl Fn(Device) -> Result<()> {
    move |device| {
        let ksm = ksm()?;
        let twins = Twins::new(base)?;
        twins.merge(&ksm)?;
        twins.ask_out(&device)?;
        body(&device, &twins, &ksm)
    }
}

fn merged(device: &Device, twins: &Twins, _: &Daemon) -> Result<()> {
    twins.back(device)?;
    twins.intact()?;
    twins.ask_out(device)?;
    twins.intact()
}

fn resident(device: Device) -> Result<()> {
    let twins = Twins::new(2)?;
    twins.ask_out(&device)?;
    twins.offer()?;
    let ksm = ksm()?;
    ksm.wait(3)?;
    all_at("after KSM's scans", twins.region.range(), Where::Device)?;
    equal("merged pages", merged_pages()?, 0)?;
    twins.intact()?;
    twins.merge(&ksm)?;
    twins.intact()
}

fn writes_of_both_sides(device: &Device, twins: &Twins, _: &Daemon) -> Result<()> {
    // Write every third page; its twin is none of these.
    for page in (0..2 * TWINS).step_by(3) {
        twins.fill(page, 7);
    }
    let base = |page| if page % 3 == 0 { 7 } else { 3 };
    twins.verify(base)?;
    twins.back(device)?;
    twins.verify(base)
}

fn scan_beside_merged(_: &Device, twins: &Twins, ksm: &Daemon) -> Result<()> {
    // KSM looks for the data of these pages among the pages that it has merged.
    let more = Twins::new(4)?;
    more.offer()?;
    ksm.wait(4)?;
    more.intact()?;
    twins.intact()
}

fn unmerge(_: &Device, twins: &Twins, _: &Daemon) -> Result<()> {
    twins.region.advise(0..2 * TWINS, Advice::Unmergeable)?;
    twins.intact()?;
    (0..TWINS).for_each(|page| twins.fill(page, 8));
    twins.verify(|page| if page < TWINS { 8 } else { 5 })
}

fn end_of_process(context: &Context) -> Result<()> {
    let device = context.open()?;
    let before = Before::of(&device)?;
    let ksm = ksm()?;
    in_child(|| {
        let device = context.open()?;
        let twins = Twins::new(6)?;
        twins.merge(&ksm)?;
        twins.ask_out(&device)
    })?;
    before.nothing_is_left(&device)
}
