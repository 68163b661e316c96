// SPDX-License-Identifier: GPL-2.0

//! The places of pages, from evidence that the module does not produce.
//!
//! `/proc/PID/pagemap` shows a page in a device's private memory like a swapped one: not present, a
//! type of 5 bits, and a number above it (fs/proc/task_mmu.c). The number is the page frame of the
//! device page. The values of the type depend on the kernel's options and version, so what
//! distinguishes device pages is the number: it lies in a range of `/proc/iomem` that is not system
//! RAM, beyond the size of any swap area. `smaps` counts such pages as resident (Rss), never as
//! Swap.
//!
//! The kernel shows frames and ranges only with CAP_SYS_ADMIN. Without it, a device page is
//! [`Place::Hidden`].

use std::fs;
use std::io;
use std::ops::Range;

use procfs::Current;
use procfs::Iomem;
use procfs::process::MemoryPageFlags;
use procfs::process::PageInfo;
use procfs::process::Process;

use crate::range::PageRange;
use crate::range::page_size;

/// The place of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: never touched, or not mapped.
    Absent,
    /// In system memory, mapped.
    System {
        /// Its page frame; 0 if hidden.
        frame: u64,
    },
    /// In the memory of a device.
    Device {
        /// Its page frame.
        frame: u64,
        /// The type of the swap-like entry, which distinguishes a writable entry from a read-only
        /// one. `None` for memory that CPUs can access.
        entry: Option<u8>,
    },
    /// In swap space.
    Swapped,
    /// In system memory behind an entry that is not present: being migrated, or
    /// held exclusively by a device.
    Held,
    /// Not present, and the kernel shows no details to this program.
    Hidden,
}

/// The letters of pictures of memory, and their meanings; the last two are for pages in several
/// places, and for none. All programs draw with these, so that a reader learns them once.
pub const LETTERS: [(char, &str); 7] = [
    ('D', "on a device"),
    ('s', "in system memory"),
    ('w', "swapped out"),
    ('x', "held by a device, or moving"),
    ('?', "not present"),
    ('+', "some of these"),
    ('-', "nothing"),
];

/// The note about a picture that was drawn without page frames.
pub const FRAMES_HIDDEN: &str =
    "The kernel shows page frames to root only: ? may be on a device or swapped out.";

impl Place {
    /// Returns its letter, one of [`LETTERS`].
    pub fn letter(self) -> char {
        match self {
            Self::Device { .. } => 'D',
            Self::System { .. } => 's',
            Self::Swapped => 'w',
            Self::Held => 'x',
            Self::Hidden => '?',
            Self::Absent => '-',
        }
    }
}

/// A named range of physical addresses that is not system RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// The name in `/proc/iomem`.
    pub name: String,
    /// Its page frames.
    pub frames: Range<u64>,
}

/// The system's physical memory ranges and swap.
#[derive(Clone, Debug, Default)]
struct Physical {
    devices: Vec<DeviceMemory>,
    /// Number of pages of the largest swap area.
    swap: u64,
    /// Set if the kernel shows frames and addresses to this program.
    shown: bool,
}

impl Physical {
    fn read() -> io::Result<Self> {
        let iomem = Iomem::current().map_err(io::Error::other)?;
        let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
        Ok(Self::parse(&iomem, &swaps))
    }

    fn parse(iomem: &Iomem, swaps: &str) -> Self {
        let size = page_size() as u64;
        let ranges = iomem
            .0
            .iter()
            .filter(|(depth, _)| *depth == 0)
            .map(|(_, range)| range);
        let shown = ranges.clone().any(|range| range.address.1 != 0);
        let devices = ranges
            .filter(|range| shown && range.name != "System RAM")
            .map(|range| DeviceMemory {
                name: range.name.clone(),
                frames: range.address.0 / size..range.address.1.saturating_add(1) / size,
            })
            .collect();
        // Columns: name, type, size in KiB, used, priority.
        let sizes = swaps
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
        let swap = sizes.max().unwrap_or(0) * 1024 / size;
        Self {
            devices,
            swap,
            shown,
        }
    }

    fn is_device(&self, frame: u64) -> bool {
        self.devices
            .iter()
            .any(|device| device.frames.contains(&frame))
    }

    /// Decodes an entry of pagemap.
    fn place(&self, info: PageInfo) -> Place {
        match info {
            PageInfo::MemoryPage(flags) if !flags.contains(MemoryPageFlags::PRESENT) => {
                Place::Absent
            }
            PageInfo::MemoryPage(flags) => {
                let frame = flags.get_page_frame_number().0;
                if self.is_device(frame) {
                    Place::Device { frame, entry: None }
                } else {
                    Place::System { frame }
                }
            }
            PageInfo::SwapPage(_) if !self.shown => Place::Hidden,
            PageInfo::SwapPage(flags) => {
                let frame = flags.get_swap_offset();
                if frame < self.swap {
                    Place::Swapped
                } else if self.is_device(frame) {
                    let entry = Some(flags.get_swap_type() as u8);
                    Place::Device { frame, entry }
                } else {
                    Place::Held
                }
            }
        }
    }
}

/// Returns the ranges of physical addresses that are not system RAM, with their names in
/// `/proc/iomem`; none if the kernel does not show addresses to this program.
///
/// # Errors
///
/// The error of reading `/proc/iomem`.
pub fn device_memories() -> io::Result<Vec<DeviceMemory>> {
    Ok(Physical::read()?.devices)
}

/// Looks at some ranges of process `pid`; returns the places of each, and whether the kernel shows
/// page frames to this program.
pub(crate) fn places_of(pid: i32, parts: &[PageRange]) -> io::Result<(Vec<Vec<Place>>, bool)> {
    let mut map = Process::new(pid)
        .and_then(|process| process.pagemap())
        .map_err(io::Error::other)?;
    let mut entries = Vec::new();
    for part in parts {
        let pages = part.page_numbers();
        let found = map.get_range_info(pages.start as usize..pages.end as usize);
        entries.push(found.map_err(io::Error::other)?);
    }
    // Read after pagemap: a module may add memory while it migrates.
    let physical = Physical::read()?;
    let places = |entries: Vec<PageInfo>| {
        let places = entries.into_iter().map(|entry| physical.place(entry));
        places.collect()
    };
    Ok((entries.into_iter().map(places).collect(), physical.shown))
}

/// The places of the pages of a range, at one moment.
#[derive(Clone, Debug)]
pub struct Survey {
    places: Vec<Place>,
    physical: Physical,
}

impl Survey {
    /// Looks at `range` of this process.
    ///
    /// # Errors
    ///
    /// The error of reading `/proc/self/pagemap` or `/proc/iomem`.
    pub fn of(range: PageRange) -> io::Result<Self> {
        Self::read(Process::myself(), range)
    }

    /// Looks at `range` of the process `pid`.
    ///
    /// # Errors
    ///
    /// The error of reading `/proc/PID/pagemap` or `/proc/iomem`.
    pub fn of_process(pid: i32, range: PageRange) -> io::Result<Self> {
        Self::read(Process::new(pid), range)
    }

    fn read(process: procfs::ProcResult<Process>, range: PageRange) -> io::Result<Self> {
        let pages = range.page_numbers();
        let entries = process
            .and_then(|process| process.pagemap())
            .and_then(|mut map| map.get_range_info(pages.start as usize..pages.end as usize))
            .map_err(io::Error::other)?;
        // Read after pagemap: a module may add memory while it migrates.
        let physical = Physical::read()?;
        let places = entries
            .into_iter()
            .map(|entry| physical.place(entry))
            .collect();
        Ok(Self { places, physical })
    }

    /// Returns the places, one per page.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Returns whether the kernel shows page frames to this program. Without them, no page is known
    /// to be on a device: it is [`Place::Hidden`].
    pub fn frames_shown(&self) -> bool {
        self.physical.shown
    }

    /// Returns the number of pages in device memory; hidden pages count as such.
    pub fn on_device(&self) -> usize {
        self.count(|place| matches!(place, Place::Device { .. } | Place::Hidden))
    }

    /// Returns the number of pages in system memory.
    pub fn in_system(&self) -> usize {
        self.count(|place| matches!(place, Place::System { .. }))
    }

    /// Returns the number of pages that are nowhere.
    pub fn absent(&self) -> usize {
        self.count(|place| matches!(place, Place::Absent))
    }

    /// Returns the number of pages of a kind.
    pub fn count(&self, kind: impl Fn(&Place) -> bool) -> usize {
        self.places.iter().filter(|place| kind(place)).count()
    }

    /// Returns the device memories that contain pages of the range, without repetition.
    pub fn devices(&self) -> impl Iterator<Item = &DeviceMemory> {
        let holds = |device: &&DeviceMemory| {
            self.count(|place| matches!(place, Place::Device { frame, .. } if device.frames.contains(frame))) > 0
        };
        self.physical.devices.iter().filter(holds)
    }

    /// Returns the types of the swap-like entries of the device pages, sorted.
    pub fn entry_types(&self) -> Vec<u8> {
        let types = self.places.iter().filter_map(|place| match place {
            Place::Device { entry, .. } => *entry,
            _ => None,
        });
        let mut types: Vec<u8> = types.collect();
        types.sort_unstable();
        types.dedup();
        types
    }
}

/// The numbers that `smaps` reports for a range, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident, in system or device memory.
    pub rss: u64,
    /// In swap space.
    pub swap: u64,
    /// In huge pages.
    pub huge: u64,
}

impl Usage {
    /// Adds the numbers of this process's mappings that lie in `range`.
    ///
    /// # Errors
    ///
    /// The error of reading `/proc/self/smaps`.
    pub fn of(range: PageRange) -> io::Result<Self> {
        let maps = Process::myself()
            .and_then(|process| process.smaps())
            .map_err(io::Error::other)?;
        let inside = maps
            .0
            .iter()
            .filter(|map| range.addr() <= map.address.0 && map.address.1 <= range.end());
        Ok(inside.fold(Self::default(), |sum, map| {
            let field = |name| map.extension.map.get(name).copied().unwrap_or(0);
            Self {
                rss: sum.rss + field("Rss"),
                swap: sum.swap + field("Swap"),
                huge: sum.huge + field("AnonHugePages"),
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use procfs::FromRead;

    use super::*;
    use crate::Region;

    const IOMEM: &str = "00000000-00000fff : Reserved\n\
        00100000-bffdffff : System RAM\n  01000000-01ffffff : Kernel code\n\
        3fff0000000-3ffffffffff : hmm_dmirror\n";
    const FRAME: u64 = 0x3fff_0000;

    fn physical(iomem: &str, swaps: &str) -> Physical {
        Physical::parse(&Iomem::from_read(iomem.as_bytes()).unwrap(), swaps)
    }

    fn place(physical: &Physical, entry: u64) -> Place {
        physical.place(PageInfo::parse_info(entry))
    }

    fn not_present(entry_type: u64, number: u64) -> u64 {
        (1 << 62) | (number << 5) | entry_type
    }

    #[test]
    fn decodes_each_kind_of_entry() {
        let physical = physical(
            IOMEM,
            "Filename Type Size Used Priority\n/swap file 4096 0 -2\n",
        );
        assert_eq!(place(&physical, 0), Place::Absent);
        assert_eq!(place(&physical, 1 << 55), Place::Absent, "soft-dirty only");
        assert_eq!(
            place(&physical, (1 << 63) | 0x1234),
            Place::System { frame: 0x1234 }
        );
        assert_eq!(place(&physical, not_present(0, 1023)), Place::Swapped);
        assert_eq!(place(&physical, not_present(26, 0x1234)), Place::Held);
        let device = Place::Device {
            frame: FRAME + 5,
            entry: Some(28),
        };
        assert_eq!(place(&physical, not_present(28, FRAME + 5)), device);
        let coherent = Place::Device {
            frame: FRAME + 5,
            entry: None,
        };
        assert_eq!(place(&physical, (1 << 63) | (FRAME + 5)), coherent);
    }

    #[test]
    fn device_ranges_end_where_they_end() {
        let physical = physical(IOMEM, "");
        assert_eq!(physical.devices[1].frames, FRAME..0x4000_0000);
        assert!(physical.is_device(0x3fff_ffff));
        assert!(!physical.is_device(0x4000_0000));
    }

    #[test]
    fn says_when_it_is_not_told() {
        let physical = physical(
            "00000000-00000000 : Reserved\n00000000-00000000 : System RAM\n",
            "",
        );
        assert_eq!(place(&physical, not_present(0, 0)), Place::Hidden);
        assert_eq!(place(&physical, 1 << 63), Place::System { frame: 0 });
    }

    #[test]
    fn looks_at_this_process() {
        let region = Region::options(4).huge(false).map().unwrap();
        region.store(Region::words_per_page(), 1);
        let survey = Survey::of(region.range()).unwrap();
        assert_eq!(
            (survey.in_system(), survey.absent(), survey.on_device()),
            (1, 3, 0)
        );
        assert_eq!(survey.places()[0], Place::Absent);
        let usage = Usage::of(region.range()).unwrap();
        assert_eq!((usage.rss, usage.swap), (page_size() as u64, 0));
    }
}
