// SPDX-License-Identifier: GPL-2.0

//! The memory of a process that can move: its private pages that exist.

use std::io;

use dmirror_client::PageRange;
use dmirror_client::hpage_pmd_nr;
use dmirror_client::page_size;
use procfs::process::MMPermissions;
use procfs::process::MMapPath;
use procfs::process::MemoryMap;
use procfs::process::MemoryPageFlags;
use procfs::process::PageInfo;
use procfs::process::PageMap;
use procfs::process::Process;

/// Returns the number of pages of a huge page. A run stays within one, so that none is cut.
pub fn block() -> u64 {
    hpage_pmd_nr() as u64
}

/// The private memory of a process.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Runs of pages in system memory, none across the border of a block.
    pub here: Vec<PageRange>,
    /// The number of pages that exist, in any place.
    pub pages: u64,
}

impl Scan {
    /// Scans the memory of a process.
    ///
    /// # Errors
    ///
    /// The error of reading its files in `/proc`, for example because the process is gone.
    pub fn of(pid: i32) -> io::Result<Self> {
        let other = |error| io::Error::other(error);
        let process = Process::new(pid).map_err(other)?;
        let maps = process.maps().map_err(other)?;
        let mut pagemap = process.pagemap().map_err(other)?;
        let mut scan = Self::default();
        for map in maps.iter().filter(|map| may_move(map)) {
            scan.add(&mut pagemap, map.address)?;
        }
        Ok(scan)
    }

    fn add(&mut self, pagemap: &mut PageMap, (start, end): (u64, u64)) -> io::Result<()> {
        let size = page_size() as u64;
        let (mut at, end) = (start / size, end / size);
        while at < end {
            // Read a limited number of pages at a time.
            let next = (at + 64 * block()).min(end);
            let pages = pagemap
                .get_range_info(at as usize..next as usize)
                .map_err(io::Error::other)?;
            self.add_pages(at, &pages);
            at = next;
        }
        Ok(())
    }

    /// Adds pages from number `first` on.
    fn add_pages(&mut self, first: u64, pages: &[PageInfo]) {
        let size = page_size() as u64;
        let mut run = first..first;
        let mut push = |run: std::ops::Range<u64>| {
            if let Ok(range) = PageRange::new(run.start * size, run.end - run.start) {
                self.here.push(range);
            }
        };
        for (number, page) in (first..).zip(pages) {
            if number % block() == 0 || !is_here(page) {
                push(run.clone());
                run = number..number;
            }
            match is_here(page) {
                true => run.end = number + 1,
                false => run = number + 1..number + 1,
            }
            self.pages += u64::from(is_there(page));
        }
        push(run);
    }
}

/// A second look at parts of a process, right before they move.
///
/// After the first look the program may have mapped other memory there. Pages of it that are not
/// yet touched must not be requested, because they would be allocated on the device.
pub struct SecondLook(PageMap);

impl SecondLook {
    /// Prepares to look at a process.
    ///
    /// # Errors
    ///
    /// The error of opening its files in `/proc`, for example because the process is gone.
    pub fn at(pid: i32) -> io::Result<Self> {
        let pagemap = Process::new(pid).and_then(|process| process.pagemap());
        pagemap.map(Self).map_err(io::Error::other)
    }

    /// Returns the parts of a run that are in system memory now.
    pub fn of(&mut self, run: PageRange) -> Vec<PageRange> {
        let first = run.addr() / page_size() as u64;
        let numbers = first as usize..(first + run.pages()) as usize;
        let mut scan = Scan::default();
        if let Ok(pages) = self.0.get_range_info(numbers) {
            scan.add_pages(first, &pages);
        }
        scan.here
    }
}

/// Returns whether a mapping may have pages that can move: private, and of a kind that the kernel
/// has struct pages for.
fn may_move(map: &MemoryMap) -> bool {
    let wanted = MMPermissions::PRIVATE | MMPermissions::READ;
    let special = match &map.pathname {
        MMapPath::Vdso | MMapPath::Vvar | MMapPath::Vsyscall => true,
        // The other names are mappings of the kernel.
        MMapPath::Other(name) => !name.starts_with("anon:"),
        _ => false,
    };
    map.perms.contains(wanted) && !special
}

/// Returns whether a page is private memory, in system memory.
fn is_here(page: &PageInfo) -> bool {
    match page {
        PageInfo::MemoryPage(flags) => {
            flags.contains(MemoryPageFlags::PRESENT) && !flags.contains(MemoryPageFlags::FILE)
        }
        PageInfo::SwapPage(_) => false,
    }
}

/// Returns whether a page is private memory: in system memory, on a device, or swapped out.
fn is_there(page: &PageInfo) -> bool {
    is_here(page) || matches!(page, PageInfo::SwapPage(_))
}

#[cfg(test)]
mod tests {
    use dmirror_client::Region;

    use super::*;

    fn pages(text: &str) -> Vec<PageInfo> {
        let page = |letter| {
            let bits: u64 = match letter {
                'h' => 1 << 63,
                'f' => (1 << 63) | (1 << 61),
                'd' => 1 << 62,
                _ => 0,
            };
            match letter {
                'd' => PageInfo::SwapPage(procfs::process::SwapPageFlags::from_bits_retain(bits)),
                _ => PageInfo::MemoryPage(MemoryPageFlags::from_bits_retain(bits)),
            }
        };
        text.chars().map(page).collect()
    }

    fn runs(first: u64, text: &str) -> (Vec<(u64, u64)>, u64) {
        let mut scan = Scan::default();
        scan.add_pages(first, &pages(text));
        let size = page_size() as u64;
        let run = |range: &PageRange| (range.addr() / size, range.pages());
        (scan.here.iter().map(run).collect(), scan.pages)
    }

    #[test]
    fn runs_end_at_holes_files_and_pages_elsewhere() {
        assert_eq!(
            runs(8, "hh.hfhdhh"),
            (vec![(8, 2), (11, 1), (13, 1), (15, 2)], 7)
        );
        assert_eq!(runs(8, "...."), (vec![], 0));
        assert_eq!(runs(8, "dddd"), (vec![], 4));
    }

    #[test]
    fn runs_end_at_blocks() {
        assert_eq!(runs(510, "hhhh"), (vec![(510, 2), (512, 2)], 4));
        let block = "h".repeat(512);
        assert_eq!(runs(512, &block), (vec![(512, 512)], 512));
    }

    #[test]
    fn a_second_look_leaves_out_what_is_not_there() {
        let region = Region::options(8).huge(false).map().unwrap();
        for page in [0, 1, 5] {
            region.store(page * Region::words_per_page(), 1);
        }
        let mut look = SecondLook::at(std::process::id() as i32).unwrap();
        assert_eq!(
            look.of(region.range()),
            [region.part(0..2), region.part(5..6)]
        );
    }

    #[test]
    fn this_process_has_private_pages() {
        let scan = Scan::of(std::process::id() as i32).unwrap();
        assert!(scan.pages > 0);
        assert!(!scan.here.is_empty());
    }
}
