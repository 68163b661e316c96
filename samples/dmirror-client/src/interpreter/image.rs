// SPDX-License-Identifier: GPL-2.0

//! Memory of a process in the interpreter: pages with content and protection.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Denied;
use super::Memory;
use super::parts;
use crate::range::page_size;
use crate::region::Protection;
use crate::region::Region;

/// A page of an [`Image`].
#[derive(Clone, Debug, PartialEq, Eq)]
struct Page {
    bytes: Box<[u8]>,
    protection: Protection,
}

/// Some pages of an address space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image(BTreeMap<u64, Page>);

impl Image {
    /// Maps the pages that contain `bytes.len()` bytes from `addr` on, with those bytes there and
    /// zeros around them. Pages that are already mapped keep their other content.
    pub fn map(&mut self, addr: u64, bytes: &[u8], protection: Protection) {
        let mut bytes = bytes;
        for (at, len) in parts(addr, bytes.len() as u64) {
            let (number, place) = place(at, len);
            let page = self.0.entry(number).or_insert_with(|| Page {
                bytes: vec![0; page_size()].into(),
                protection,
            });
            page.protection = protection;
            let (these, rest) = bytes.split_at(len);
            page.bytes[place].copy_from_slice(these);
            bytes = rest;
        }
    }

    /// Maps pages of a region, with their current content: reading them faults them in.
    ///
    /// # Panics
    ///
    /// If not all of the pages are inside the region.
    pub fn map_region(&mut self, region: &Region, pages: Range<usize>, protection: Protection) {
        let addr = region.addr() + (pages.start * page_size()) as u64;
        self.map(addr, &region.to_bytes(pages), protection);
    }

    /// Changes the protection of the mapped pages that contain `len` bytes from `addr` on.
    pub fn protect(&mut self, addr: u64, len: u64, protection: Protection) {
        for (at, len) in parts(addr, len) {
            if let Some(page) = self.0.get_mut(&place(at, len).0) {
                page.protection = protection;
            }
        }
    }

    /// Unmaps the pages that contain `len` bytes from `addr` on.
    pub fn unmap(&mut self, addr: u64, len: u64) {
        for (at, len) in parts(addr, len) {
            self.0.remove(&place(at, len).0);
        }
    }

    /// Adds the pages of another image, which replace pages at the same addresses.
    pub fn join(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Returns `len` bytes from `addr` on, whatever their protection; `None` if not all of them are
    /// mapped.
    pub fn bytes(&self, addr: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len);
        for (at, len) in parts(addr, len as u64) {
            let (number, place) = place(at, len);
            bytes.extend_from_slice(&self.0.get(&number)?.bytes[place]);
        }
        Some(bytes)
    }

    /// Returns the word of 8 bytes at `addr`, whatever its protection.
    pub fn word(&self, addr: u64) -> Option<u64> {
        let bytes = self.bytes(addr, 8)?.try_into().ok()?;
        Some(u64::from_le_bytes(bytes))
    }
}

/// Returns the number of the page that contains `len` bytes from `at` on, and their position in it.
fn place(at: u64, len: usize) -> (u64, Range<usize>) {
    let page = page_size() as u64;
    let start = (at % page) as usize;
    (at / page, start..start + len)
}

impl Memory for Image {
    fn read(&mut self, addr: u64, bytes: &mut [u8]) -> Result<(), Denied> {
        let (number, place) = place(addr, bytes.len());
        match self.0.get(&number) {
            None => Err(Denied::Unmapped),
            Some(page) if page.protection == Protection::None => Err(Denied::Unreadable),
            Some(page) => {
                bytes.copy_from_slice(&page.bytes[place]);
                Ok(())
            }
        }
    }

    fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), Denied> {
        let (number, place) = place(addr, bytes.len());
        match self.0.get_mut(&number) {
            None => Err(Denied::Unmapped),
            Some(page) => match page.protection {
                Protection::None => Err(Denied::Unreadable),
                Protection::Read => Err(Denied::ReadOnly),
                Protection::ReadWrite => {
                    page.bytes[place].copy_from_slice(bytes);
                    Ok(())
                }
            },
        }
    }
}
