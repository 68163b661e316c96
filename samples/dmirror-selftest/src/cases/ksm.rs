// SPDX-License-Identifier: GPL-2.0

//! KSM, which merges equal pages: what it has merged may go to a device, and what
//! is on a device is none of its business.

use crate::daemon::Daemon;
use crate::prelude::*;

cases! { "ksm":
    merged = "Merged pages go to the device or stay (ENOENT), and have their data there and back.",
    resident = "Equal pages on the device stay there, unmerged, while KSM scans.",
    writes_of_both_sides = "After merged pages were asked to the device a write to one of them changes no other.",
    scan_beside_merged = "KSM finds more equal pages after merged ones were asked to the device.",
    unmerge = "MADV_UNMERGEABLE gives each page its own data again, also for merged pages that were asked to the device.",
    end_of_process = "A process with merged pages leaves nothing on the device when it ends.",
}

/// Pages of each half; page n of one half has the data of page n of the other.
const TWINS: usize = 16;

/// KSM at work, as fast as it goes, or skips.
fn ksm() -> Result<Daemon> {
    let files = [
        ("pages_to_scan", "2000"),
        ("sleep_millisecs", "1"),
        ("run", "1"),
    ];
    Daemon::start("KSM", "ksm", &files)
}

/// How many pages of this process are merged with others.
fn merged_pages() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/ksm_stat")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("ksm_merging_pages "));
    Ok(line
        .context("no ksm_merging_pages in ksm_stat")?
        .trim()
        .parse()?)
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
        for page in 0..2 * TWINS {
            twins.fill(page, base);
        }
        Ok(twins)
    }

    fn word(base: u64, page: usize, word: usize) -> u64 {
        (base << 32) | (((page % TWINS) as u64) << 16) | word as u64
    }

    fn fill(&self, page: usize, base: u64) {
        let words = Region::words_per_page();
        for word in 0..words {
            self.region
                .store(page * words + word, Self::word(base, page, word));
        }
    }

    /// Checks that each page has what was written to it, by `base`.
    fn verify(&self, base: impl Fn(usize) -> u64) -> Result<()> {
        let words = Region::words_per_page();
        for page in 0..2 * TWINS {
            for word in 0..words {
                let seen = self.region.load(page * words + word);
                equal(
                    &format!("page {page}, word {word}"),
                    seen,
                    Self::word(base(page), page, word),
                )?;
            }
        }
        Ok(())
    }

    fn intact(&self) -> Result<()> {
        self.verify(|_| self.base)
    }

    /// Lets KSM merge them.
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

    /// Asks all pages to the device, and checks what it hands out if all came.
    fn ask_out(&self, device: &Device) -> Result<()> {
        let mut view = vec![0; self.region.len()];
        let answer = device.migrate_to_device(self.region.range(), &mut view);
        println!(
            "MIGRATE_TO_DEV: {answer:?}; then {} pages are on the device",
            Survey::of(self.region.range())?.on_device()
        );
        let all = answer.is_ok();
        unless_held(answer)?;
        if all {
            all_at("after moving out", self.region.range(), Where::Device)?;
            for (page, bytes) in view.chunks_exact(page_size()).enumerate() {
                for (word, bytes) in bytes.chunks_exact(8).enumerate() {
                    let seen = u64::from_ne_bytes(bytes.try_into()?);
                    equal(
                        &format!("the device's view of page {page}, word {word}"),
                        seen,
                        Self::word(self.base, page, word),
                    )?;
                }
            }
        }
        Ok(())
    }
}

fn merged(device: Device) -> Result<()> {
    let ksm = ksm()?;
    let twins = Twins::new(1)?;
    twins.merge(&ksm)?;
    twins.ask_out(&device)?;
    unless_held(device.migrate_to_system(twins.region.range()))?;
    twins.intact()?;
    twins.ask_out(&device)?;
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

fn writes_of_both_sides(device: Device) -> Result<()> {
    let ksm = ksm()?;
    let twins = Twins::new(3)?;
    twins.merge(&ksm)?;
    twins.ask_out(&device)?;
    // Writes to every third page; its twin is none of these.
    for page in (0..2 * TWINS).step_by(3) {
        twins.fill(page, 7);
    }
    let base = |page| if page % 3 == 0 { 7 } else { 3 };
    twins.verify(base)?;
    unless_held(device.migrate_to_system(twins.region.range()))?;
    twins.verify(base)
}

fn scan_beside_merged(device: Device) -> Result<()> {
    let ksm = ksm()?;
    let twins = Twins::new(4)?;
    twins.merge(&ksm)?;
    twins.ask_out(&device)?;
    // Their data is what KSM looks for among the pages that it has merged.
    let more = Twins::new(4)?;
    more.offer()?;
    ksm.wait(4)?;
    more.intact()?;
    twins.intact()
}

fn unmerge(device: Device) -> Result<()> {
    let ksm = ksm()?;
    let twins = Twins::new(5)?;
    twins.merge(&ksm)?;
    twins.ask_out(&device)?;
    twins.region.advise(0..2 * TWINS, Advice::Unmergeable)?;
    twins.intact()?;
    for page in 0..TWINS {
        twins.fill(page, 8);
    }
    twins.verify(|page| if page < TWINS { 8 } else { 5 })
}

fn end_of_process(context: &Context) -> Result<()> {
    let device = context.open()?;
    let before = Before::of(&device)?;
    let ksm = ksm()?;
    helper(|| {
        let device = context.open()?;
        let twins = Twins::new(6)?;
        twins.merge(&ksm)?;
        twins.ask_out(&device)
    })?
    .join()?;
    before.nothing_is_left(&device)
}
