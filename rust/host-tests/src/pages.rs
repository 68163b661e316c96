// SPDX-License-Identifier: GPL-2.0

//! The sizes that depend on the kernel's pages. BLOCK_ORDER in the environment of the compiler
//! chooses them: 9 for pages of 4 KiB, 11 for 16 KiB, 13 for 64 KiB.

/// Order of a block: of the folio that one PMD entry maps.
pub(crate) const BLOCK_ORDER: u32 = match option_env!("BLOCK_ORDER") {
    None => 9,
    Some(order) => match u32::from_str_radix(order, 10) {
        Ok(order) => order,
        Err(_) => panic!("BLOCK_ORDER is not a number"),
    },
};

/// Number of pages of a block.
pub(crate) const BLOCK_PAGES: usize = 1 << BLOCK_ORDER;

/// Size of a page in bytes: a page is a table of 8 bytes for each page of a block.
pub(crate) const PAGE_SIZE: usize = 8 << BLOCK_ORDER;
