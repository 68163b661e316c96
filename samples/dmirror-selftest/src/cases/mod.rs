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

/// A theme: cases about one thing. Their names begin with its name and a dot.
#[derive(Debug)]
pub struct Theme {
    /// What stands before the dot.
    pub name: &'static str,
    /// What it is about, in a few words.
    pub about: &'static str,
    /// What the quick selection has of it, by what stands after the dot. Where this
    /// is empty, it has the first case.
    quick: &'static [&'static str],
    /// The cases, by file.
    files: &'static [&'static [Case]],
}

impl Theme {
    /// Its cases, in the order in which they run.
    pub fn cases(&self) -> impl Iterator<Item = &'static Case> + use<> {
        self.files.iter().copied().flatten()
    }
}

impl Case {
    /// The theme that it belongs to.
    pub fn theme(&self) -> &'static str {
        self.name.split('.').next().unwrap_or(self.name)
    }

    /// Whether the quick selection has it.
    pub fn is_quick(&self) -> bool {
        THEMES
            .iter()
            .filter(|theme| theme.name == self.theme())
            .any(|theme| match theme.quick {
                [] => theme.cases().next().map(|case| case.name) == Some(self.name),
                names => names.iter().any(|name| {
                    self.name.strip_prefix(theme.name) == Some(format!(".{name}").as_str())
                }),
            })
    }
}

/// Builds [`THEMES`]: `name(file, ...) "about" [quick, ...]`.
macro_rules! themes {
    ($($name:ident ($($file:ident),+) $about:literal [$($quick:ident),*])*) => {
        /// All themes, in the order in which they run. The quick selection takes of each
        /// what costs little: together they shall take some ten seconds under emulation.
        pub const THEMES: &[Theme] = &[
            $(Theme {
                name: stringify!($name),
                about: $about,
                quick: &[$(stringify!($quick)),*],
                files: &[$($file::CASES),+],
            },)*
        ];
    };
}

themes! {
    migrate(migrate) "pages go to the device and come back" []
    fault(fault) "a CPU touches a page on the device" []
    mapping(mapping) "mappings change under pages on the device" []
    mprotect(mprotect) "their protection changes" []
    mremap(mremap) "they move, grow and shrink" []
    madvise(madvise) "advice about them" []
    mlock(mlock) "locked memory" []
    numa(numa) "policies of nodes" []
    uffd(uffd) "userfaultfd" []
    huge(huge, huge_whole) "huge pages" []
    files(files) "memory that is not anonymous" []
    errors(errors) "what is refused, and with which errno" []
    observers(observers) "other processes and /proc look at the pages" []
    proc(proc) "what /proc counts" []
    dirty(dirty) "soft-dirty and referenced bits" []
    frames(frames) "files about page frames" []
    debugger(debugger) "ptrace and core files" []
    io(io) "direct I/O, pipes, io_uring" []
    task(task) "futexes, stacks, signals" []
    fork(fork) "processes share pages on the device" []
    fork_huge(fork_huge) "processes share huge pages there" []
    lifetime(lifetime) "what outlives what" []
    death(death) "processes end in the middle" []
    devices(devices) "two devices, several processes" []
    evict(evict, evict_huge) "a device that is full" []
    read(read) "the device reads" []
    write(write) "the device writes" []
    access(access, user_faults) "what the device may not access" []
    snapshot(snapshot) "SNAPSHOT shows where pages are" []
    exclusive(exclusive, exclusive_refused) "pages that only the device can reach" []
    release(release) "RELEASE brings everything back" []
    flags(flags) "allocations that fail on demand" []
    mmap(mmap) "mappings of the device file" []
    opens(opens) "several open files of one device" []
    counts(counts) "what the commands count" []
    swap(swap) "swap space" []
    ksm(ksm) "merged pages" []
    memcg(memcg) "memory control groups" []
    races(races, device_races) "several things at a time" []
    held(held, held_vma) "a step is held while others go on" []
    failing(failing) "allocations and copies fail" []
    nth(nth) "each allocation fails once" []
    coherent(coherent, parameters) "devices with coherent memory" []
    unload(unload) "the module goes while pages are there" []
}

/// All cases, in the order in which they run.
pub fn all() -> impl Iterator<Item = &'static Case> {
    THEMES.iter().flat_map(Theme::cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_begin_with_the_theme() {
        for theme in THEMES {
            for case in theme.cases() {
                assert_eq!(case.theme(), theme.name, "{}", case.name);
            }
        }
    }

    #[test]
    fn the_quick_selection_has_all_that_is_named_and_some_of_each_theme() {
        for theme in THEMES {
            let quick = theme.cases().filter(|case| case.is_quick()).count();
            assert_eq!(quick, theme.quick.len().max(1), "{}", theme.name);
        }
    }
}
