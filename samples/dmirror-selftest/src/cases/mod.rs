// SPDX-License-Identifier: GPL-2.0

//! The cases, one file a theme. Those that unload the module come last.

mod access;
mod coherent;
mod counts;
mod death;
mod debugger;
mod device_races;
mod devices;
mod dirty;
mod errors;
mod evict;
mod evict_huge;
mod exclusive;
mod exclusive_refused;
mod failing;
mod fault;
mod files;
mod flags;
mod fork;
mod fork_huge;
mod frames;
mod held;
mod held_vma;
mod huge;
mod huge_whole;
mod io;
mod ksm;
mod lifetime;
mod madvise;
mod mapping;
mod memcg;
mod migrate;
mod mlock;
mod mmap;
mod mprotect;
mod mremap;
mod nth;
mod numa;
mod observers;
mod opens;
mod parameters;
mod proc;
mod races;
mod read;
mod release;
mod snapshot;
mod swap;
mod task;
mod uffd;
mod unload;
mod user_faults;
mod write;

use anyhow::Result;

use crate::context::Context;

/// A behaviour and the function that looks at it.
#[derive(Debug)]
pub struct Case {
    /// `theme.behaviour`.
    pub name: &'static str,
    /// The behaviour in a sentence.
    pub about: &'static str,
    /// Returns an error where the behaviour is another one.
    pub run: fn(&Context) -> Result<()>,
}

/// Lists functions of the calling file as its `CASES`.
macro_rules! cases {
    ($theme:literal: $($name:ident = $about:literal,)*) => {
        pub(super) const CASES: &[super::Case] = &[
            $(super::Case {
                name: concat!($theme, ".", stringify!($name)),
                about: $about,
                run: $name,
            },)*
        ];
    };
}
use cases;

/// All cases, in the order in which they run.
pub fn all() -> impl Iterator<Item = &'static Case> {
    [
        migrate::CASES,
        fault::CASES,
        mapping::CASES,
        mprotect::CASES,
        mremap::CASES,
        madvise::CASES,
        mlock::CASES,
        numa::CASES,
        uffd::CASES,
        huge::CASES,
        huge_whole::CASES,
        files::CASES,
        errors::CASES,
        observers::CASES,
        proc::CASES,
        dirty::CASES,
        frames::CASES,
        debugger::CASES,
        io::CASES,
        task::CASES,
        fork::CASES,
        fork_huge::CASES,
        lifetime::CASES,
        death::CASES,
        devices::CASES,
        evict::CASES,
        evict_huge::CASES,
        read::CASES,
        write::CASES,
        access::CASES,
        user_faults::CASES,
        snapshot::CASES,
        exclusive::CASES,
        exclusive_refused::CASES,
        release::CASES,
        flags::CASES,
        mmap::CASES,
        opens::CASES,
        counts::CASES,
        swap::CASES,
        ksm::CASES,
        memcg::CASES,
        races::CASES,
        device_races::CASES,
        held::CASES,
        held_vma::CASES,
        failing::CASES,
        nth::CASES,
        coherent::CASES,
        parameters::CASES,
        unload::CASES,
    ]
    .into_iter()
    .flatten()
}
