// SPDX-License-Identifier: GPL-2.0

//! The cases, one file a theme. Those that unload the module come last.

mod debugger;
mod devices;
mod dirty;
mod errors;
mod evict;
mod fault;
mod files;
mod fork;
mod frames;
mod huge;
mod io;
mod lifetime;
mod mapping;
mod migrate;
mod observers;
mod proc;
mod races;
mod task;
mod unload;

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
        huge::CASES,
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
        lifetime::CASES,
        devices::CASES,
        evict::CASES,
        races::CASES,
        unload::CASES,
    ]
    .into_iter()
    .flatten()
}
