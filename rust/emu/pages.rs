// SPDX-License-Identifier: GPL-2.0

//! The sizes that depend on the kernel's pages, for files that know nothing of the kernel. The
//! tests on the host have a file with the same names.

/// Order of a block: of the folio that one PMD entry maps.
pub(crate) const BLOCK_ORDER: u32 = hmm::memremap::HPAGE_PMD_ORDER;
