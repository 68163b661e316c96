// SPDX-License-Identifier: GPL-2.0

//! The cases, by theme. Cases that unload the module come last.

mod access;
mod advise;
mod advise_arguments;
mod advise_mappings;
mod coherent;
mod counts;
mod death;
mod debugger;
mod device_races;
mod devices;
mod dirty;
mod engine;
mod engine_again;
mod engine_faults;
mod engine_live;
mod engine_others;
mod engine_uffd;
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
mod held_engines;
mod held_movers;
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
mod nth_engines;
mod numa;
mod observers;
mod opens;
mod parameters;
mod policy;
mod policy_advice;
mod policy_atomics;
mod policy_live;
mod policy_memory;
mod proc;
mod queue;
mod queue_arguments;
mod queue_waits;
mod races;
mod read;
mod release;
mod snapshot;
mod stats;
mod swap;
mod task;
mod trace;
mod trace_engine;
mod uffd;
mod unload;
mod user_faults;
mod window;
mod write;

use anyhow::Result;
use dmirror_client::Device;

use crate::context::Context;
use crate::worker::{Worker, open};

/// A behaviour and the function that tests it.
#[derive(Debug)]
pub struct Case {
    /// `theme.behaviour`.
    pub name: &'static str,
    /// The behaviour in a sentence.
    pub about: &'static str,
    /// The test function. It returns an error if the behaviour is another one.
    pub run: fn(&Context) -> Result<()>,
}

/// A function of a case, by its arguments: the [`Context`]; the open device under test, without or
/// with the second one; a device with engines, or a [`Worker`], without or with the [`Context`].
pub trait Function<Fixture> {
    /// Calls the function, or skips if its arguments are not available.
    fn call(&self, context: &Context) -> Result<()>;
}

impl<F: Fn(&Context) -> Result<()>> Function<&Context> for F {
    fn call(&self, context: &Context) -> Result<()> {
        self(context)
    }
}

impl<F: Fn(Device) -> Result<()>> Function<Device> for F {
    fn call(&self, context: &Context) -> Result<()> {
        self(context.open()?)
    }
}

impl<F: Fn(Device, Device) -> Result<()>> Function<(Device, Device)> for F {
    fn call(&self, context: &Context) -> Result<()> {
        self(context.open()?, context.open_second()?)
    }
}

/// An open device with engines, for a case that skips without them.
pub struct WithEngines(pub Device);

impl<F: Fn(WithEngines) -> Result<()>> Function<WithEngines> for F {
    fn call(&self, context: &Context) -> Result<()> {
        self(WithEngines(open(context)?))
    }
}

impl<F: Fn(&Context, WithEngines) -> Result<()>> Function<(&Context, WithEngines)> for F {
    fn call(&self, context: &Context) -> Result<()> {
        self(context, WithEngines(open(context)?))
    }
}

impl<F: Fn(Worker) -> Result<()>> Function<Worker> for F {
    fn call(&self, context: &Context) -> Result<()> {
        self(Worker::new(context)?)
    }
}

impl<F: Fn(&Context, Worker) -> Result<()>> Function<(&Context, Worker)> for F {
    fn call(&self, context: &Context) -> Result<()> {
        self(context, Worker::new(context)?)
    }
}

/// Lists the `CASES` of the calling file: `name = "about",` runs the [`Function`] of that name, and
/// `name = "about" => function,` runs the given function, as a row of a table with its own values.
macro_rules! cases {
    ($theme:literal: $($name:ident = $about:literal $(=> $function:expr)?,)*) => {
        pub(super) const CASES: &[super::Case] = &[
            $(super::Case {
                name: concat!($theme, ".", stringify!($name)),
                about: $about,
                run: |context| super::Function::call(&cases!(@ $name $($function)?), context),
            },)*
        ];
    };
    (@ $name:ident) => { $name };
    (@ $name:ident $function:expr) => { $function };
}
pub(crate) use cases;

/// A theme: cases about one thing. Their names begin with its name and a dot.
#[derive(Debug)]
pub struct Theme {
    /// The name of the theme: the part of a case's name before the dot.
    pub name: &'static str,
    /// The subject of the theme, in a few words.
    pub about: &'static str,
    /// The cases of the quick selection, by the part of their name after the dot. If this is empty,
    /// the quick selection has the first case.
    quick: &'static [&'static str],
    /// The cases, by file.
    files: &'static [&'static [Case]],
}

impl Theme {
    /// Returns the cases of the theme, in the order in which they run.
    pub fn cases(&self) -> impl Iterator<Item = &'static Case> + use<> {
        self.files.iter().copied().flatten()
    }

    /// Returns the cases of the quick selection.
    fn quick_cases(&self) -> impl Iterator<Item = &'static Case> {
        let first = usize::from(self.quick.is_empty());
        self.cases()
            .enumerate()
            .filter(move |(index, case)| *index < first || self.quick.contains(&case.parts().1))
            .map(|(_, case)| case)
    }
}

impl Case {
    /// Returns the parts of the name before and after the dot.
    fn parts(&self) -> (&'static str, &'static str) {
        self.name.split_once('.').unwrap_or((self.name, ""))
    }

    /// Returns the name of the theme.
    pub fn theme(&self) -> &'static str {
        self.parts().0
    }

    /// Returns whether the quick selection has the case.
    pub fn is_quick(&self) -> bool {
        THEMES
            .iter()
            .flat_map(Theme::quick_cases)
            .any(|quick| quick.name == self.name)
    }
}

/// Builds [`THEMES`]: `name(file, ...) "about" [quick, ...]`.
macro_rules! themes {
    ($($name:ident ($($file:ident),+) $about:literal [$($quick:ident),*])*) => {
        /// All themes, in the order in which they run. The quick selection takes the cheap cases of
        /// each: together they should take some ten seconds under emulation.
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
    migrate(migrate) "pages go to the device and come back"
        [one_page, many_pages, holes_become_zero_pages]
    fault(fault) "a CPU touches a page on the device"
        [read_brings_back_the_touched_page, another_thread]
    window(window) "a CPU touches one page, and more come back" [grows, whole_range]
    mapping(mapping) "mappings change under pages on the device"
        [read_only_after, unmapped_part, moved]
    mprotect(mprotect) "protection of pages on the device changes" [no_access, device_obeys]
    mremap(mremap) "mappings with such pages move and resize" [grown, shrunk]
    madvise(madvise) "advice about pages on the device" [dontneed_frees_device_memory, populate_write]
    mlock(mlock) "locked memory goes there and back" []
    numa(numa) "memory policy, move_pages" []
    uffd(uffd) "a program that answers its own faults" [copied, device_reads_missing]
    huge(huge, huge_whole) "huge pages move whole, or in parts" [whole, stays_whole, whole_by_fault]
    files(files) "memory that is not anonymous stays" [shared_memory, private_file_written]
    errors(errors) "what is refused, and with which errno" [unaligned_address, unmapped_hole]
    observers(observers) "other processes and /proc look at the pages"
        [pagemap, smaps, process_vm_readv]
    proc(proc) "sizes and counts in /proc" []
    dirty(dirty) "soft-dirty and referenced bits" [out, back]
    frames(frames) "files of /proc about page frames" []
    debugger(debugger) "ptrace and core files" [peek, poke, core_file]
    io(io) "direct I/O, pipes, io_uring" [pipe, ring]
    task(task) "futexes, stacks, signals" [futex_wait, thread_stack, signal_frame]
    fork(fork) "processes share pages on the device"
        [child_writes_first, parent_writes_first, generations]
    fork_huge(fork_huge) "processes share huge pages there" [resident, child_unmaps]
    lifetime(lifetime) "what outlives what" [close_leaves_pages, exec]
    death(death) "processes end with pages on the device" [exit, core_dump]
    devices(devices) "two devices, several processes" [two_devices, two_opens]
    evict(evict, evict_huge) "a device that is full" [oldest_first]
    read(read) "the device reads" [system_pages, resident_pages, huge]
    write(write) "the device writes" [system_pages, resident_pages, fork_of_resident_pages]
    access(access, user_faults) "memory that the device must not access"
        [write_read_only_resident, as_32_bit_program]
    snapshot(snapshot) "SNAPSHOT shows where pages are" [resident_pages, huge]
    exclusive(exclusive, exclusive_refused) "pages that only the device can reach"
        [given, read_by_a_cpu, second_device]
    release(release) "RELEASE brings everything back" [all_back, other_processes]
    flags(flags) "FLAGS makes the next allocation fail" [huge_page_out, fault]
    mmap(mmap) "mappings of the device file" [zeroed, cpu_and_device]
    opens(opens) "several open files of one device" [other_reads_resident, two_processes]
    counts(counts) "how many pages a command says it moved" [huge_pages, part_of_a_huge_page, cut_by_mprotect]
    swap(swap) "swap space beside device memory" [neighbours, device_reads_swapped_out]
    ksm(ksm) "merged pages (KSM)" [resident]
    memcg(memcg) "memory control groups" [charged, removed_cgroup]
    races(races, device_races) "several things at a time"
        [threads_touch_one_page, threads_touch_many_pages]
    held(held, held_engines, held_vma) "a step is held while others go on" [out_moved]
    failing(failing) "failures on demand, and what is left then" [device_alloc, copy_out_fault]
    nth(nth, nth_engines) "each allocation fails once" []
    queue(queue_arguments, queue, queue_waits) "queues of jobs, on which engines work"
        [sizes, unknown_queue, fifo, timeouts]
    engine(engine, engine_faults, engine_live, engine_uffd, engine_others, engine_again) "what packets do to memory"
        [packets_on_the_device, malformed_packets]
    policy(policy, policy_advice, policy_live, policy_memory, policy_atomics) "what is done about pages that engines miss"
        [presets, whole_granule, dense_rest, small_buffer]
    advise(advise_arguments, advise, advise_mappings) "advice for ranges, which engines follow"
        [set_arguments, set_and_got, unmapped]
    coherent(coherent, parameters) "devices with coherent memory"
        [cpu_access_stays, device_access, forked]
    trace(trace, trace_engine) "trace events say what happened" []
    stats(stats) "statistics say how much happened" [request, cpu_fault, freed]
    unload(unload) "the module goes while pages are there" [pages_come_back, other_processes]
}

/// Returns all cases, in the order in which they run.
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
            assert_eq!(
                theme.quick_cases().count(),
                theme.quick.len().max(1),
                "{}",
                theme.name
            );
        }
    }
}
