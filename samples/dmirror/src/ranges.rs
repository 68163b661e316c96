// SPDX-License-Identifier: GPL-2.0

//! Parts of a process's memory, as people name them.

use std::str::FromStr;

use anyhow::Result;
use anyhow::bail;
use dmirror_client::PageRange;
use dmirror_client::map::Mapping;
use dmirror_client::map::ProcessMap;
use dmirror_client::page_size;

/// The help text for the forms of a part.
pub const HELP: &str = "START-END or START+LENGTH: addresses in hexadecimal as in dmirror map, a \
                        length in decimal, with K, M or G, or in hexadecimal with 0x; heap, stack; \
                        or all, which is all private memory that is writable and of no file";

/// A part of a process's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// These addresses.
    Addresses(PageRange),
    /// The mapping of this name.
    Named(&'static str),
    /// All memory that can move.
    All,
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => return Ok(Self::All),
            "heap" | "[heap]" => return Ok(Self::Named("[heap]")),
            "stack" | "[stack]" => return Ok(Self::Named("[stack]")),
            _ => {}
        }
        let (start, bytes) = if let Some((start, end)) = text.split_once('-') {
            let (start, end) = (address(start)?, address(end)?);
            let bytes = end.checked_sub(start);
            (start, bytes.ok_or("it ends before it begins")?)
        } else if let Some((start, length)) = text.split_once('+') {
            (address(start)?, size(length)?)
        } else {
            return Err(format!("not of the form {HELP}"));
        };
        let page = page_size() as u64;
        if bytes % page != 0 {
            return Err(format!("its length is no multiple of {page} bytes"));
        }
        let range = PageRange::new(start, bytes / page);
        range
            .map(Self::Addresses)
            .map_err(|error| error.to_string())
    }
}

fn address(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).map_err(|_| format!("{text:?} is no hexadecimal address"))
}

/// Parses a length: hexadecimal with 0x; otherwise decimal, with an optional unit.
fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no length; try 2M");
    if text.starts_with("0x") {
        return address(text);
    }
    let digits = text.trim_end_matches(['K', 'M', 'G']);
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

impl Part {
    /// Returns the whole ranges that it stands for in a process.
    pub fn ranges(&self, map: &ProcessMap) -> Result<Vec<PageRange>> {
        let wants = |mapping: &&Mapping| match self {
            Self::Addresses(_) => false,
            Self::Named(name) => mapping.name == *name,
            Self::All => is_movable(mapping),
        };
        if let Self::Addresses(range) = self {
            return Ok(vec![*range]);
        }
        let found = map.mappings.iter().filter(wants);
        let ranges: Vec<PageRange> = found.map(|mapping| mapping.range).collect();
        if ranges.is_empty() {
            bail!(
                "process {} has no such memory; see dmirror map {0}",
                map.pid
            );
        }
        Ok(ranges)
    }
}

/// Returns whether devices can hold the pages of a mapping.
fn is_movable(mapping: &Mapping) -> bool {
    let private = mapping.permissions.starts_with("rw") && mapping.permissions.ends_with('p');
    private && !mapping.name.starts_with('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(addr: u64, pages: u64) -> Part {
        Part::Addresses(PageRange::new(addr, pages).unwrap())
    }

    #[test]
    fn parts_have_names_and_addresses() {
        assert_eq!("7000-9000".parse(), Ok(range(0x7000, 2)));
        assert_eq!("0x7000+0x1000".parse(), Ok(range(0x7000, 1)));
        assert_eq!("200000+2M".parse(), Ok(range(0x20_0000, 512)));
        assert_eq!("heap".parse(), Ok(Part::Named("[heap]")));
        assert_eq!("all".parse(), Ok(Part::All));
    }

    #[test]
    fn what_is_no_part_is_refused_in_words() {
        let wrong = |text: &str| text.parse::<Part>().unwrap_err();
        assert_eq!(wrong("9000-7000"), "it ends before it begins");
        assert_eq!(wrong("7000+100"), "its length is no multiple of 4096 bytes");
        assert_eq!(wrong("7000+2X"), "\"2X\" is no length; try 2M");
        assert_eq!(wrong("7001+4K"), "address 0x7001 is not page aligned");
        assert_eq!(wrong("xyz+4K"), "\"xyz\" is no hexadecimal address");
        assert!(wrong("everything").contains("START-END"));
        assert!(wrong("1000+99999999999G").contains("no length"));
    }

    #[test]
    fn all_is_what_can_move() {
        let mapping = |at: u64, permissions: &str, name: &str| Mapping {
            range: PageRange::new(at * 4096, 1).unwrap(),
            permissions: permissions.into(),
            name: name.into(),
            runs: Vec::new(),
        };
        let map = ProcessMap {
            pid: 1,
            program: "p".into(),
            mappings: vec![
                mapping(1, "r-xp", "/bin/p"),
                mapping(2, "rw-p", "/bin/p"),
                mapping(3, "rw-p", "[heap]"),
                mapping(4, "rw-s", ""),
                mapping(5, "rw-p", ""),
            ],
            frames_shown: true,
        };
        let starts = |part: Part| -> Vec<u64> {
            let ranges = part.ranges(&map).unwrap();
            ranges.iter().map(|range| range.addr() / 4096).collect()
        };
        assert_eq!(starts(Part::All), [3, 5]);
        assert_eq!(starts(Part::Named("[heap]")), [3]);
        assert!(Part::Named("[stack]").ranges(&map).is_err());
    }
}
