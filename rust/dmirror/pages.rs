// SPDX-License-Identifier: GPL-2.0

//! The sizes that depend on the kernel's pages, for files that know nothing of the kernel. The
//! tests on the host have a file with the same names.

/// Order of a block: of the folio that one PMD entry maps.
pub(crate) const BLOCK_ORDER: u32 = hmm::memremap::HPAGE_PMD_ORDER;

/// Number of pages of a block.
pub(crate) const BLOCK_PAGES: usize = 1 << BLOCK_ORDER;

/// Size of a page in bytes.
pub(crate) const PAGE_SIZE: usize = kernel::page::PAGE_SIZE;
