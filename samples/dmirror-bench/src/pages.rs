// SPDX-License-Identifier: GPL-2.0

//! The sizes of the simulated device's pages: those of a kernel with pages of 4 KiB.

/// Order of a block: of the folio that one PMD entry maps.
pub const BLOCK_ORDER: u32 = 9;

/// Number of pages of a block.
pub const BLOCK_PAGES: usize = 1 << BLOCK_ORDER;

/// Size of a page in bytes.
pub const PAGE_SIZE: usize = 4096;
