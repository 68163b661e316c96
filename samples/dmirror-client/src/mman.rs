// SPDX-License-Identifier: GPL-2.0

//! Kinds of mappings, protection and advice, as in mmap(2), mprotect(2) and madvise(2).

use std::fs::File;

/// The accesses to memory that the program may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Nothing (`PROT_NONE`).
    None,
    /// Read.
    Read,
    /// Read and write.
    ReadWrite,
}

/// The advice that [`Region::advise`](crate::Region::advise) gives to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Use huge pages (`MADV_HUGEPAGE`).
    Huge,
    /// Use no huge pages (`MADV_NOHUGEPAGE`).
    NoHuge,
    /// Drop the content (`MADV_DONTNEED`).
    DontNeed,
    /// The content may be dropped (`MADV_FREE`).
    Free,
    /// The pages are needed soon (`MADV_WILLNEED`).
    WillNeed,
    /// The pages are not needed soon (`MADV_COLD`).
    Cold,
    /// The pages are not needed for long: swap them out (`MADV_PAGEOUT`).
    PageOut,
    /// Keep the memory from children (`MADV_DONTFORK`).
    DontFork,
    /// Undo [`DontFork`](Self::DontFork) (`MADV_DOFORK`).
    DoFork,
    /// Children find zeros (`MADV_WIPEONFORK`).
    WipeOnFork,
    /// Merge equal pages (`MADV_MERGEABLE`).
    Mergeable,
    /// Undo [`Mergeable`](Self::Mergeable), and its effect (`MADV_UNMERGEABLE`).
    Unmergeable,
    /// Collapse small pages into huge pages now (`MADV_COLLAPSE`).
    Collapse,
    /// Fault in, as for reading (`MADV_POPULATE_READ`).
    PopulateRead,
    /// Fault in, as for writing (`MADV_POPULATE_WRITE`).
    PopulateWrite,
}

/// The backing of a mapping.
#[derive(Debug)]
pub(crate) enum Backing {
    Anonymous,
    SharedAnonymous,
    PrivateFile(File),
    SharedFile(File),
    Hugetlb,
}
