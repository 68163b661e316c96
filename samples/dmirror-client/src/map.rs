// SPDX-License-Identifier: GPL-2.0

//! The places of the memory of a process, mapping by mapping, according to the kernel: the process
//! need not have opened a device, and does not notice.
//!
//! # Examples
//!
//! ```no_run
//! use dmirror_client::map::ProcessMap;
//!
//! let map = ProcessMap::look(std::process::id() as i32)?;
//! for mapping in &map.mappings {
//!     let counts = mapping.counts();
//!     println!("{}: {} pages are on a device", mapping.name, counts.device);
//! }
//! # Ok::<(), std::io::Error>(())
//! ```

use std::io;

use nix::errno::Errno;
use procfs::process::MMPermissions;
use procfs::process::MMapPath;
use procfs::process::Process;

use crate::place::Place;
use crate::place::places_of;
use crate::range::PageRange;
use crate::range::page_size;
use crate::sys::query::pagemap_scan_of;

/// Maximum size, in pages, of a mapping whose pages are looked at one by one if the kernel cannot
/// tell which of them are anywhere (before Linux 6.7); larger mappings are left out.
const MOST_WITHOUT_SCAN: u64 = 1 << 20;

/// The places of the memory of a process.
#[derive(Clone, Debug, PartialEq)]
pub struct ProcessMap {
    /// The process.
    pub pid: i32,
    /// Its name.
    pub program: String,
    /// Its mappings, by address.
    pub mappings: Vec<Mapping>,
    /// Set if the kernel shows page frames to this program; without them, a page on a device is
    /// only known not to be present.
    pub frames_shown: bool,
}

/// One mapping.
#[derive(Clone, Debug, PartialEq)]
pub struct Mapping {
    /// Its addresses.
    pub range: PageRange,
    /// `rwxp` or `rwxs`, with `-` for what is not allowed.
    pub permissions: String,
    /// The file, `[heap]` and the like, or nothing.
    pub name: String,
    /// The places of pages that are anywhere, in runs: the number of the first page, counted from
    /// the start of the mapping, and the places from there on.
    pub runs: Vec<(u64, Vec<Place>)>,
}

/// The number of pages in each kind of place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// In the memory of a device.
    pub device: u64,
    /// In system memory.
    pub system: u64,
    /// In swap space.
    pub swapped: u64,
    /// In system memory, held exclusively by a device, or being migrated.
    pub held: u64,
    /// Not present, and the kernel does not show why.
    pub hidden: u64,
}

impl Counts {
    /// Counts a page.
    pub fn add(&mut self, place: Place) {
        match place {
            Place::Absent => {}
            Place::System { .. } => self.system += 1,
            Place::Device { .. } => self.device += 1,
            Place::Swapped => self.swapped += 1,
            Place::Held => self.held += 1,
            Place::Hidden => self.hidden += 1,
        }
    }

    /// Adds the counts of other pages.
    pub fn join(&mut self, other: Self) {
        self.device += other.device;
        self.system += other.system;
        self.swapped += other.swapped;
        self.held += other.held;
        self.hidden += other.hidden;
    }

    /// Returns the number of pages that are anywhere.
    pub fn all(&self) -> u64 {
        self.device + self.system + self.swapped + self.held + self.hidden
    }
}

impl ProcessMap {
    /// Looks at process `pid`. Concurrent changes may or may not be visible.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no such process, `PermissionDenied` if it belongs to another user.
    pub fn look(pid: i32) -> io::Result<Self> {
        let process = Process::new(pid).map_err(error_of)?;
        let program = process.stat().map_err(error_of)?.comm;
        let mut map = Self {
            pid,
            program,
            mappings: Vec::new(),
            frames_shown: true,
        };
        for found in process.maps().map_err(error_of)? {
            // The page of the kernel for calls of old programs.
            if matches!(found.pathname, MMapPath::Vsyscall) {
                continue;
            }
            let pages = (found.address.1 - found.address.0) / page_size() as u64;
            let Ok(range) = PageRange::new(found.address.0, pages) else {
                continue;
            };
            map.mappings.push(Mapping {
                range,
                permissions: permissions(found.perms),
                name: name_of(&found.pathname),
                runs: Vec::new(),
            });
        }
        let mut parts = Vec::new();
        let mut owners = Vec::new();
        for (number, mapping) in map.mappings.iter().enumerate() {
            let populated = populated(pid, mapping.range)?;
            owners.extend(populated.iter().map(|_| number));
            parts.extend(populated);
        }
        let (places, shown) = places_of(pid, &parts)?;
        map.frames_shown = shown;
        for ((owner, part), places) in owners.into_iter().zip(parts).zip(places) {
            let mapping = &mut map.mappings[owner];
            let first = part.page_numbers().start - mapping.range.page_numbers().start;
            mapping.runs.push((first, places));
        }
        Ok(map)
    }

    /// Returns the number of pages in each kind of place.
    pub fn counts(&self) -> Counts {
        let mut all = Counts::default();
        for mapping in &self.mappings {
            all.join(mapping.counts());
        }
        all
    }
}

impl Mapping {
    /// Returns the number of pages in each kind of place.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for place in self.runs.iter().flat_map(|(_, places)| places) {
            counts.add(*place);
        }
        counts
    }

    /// Divides the mapping into at most `parts` parts. Returns the number of pages of a part,
    /// rounded up, and the number of pages in each kind of place for each part. Rounding may leave
    /// fewer parts.
    pub fn parts(&self, parts: u64) -> (u64, Vec<Counts>) {
        let pages = self.range.pages().div_ceil(parts.max(1));
        let number = self.range.pages().div_ceil(pages);
        let mut counts = vec![Counts::default(); number as usize];
        for (first, places) in &self.runs {
            for (page, place) in (*first..).zip(places) {
                if let Some(part) = counts.get_mut((page / pages) as usize) {
                    part.add(*place);
                }
            }
        }
        (pages, counts)
    }
}

/// Returns the parts of a range in which there is anything.
fn populated(pid: i32, range: PageRange) -> io::Result<Vec<PageRange>> {
    let found = match pagemap_scan_of(pid, range) {
        Err(error) if error.raw_os_error() == Some(Errno::ENOTTY as i32) => {
            let few = range.pages() <= MOST_WITHOUT_SCAN;
            return Ok(few.then_some(range).into_iter().collect());
        }
        found => found?,
    };
    let mut parts: Vec<PageRange> = Vec::new();
    for part in found {
        let pages = (part.end - part.start) / page_size() as u64;
        let joined = match parts.last() {
            Some(last) if last.end() == part.start => {
                let joined = PageRange::new(last.addr(), last.pages() + pages);
                parts.pop();
                joined
            }
            _ => PageRange::new(part.start, pages),
        };
        parts.extend(joined);
    }
    Ok(parts)
}

fn permissions(permissions: MMPermissions) -> String {
    [
        (MMPermissions::READ, 'r'),
        (MMPermissions::WRITE, 'w'),
        (MMPermissions::EXECUTE, 'x'),
        (MMPermissions::SHARED, 's'),
    ]
    .into_iter()
    .map(
        |(permission, letter)| match permissions.contains(permission) {
            true => letter,
            false if letter == 's' => 'p',
            false => '-',
        },
    )
    .collect()
}

fn name_of(path: &MMapPath) -> String {
    match path {
        MMapPath::Path(path) => path.display().to_string(),
        MMapPath::Heap => "[heap]".into(),
        MMapPath::Stack => "[stack]".into(),
        MMapPath::TStack(tid) => format!("[stack of {tid}]"),
        MMapPath::Vdso => "[vdso]".into(),
        MMapPath::Vvar => "[vvar]".into(),
        MMapPath::Other(name) => format!("[{name}]"),
        _ => String::new(),
    }
}

fn error_of(error: procfs::ProcError) -> io::Error {
    match error {
        procfs::ProcError::PermissionDenied(_) => io::ErrorKind::PermissionDenied.into(),
        procfs::ProcError::NotFound(_) => io::ErrorKind::NotFound.into(),
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Region;

    #[test]
    fn finds_the_pages_of_a_mapping() {
        let region = Region::options(64).huge(false).map().unwrap();
        for page in [0, 1, 40] {
            region.store(page * Region::words_per_page(), 1);
        }
        let map = ProcessMap::look(std::process::id() as i32).unwrap();
        let at = |mapping: &&Mapping| {
            mapping.range.addr() <= region.addr() && region.addr() < mapping.range.end()
        };
        let mapping = map.mappings.iter().find(at).unwrap();
        assert!(mapping.permissions.starts_with("rw-p"), "{mapping:?}");
        let before = (region.addr() - mapping.range.addr()) / page_size() as u64;
        let places = |page: u64| {
            let (_, parts) = mapping.parts(mapping.range.pages());
            parts[(before + page) as usize]
        };
        let one = Counts {
            system: 1,
            ..Counts::default()
        };
        assert_eq!([places(0), places(1), places(40)], [one; 3]);
        assert_eq!(places(2), Counts::default());
        assert!(map.counts().system >= 3);
    }

    #[test]
    fn parts_have_all_pages() {
        let device = Place::Device {
            frame: 1,
            entry: None,
        };
        let mapping = Mapping {
            range: PageRange::new(0, 10).unwrap(),
            permissions: String::new(),
            name: String::new(),
            runs: vec![(1, vec![device, Place::Swapped]), (9, vec![Place::Held])],
        };
        let (pages, parts) = mapping.parts(4);
        assert_eq!((pages, parts.len()), (3, 4));
        let all: Vec<u64> = parts.iter().map(Counts::all).collect();
        assert_eq!(all, [2, 0, 0, 1]);
        let (pages, parts) = mapping.parts(100);
        assert_eq!((pages, parts.len()), (1, 10));
        assert_eq!(parts[2].swapped, 1);
    }

    #[test]
    fn there_is_no_process_of_no_number() {
        let error = ProcessMap::look(i32::MAX).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
