// SPDX-License-Identifier: GPL-2.0

//! The content of pages: a pattern that fills the page and encodes where and when it
//! was written, so that any wrong page is recognised.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use dmirror_client::page_size;

const WORD_BITS: u32 = 12;
const PAGE_BITS: u32 = 24;

/// An odd factor, so that multiplication by it can be undone.
const SCRAMBLE: u64 = 0x9e37_79b9_7f4a_7c15;
const UNSCRAMBLE: u64 = inverse(SCRAMBLE);

/// The byte that fills a buffer before a device writes to it.
pub const UNTOUCHED: u8 = 0xa5;

/// Returns the inverse of an odd number modulo 2^64, by Newton's method.
const fn inverse(odd: u64) -> u64 {
    let mut x = odd;
    let mut round = 0;
    while round < 5 {
        x = x.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(x)));
        round += 1;
    }
    x
}

/// Returns the number of words of 8 bytes in a page.
pub fn words_per_page() -> usize {
    page_size() / size_of::<u64>()
}

/// The pattern of one page at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The page that it was written to.
    pub page: u32,
    /// The number of the write, counted from 1.
    pub version: u32,
}

impl Stamp {
    /// Returns word `nth` of the page.
    pub fn word(self, nth: usize) -> u64 {
        let raw = (u64::from(self.version) << (PAGE_BITS + WORD_BITS))
            | (u64::from(self.page) << WORD_BITS)
            | nth as u64;
        raw.wrapping_mul(SCRAMBLE)
    }

    /// Decodes the first word of a page.
    fn of_first_word(word: u64) -> Self {
        let raw = word.wrapping_mul(UNSCRAMBLE);
        Self {
            page: (raw >> WORD_BITS) as u32 & ((1 << PAGE_BITS) - 1),
            version: (raw >> (PAGE_BITS + WORD_BITS)) as u32,
        }
    }

    /// Appends the page to `bytes`.
    pub fn extend(self, bytes: &mut Vec<u8>) {
        bytes.extend((0..words_per_page()).flat_map(|nth| self.word(nth).to_ne_bytes()));
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}v{}", self.page, self.version)
    }
}

/// The content of a page that is not all zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A whole pattern.
    Pattern(Stamp),
    /// Other content, written by engines: its digest.
    Other(u64),
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pattern(stamp) => write!(f, "{stamp}"),
            Self::Other(digest) => write!(f, "what an engine wrote ({digest:#x})"),
        }
    }
}

/// The bytes of pages that hold no pattern.
#[derive(Clone, Debug, Default)]
pub struct Library(BTreeMap<u64, Rc<[u8]>>);

impl Library {
    /// Returns the content of a page of these bytes; keeps them if neither zeroes nor a pattern.
    pub fn keep(&mut self, bytes: Vec<u8>) -> Option<Content> {
        let word = |nth: usize| {
            let word = bytes[nth * 8..nth * 8 + 8].try_into();
            u64::from_ne_bytes(word.unwrap_or_default())
        };
        match Seen::in_words(word) {
            Seen::Zero => None,
            Seen::Data(stamp) => Some(Content::Pattern(stamp)),
            Seen::Untouched | Seen::Torn(..) => {
                let digest = digest(word);
                self.0.insert(digest, bytes.into());
                Some(Content::Other(digest))
            }
        }
    }

    /// Returns the bytes of a page with this content.
    pub fn bytes(&self, content: Option<Content>) -> Vec<u8> {
        match content {
            None => vec![0; page_size()],
            Some(Content::Pattern(stamp)) => {
                let mut bytes = Vec::with_capacity(page_size());
                stamp.extend(&mut bytes);
                bytes
            }
            // PANIC: who knows the digest has it from `keep`.
            Some(Content::Other(digest)) => self.0[&digest].to_vec(),
        }
    }
}

/// Returns a number that stands for the words of a page.
fn digest(word: impl Fn(usize) -> u64) -> u64 {
    (0..words_per_page()).fold(SCRAMBLE, |digest, nth| {
        (digest ^ word(nth)).wrapping_mul(SCRAMBLE).rotate_left(23)
    })
}

/// The content that was found in a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Zeroes.
    Zero,
    /// A whole pattern.
    Data(Stamp),
    /// A buffer that nothing wrote to.
    Untouched,
    /// None of these: the index and the value of the first unexpected word, the stamp in
    /// the first word of the page, and the digest of all words.
    Torn(usize, u64, Stamp, u64),
}

impl Seen {
    /// Examines a page, word by word.
    pub fn in_words(word: impl Fn(usize) -> u64) -> Self {
        let first = word(0);
        let stamp = Stamp::of_first_word(first);
        let untouched = u64::from_ne_bytes([UNTOUCHED; 8]);
        let (whole, expected): (Self, &dyn Fn(usize) -> u64) = match first {
            0 => (Self::Zero, &|_| 0),
            first if first == untouched => (Self::Untouched, &|_| untouched),
            _ => (Self::Data(stamp), &|nth| stamp.word(nth)),
        };
        let odd = (0..words_per_page()).find(|&nth| word(nth) != expected(nth));
        odd.map_or(whole, |nth| {
            Self::Torn(nth, word(nth), stamp, digest(&word))
        })
    }

    /// Examines the pages of a buffer.
    pub fn in_bytes(bytes: &[u8]) -> Vec<Self> {
        let page = |bytes: &[u8]| {
            Self::in_words(|nth| {
                let word = bytes[nth * 8..nth * 8 + 8].try_into();
                u64::from_ne_bytes(word.unwrap_or_default())
            })
        };
        bytes.chunks_exact(page_size()).map(page).collect()
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => f.write_str("zeroes"),
            Self::Data(stamp) => write!(f, "{stamp}"),
            Self::Untouched => f.write_str("nothing"),
            Self::Torn(0, value, ..) => write!(f, "a first word {value:#x}"),
            Self::Torn(nth, value, stamp, _) => {
                write!(f, "{stamp} up to word {nth}, which is {value:#x}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_say_what_they_are() {
        let stamp = Stamp {
            page: 0x1234,
            version: 77,
        };
        let mut bytes = vec![0; page_size()];
        stamp.extend(&mut bytes);
        bytes.extend(vec![UNTOUCHED; page_size()]);
        let seen = Seen::in_bytes(&bytes);
        assert_eq!(seen, [Seen::Zero, Seen::Data(stamp), Seen::Untouched]);
    }

    #[test]
    fn a_library_gives_back_what_it_is_given() {
        let mut library = Library::default();
        let stamp = Stamp {
            page: 5,
            version: 6,
        };
        let mut pattern = Vec::new();
        stamp.extend(&mut pattern);
        let mut other = pattern.clone();
        other[77] ^= 1;
        let zeroes = vec![0; page_size()];
        assert_eq!(library.keep(zeroes.clone()), None);
        assert_eq!(library.keep(pattern.clone()), Some(Content::Pattern(stamp)));
        for page in [zeroes, pattern, other.clone()] {
            let content = library.keep(page.clone());
            assert_eq!(library.bytes(content), page);
        }
        let Seen::Torn(.., digest) = Seen::in_bytes(&other)[0] else {
            panic!("not found");
        };
        assert_eq!(library.keep(other), Some(Content::Other(digest)));
    }

    #[test]
    fn torn_pages_are_found() {
        let stamp = Stamp {
            page: 1,
            version: 2,
        };
        let mut bytes = Vec::new();
        stamp.extend(&mut bytes);
        bytes[100 * 8] ^= 1;
        let Seen::Torn(100, _, first, _) = Seen::in_bytes(&bytes)[0] else {
            panic!("not found");
        };
        assert_eq!(first, stamp);
        assert!(matches!(
            Seen::in_words(|nth| u64::from(nth == 9)),
            Seen::Torn(9, 1, ..)
        ));
    }
}
