// SPDX-License-Identifier: GPL-2.0

//! Data that shows where it belongs.
//!
//! Every word of a pattern contains its page, its place in the page and the round in which it was
//! written, scrambled so that no byte is constant. So a check finds a page that was swapped with
//! another, and a stale, zeroed or half-copied one, and reports which it is.

use std::fmt;
use std::ops::Range;

use thiserror::Error;

use crate::range::page_size;
use crate::region::Region;

const ROUND_BITS: u32 = 15;
const PAGE_BITS: u32 = 36;
const WORD_BITS: u32 = 13;

/// Odd, so that a multiplication by it can be reversed.
const SCRAMBLE: u64 = 0x9e37_79b9_7f4a_7c15;
const UNSCRAMBLE: u64 = inverse(SCRAMBLE);

/// Returns the inverse of an odd number modulo 2^64, by Newton's method.
const fn inverse(odd: u64) -> u64 {
    let mut x = odd;
    let mut bits = 3;
    while bits < 64 {
        x = x.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(x)));
        bits *= 2;
    }
    x
}

/// The origin of a word of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The round in which the word was written.
    pub round: u16,
    /// The page number (address divided by page size) it was written to.
    pub page: u64,
    /// Its index in the page.
    pub word: usize,
}

impl Origin {
    fn encode(self) -> u64 {
        let round = u64::from(self.round) & ((1 << ROUND_BITS) - 1);
        let page = self.page & ((1 << PAGE_BITS) - 1);
        let raw = (round << (PAGE_BITS + WORD_BITS)) | (page << WORD_BITS) | self.word as u64;
        raw.wrapping_mul(SCRAMBLE)
    }

    fn decode(word: u64) -> Self {
        let raw = word.wrapping_mul(UNSCRAMBLE);
        Self {
            round: (raw >> (PAGE_BITS + WORD_BITS)) as u16,
            page: (raw >> WORD_BITS) & ((1 << PAGE_BITS) - 1),
            word: (raw & ((1 << WORD_BITS) - 1)) as usize,
        }
    }
}

/// A wrong word.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub struct Mismatch {
    /// The page, counted from the start of the region.
    pub page: usize,
    /// The byte offset in the page.
    pub byte: usize,
    /// The expected word.
    pub expected: u64,
    /// The word that was found.
    pub seen: u64,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            page,
            byte,
            expected,
            seen,
        } = *self;
        write!(
            f,
            "page {page}, byte {byte:#x}: expected {expected:#018x}, seen {seen:#018x}"
        )?;
        let (right, wrong) = (Origin::decode(expected), Origin::decode(seen));
        if seen == 0 {
            write!(f, " (zero)")
        } else if wrong.round == right.round && wrong.word == right.word {
            let apart = wrong.page.wrapping_sub(right.page) as i64;
            write!(f, " (that belongs {apart:+} pages from there)")
        } else if wrong.page == right.page && wrong.word == right.word {
            write!(
                f,
                " (that is of round {}, not of round {})",
                wrong.round, right.round
            )
        } else {
            Ok(())
        }
    }
}

/// The pattern of one region in one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    round: u16,
    first_page: u64,
}

impl Pattern {
    /// Returns the pattern of round `round`, from 1 on, for `region` at its current address. It
    /// stays the same when the region moves.
    ///
    /// # Panics
    ///
    /// If `round` is 0 or above 32767.
    pub fn new(region: &Region, round: u16) -> Self {
        assert!(round > 0 && round < 1 << ROUND_BITS, "round {round}");
        let first_page = region.addr() / page_size() as u64;
        Self { round, first_page }
    }

    /// Returns the pattern of another round for the same region.
    pub fn round(self, round: u16) -> Self {
        assert!(round > 0 && round < 1 << ROUND_BITS, "round {round}");
        Self { round, ..self }
    }

    /// Returns the pattern of the part of the region from page `page` on.
    pub fn from_page(self, page: usize) -> Self {
        Self {
            first_page: self.first_page + page as u64,
            ..self
        }
    }

    /// Returns the word at index `word` of page `page`.
    pub fn word(self, page: usize, word: usize) -> u64 {
        let page = self.first_page + page as u64;
        Origin {
            round: self.round,
            page,
            word,
        }
        .encode()
    }

    /// Writes the pattern to pages of `region`.
    pub fn fill(self, region: &Region, pages: Range<usize>) {
        let words = Region::words_per_page();
        for page in pages {
            for word in 0..words {
                region.store(page * words + word, self.word(page, word));
            }
        }
    }

    /// Returns the bytes of the pattern in pages.
    pub fn to_bytes(self, pages: Range<usize>) -> Vec<u8> {
        let words = Region::words_per_page();
        pages
            .flat_map(|page| (0..words).map(move |word| self.word(page, word)))
            .flat_map(u64::to_ne_bytes)
            .collect()
    }

    /// Compares every byte of pages of `region` with the pattern.
    ///
    /// # Errors
    ///
    /// The first [`Mismatch`].
    pub fn check(self, region: &Region, pages: Range<usize>) -> Result<(), Mismatch> {
        let words = Region::words_per_page();
        pages.into_iter().try_for_each(|page| {
            (0..words)
                .try_for_each(|word| self.compare(page, word, region.load(page * words + word)))
        })
    }

    /// Compares `bytes`, whole pages, with the pattern from page `first` on.
    ///
    /// # Errors
    ///
    /// The first [`Mismatch`].
    pub fn check_bytes(self, bytes: &[u8], first: usize) -> Result<(), Mismatch> {
        for (index, page) in bytes.chunks_exact(page_size()).enumerate() {
            for (word, seen) in page.chunks_exact(size_of::<u64>()).enumerate() {
                let seen = u64::from_ne_bytes(seen.try_into().unwrap_or_default());
                self.compare(first + index, word, seen)?;
            }
        }
        Ok(())
    }

    fn compare(self, page: usize, word: usize, seen: u64) -> Result<(), Mismatch> {
        let expected = self.word(page, word);
        if seen == expected {
            return Ok(());
        }
        let byte = word * size_of::<u64>();
        Err(Mismatch {
            page,
            byte,
            expected,
            seen,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_where_they_belong() {
        let origin = Origin {
            round: 77,
            page: 0x7_ffff_1234,
            word: 511,
        };
        assert_eq!(Origin::decode(origin.encode()), origin);
    }

    #[test]
    fn fills_and_checks() {
        let region = Region::anonymous(3).unwrap();
        let pattern = Pattern::new(&region, 1);
        pattern.fill(&region, 0..3);
        assert_eq!(pattern.check(&region, 0..3), Ok(()));
        assert_eq!(pattern.check_bytes(&region.to_bytes(1..3), 1), Ok(()));
        assert_eq!(pattern.to_bytes(1..3), region.to_bytes(1..3));
        assert_eq!(
            pattern.from_page(1).check_bytes(&region.to_bytes(1..3), 0),
            Ok(())
        );
    }

    #[test]
    fn names_swapped_stale_and_zero_pages() {
        let region = Region::anonymous(3).unwrap();
        let pattern = Pattern::new(&region, 2);
        pattern.fill(&region, 0..3);

        let say = |seen| pattern.compare(1, 9, seen).unwrap_err().to_string();
        assert!(say(pattern.word(2, 9)).ends_with("(that belongs +1 pages from there)"));
        assert!(say(pattern.round(1).word(1, 9)).ends_with("(that is of round 1, not of round 2)"));
        assert!(say(0).ends_with("(zero)"));

        region.store(Region::words_per_page() + 9, 0);
        let found = pattern.check(&region, 0..3).unwrap_err();
        assert_eq!((found.page, found.byte, found.seen), (1, 72, 0));
    }
}
