#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Plant bugs in a copy of the module, one at a time, and see that tests of
`make test` find each. Prints what did.

    planted.py [NAME...]       default: all
    planted.py --list          NAME, KERNEL, what runs, and what the bug is

Each bug is one change of a line or a few. The text that it replaces has to stand
in its file exactly once: a bug that no longer fits is an error here, and not one
that nobody finds. `runs` are cases of the selftest that are to find it, or
`kunit`.
"""

import argparse
import filecmp
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

sys.dont_write_bytecode = True

from ktap import Totals  # noqa: E402

TOP = Path(__file__).resolve().parents[2]
TREE = TOP / "build/planted"
LOG = TOP / "build/log/planted"
# What a failed case and a complaint of the kernel look like in what a guest says.
FAILED = re.compile(r"^not ok \d+ (.*)")
COMPLAINT = re.compile(r"^.*\] *((?:WARNING|BUG|kernel BUG|Oops|Kernel panic)[: ].*)")


class Bug(NamedTuple):
    name: str
    about: str
    file: str
    old: str
    new: str
    runs: str
    kernel: str = "stock"


BUGS = [
    Bug("no-set-seq", "an invalidation does not set the sequence",
        "rust/hmm/interval.rs",
        "unsafe { bindings::mmu_interval_set_seq(notifier, seq) };", "let _ = seq;",
        "held.walked"),
    Bug("sequence-not-checked", "what was read counts, whatever has changed since",
        "rust/hmm/interval.rs",
        "mmu_interval_read_retry(self.raw.get(), seq.0) }", "mmu_interval_read_retry(self.raw.get(), seq.0) && false }",
        "held.walked"),
    Bug("no-clear", "an invalidation leaves the entries of the device",
        "rust/emu/view.rs",
        "let cleared = self.table.clear(pages, maybe_resched);", "let cleared = (pages, maybe_resched).0.len() * 0;",
        "opens. read."),
    Bug("clear-one-less", "an invalidation forgets its last page",
        "rust/emu/view.rs",
        "self.table.clear(pages, maybe_resched);", "self.table.clear(pages.start..pages.end - 1, maybe_resched);",
        "opens. read."),
    Bug("clear-one-more", "an invalidation clears the page behind its range",
        "rust/emu/view.rs",
        "self.table.clear(pages, maybe_resched);", "self.table.clear(pages.start..pages.end + 1, maybe_resched);",
        "read.neighbours_stay_mapped exclusive.read_by_a_cpu"),
    Bug("no-lock-no-clear", "an invalidation gives up when the lock is taken",
        "rust/hmm/interval.rs",
        "            this.state.write()\n        } else {", "            match this.state.try_write() {\n"
        "                Some(state) => state,\n                None => return true,\n            }\n        } else {",
        "races.device"),
    Bug("pending-never-invalidated", "a pending map does not see what others change",
        "rust/emu/record.rs",
        "record.is_invalidated |= overlaps && !is_part;", "let _ = overlaps && !is_part;",
        "held.out_moved held.exclusive"),
    Bug("own-changes-excused", "a pending map does not see what its own task changes once its pages are collected",
        "rust/emu/record.rs",
        "record.task == task && (is_own || !record.is_armed)", "record.task == task && (is_own || true)",
        "kunit", "debug"),
    Bug("evict-unlocked", "an eviction lets go of the mmap_lock before it has finished",
        "rust/hmm/migrate/evict.rs",
        "        let (moved, outcome) = self.bring_back_as(vma, range, keeps_large, buffer);\n",
        "        // SAFETY: None: this is the bug.\n"
        "        let vma: LockedVma<'static> = unsafe { core::mem::transmute(vma) };\n"
        "        drop(mmap);\n"
        "        let (moved, outcome) = self.bring_back_as(vma, range, keeps_large, buffer);\n",
        "held.vma_", "debug"),
    Bug("evict-first-only", "an eviction tries the first place of the reverse map alone",
        "rust/hmm/migrate/evict.rs",
        "for mapping in mappings.found.iter().flatten() {", "for mapping in mappings.found.iter().flatten().take(1) {",
        "fork. evict. release."),
    Bug("wrong-owner", "migrations are of nobody's pages",
        "rust/hmm/migrate/migration.rs",
        "pgmap_owner: self.owner,", "pgmap_owner: null_mut(),",
        "=migrate.one_page"),
    Bug("double-free", "a destination that was not used is put twice",
        "rust/hmm/migrate/migration.rs",
        "Mpfn::new(core::mem::take(entry)).frame()", "Mpfn::new(*entry).frame()",
        "failing.copy_in"),
    Bug("reservation-lost", "what a migration has reserved and not used does not come back",
        "rust/hmm/memremap/folio.rs",
        "        self.pagemap.release(self.pages, data);\n", "        let _ = data;\n",
        "failing. lifetime."),
    Bug("wrong-source", "each page of a huge page is a copy of its first one",
        "rust/emu/device.rs",
        "unsafe { bindings::copy_from_pages(to, from.page(nth), npages) };",
        "unsafe {\n"
        "                    for n in 0..npages {\n"
        "                        bindings::copy_from_pages(to.byte_add(n << 12), from.page(nth), 1)\n"
        "                    }\n"
        "                };",
        "huge."),
    Bug("zero-not-copied", "a hole becomes what the device's memory held before",
        "rust/emu/device.rs",
        "unsafe { bindings::clear_pages(to, npages) };", "let _ = (to, npages);",
        "migrate. huge."),
    Bug("no-second-eviction", "eviction does not try again",
        "rust/hmm/migrate/evict.rs",
        "const TRIES: usize = 4;", "const TRIES: usize = 1;",
        "kunit", "debug"),
    Bug("stale-head", "the head of a huge folio stays when it is freed",
        "rust/hmm/memremap/pagemap.rs",
        "        if pages.order() > 0 {", "        if pages.order() > 64 {",
        "kunit", "debug"),
    Bug("no-dirty-mark", "mm does not hear what the device writes",
        "rust/emu/view.rs",
        "unsafe { bindings::mark_pages_dirty(self.frame().page(), npages) };", "let _ = npages;",
        "write.survives swap."),
    Bug("no-touch", "use by the device does not keep a block from eviction",
        "rust/dmirror/access.rs",
        "run.pagemap().ops().pool().touch(block);", "let _ = block;",
        "evict."),
    Bug("one-for-a-huge-page", "a huge page counts as one page",
        "rust/hmm/migrate/migration.rs",
        "                huge += npages;\n", "                huge += npages / npages;\n",
        "counts."),
    Bug("batches-stay", "pages in batches of other CPUs are left",
        "rust/hmm/lru.rs",
        "for cpu in 0..nr_cpu_ids() {", "for cpu in 0..nr_cpu_ids().min(0) {",
        "madvise.free_on_another_cpu mlock."),
    Bug("written-twice", "what a round of faults has written is written again",
        "rust/dmirror/access.rs",
        "(copied, Err(_)) if copied.npages > 0 => Ok((copied, false)),",
        "(copied, Err(_)) if copied.npages > 512 => Ok((copied, false)),",
        "write.once_before_a_hole"),
    Bug("split-while-shared", "a huge page that other processes share is split after it was collected",
        "rust/hmm/migrate/entry.rs",
        "self.is_hole() || self.is_writable() || self.direction.keeps_shared_whole()", "true",
        "fork_huge.", "debug"),
    Bug("half-a-split", "a huge page may move with destinations for some of its pages only",
        "rust/hmm/migrate/migration.rs",
        "            if !Mpfn::new(dst[0]).is_compound() && dst.contains(&0) {",
        "            if !Mpfn::new(dst[0]).is_compound() && dst.is_empty() {",
        "kunit", "debug"),
    Bug("error-retried", "a CPU whose page cannot come back tries again, for ever",
        "rust/dmirror/device.rs",
        "Err(_) => fault.bus_error(),", "Err(_) => fault.retry(),",
        "failing.copy_out_fault"),
    Bug("owned-twice", "a page can be reserved by two",
        "rust/hmm/memremap/pagemap.rs",
        "if !self.owned.reserve(pages.clone()) {", "if !self.owned.reserve(pages.clone()) && pages.is_empty() {",
        "kunit", "debug"),
    Bug("error-forgotten", "eviction does not say what kept a page",
        "rust/hmm/migrate/evict.rs",
        "*error = outcome.err().or(*error);", "let _ = outcome;",
        "failing."),
    Bug("neighbour-of-another-vma", "a CPU's fault brings back pages of another VMA, too",
        "rust/hmm/migrate/to_system.rs",
        "window.start.max(vma.start())..window.end.min(vma.end());", "window.start..window.end;",
        "window."),
    Bug("neighbours-told", "a CPU's fault announces a change to pages that stay as they are",
        "rust/hmm/migrate/to_system.rs",
        "let range = self.resident_run(window);", "let range = window;",
        "window."),
    Bug("neighbours-first", "a CPU's fault allocates for the neighbours of the touched page before it",
        "rust/hmm/migrate/to_system.rs",
        "self.entries().find(touches)", "self.entries().find(|_| true)",
        "window."),
    Bug("no-fallback", "a buffer that is not present is not faulted in",
        "rust/dmirror/access.rs",
        "0 => (copy_bounced(guard, bounce, range), true),", "0 => (0, copy_bounced(guard, bounce, range) > 512),",
        "uffd. read."),
    Bug("stale-count", "a page that a process drops on the device is not counted as freed",
        "rust/hmm/memremap/pagemap.rs",
        "            self.freed.add(freed as u64);\n", "            let _ = freed;\n",
        "stats."),
    Bug("event-sleeps", "a trace event sleeps",
        "rust/helpers/dmirror_events.h",
        "\t\t__entry->cleared\t= cleared;\n", "\t\tmight_sleep();\n\t\t__entry->cleared\t= cleared;\n",
        "trace.", "debug"),
    Bug("addresses-kept", "the addresses of a device stay claimed when it is gone",
        "rust/hmm/memremap/pfn.rs",
        "bindings::__release_region(&raw mut bindings::iomem_resource, self.start, self.size)",
        "core::ptr::from_ref(&self.start).read_volatile()",
        "unload."),
    Bug("cancel-not-heard", "an engine goes on with a job whose queue was destroyed",
        "rust/dmirror/queue.rs",
        "        if self.is_cancelled.load(Relaxed) {", "        if self.is_cancelled.load(Relaxed) && job.seqno == 0 {",
        "queue.destroyed"),
    Bug("destroy-does-not-wait", "QUEUE_DESTROY returns while the engine still works for the queue",
        "rust/dmirror/commands.rs",
        "            client.device().engine(queue.engine())?.wait_for(&queue)\n", "            Ok(())\n",
        "queue.destroyed_with_signals"),
    Bug("interrupt-lost", "who interrupts an engine that moves pages is forgotten before the fault that comes next",
        "rust/dmirror/exec/service.rs",
        "        // Checked after the interrupt was cleared, so that no interrupt is lost.\n        self.check()\n", "        Ok(())\n",
        "engine.destroyed_before_a_fault"),
    Bug("group-not-told", "engines that wait for a group are not told when it is done",
        "rust/dmirror/faults.rs",
        "                stalled.groups -= 1;\n            }\n        }\n        drop(buffer);\n        self.changed.notify_all();\n",
        "                stalled.groups -= 1;\n            }\n        }\n        drop(buffer);\n",
        "kunit", "debug"),
    Bug("group-of-one", "the engine of the first entry alone waits for a group",
        "rust/dmirror/faults.rs",
        "                    if group.engines & (1 << entry.engine) == 0 {", "                    if group.engines == 0 {",
        "kunit", "debug"),
    Bug("merged-with-itself", "the first entry of a group counts as merged, too",
        "rust/dmirror/faults.rs",
        "merged += run.len() - 1;", "merged += run.len();",
        "policy.small_buffer"),
    Bug("slice-of-another-block", "a CPU waits for the time slice of the first block",
        "rust/dmirror/device.rs",
        "self.kept_until.get(page / HPAGE_PMD_NR)", "self.kept_until.get(page.min(0))",
        "policy.timeslice"),
    Bug("pin-ignored", "a granule that is fought for moves all the same",
        "rust/dmirror/exec/service.rs",
        "            memory.service().pins.add(1);\n            return Service::nothing(part, Decision::Pin);\n", "            memory.service().pins.add(1);\n",
        "policy.thrashing"),
    Bug("pinned-comes-along", "a granule that is used where it is moves with what is missed near it",
        "rust/dmirror/exec/neighbours.rs",
        ".is_pinned(&whole, ", ".is_pinned(&(0..0), ",
        "policy.pinned_beside_others"),
    Bug("atomic-beside-cpus", "ATOMIC reads and writes where CPUs may come in between",
        "rust/dmirror/exec/atomic.rs",
        "            Access::Write => is_own,", "            Access::Write => is_own || page.device_index().is_none(),",
        "policy.atomics_without_migrate"),
    Bug("no-atomic-slice", "an engine gives up an exclusive page after a few operations",
        "rust/dmirror/exec/atomic.rs",
        "while operations.left > 0 && memory.now_ns() < end && self.check().is_ok() {",
        "while operations.left > u64::MAX - 1 && memory.now_ns() < end && self.check().is_ok() {",
        "policy.atomic_slice"),
    Bug("in-place-ignored", "memory that is advised to stay where it is moves",
        "rust/dmirror/exec/service.rs",
        "        (_, Reach::InPlace) => false,\n", "        (Reason::Hot, Reach::InPlace) => false,\n        (_, Reach::InPlace) => memory.setting(Setting::Migrate) != 0,\n",
        "policy.advised_place"),
    Bug("granule-ignored", "advice on the granule is not heard",
        "rust/dmirror/exec/service.rs",
        "                advised => advised,\n", "                _ => memory.setting(Setting::Granule),\n",
        "policy.advised_granule"),
    Bug("atomics-advice-ignored", "the setting says where atomic operations are made, whatever was advised",
        "rust/dmirror/exec/service.rs",
        "            Atomics::Device => true,\n", "            Atomics::Device => memory.setting(Setting::AtomicsMigrate) != 0,\n",
        "policy.advised_atomics"),
    Bug("fence-early", "a packet behind a FILL is executed before it",
        "rust/dmirror/exec.rs",
        "            Packet::Fill { dst, value } => self.fill(dst, value)?,\n",
        "            Packet::Fill { dst, value } => {\n"
        "                let _ = self.packet(next);\n"
        "                self.fill(dst, value)?;\n"
        "            }\n",
        "engine.fence_after_data"),
    Bug("told-early", "the eventfd of a queue tells of jobs that begin",
        "rust/dmirror/queue.rs",
        "        let slot = *jobs.slot(seqno).ok()?;\n",
        "        let slot = *jobs.slot(seqno).ok()?;\n"
        "        if let Some(eventfd) = &self.eventfd {\n"
        "            eventfd.signal();\n"
        "        }\n",
        "queue.event_after_data"),
    Bug("failed-counts", "a packet that failed counts as executed",
        "rust/dmirror/exec.rs",
        "                return Outcome {\n                    executed,", "                return Outcome {\n                    executed: executed + 1,",
        "engine.malformed_packets queue.fifo"),
    Bug("reset-of-one", "RESET forgets the jobs that have not begun",
        "rust/dmirror/queue.rs",
        "self.reset.store(jobs.submitted, Relaxed);", "self.reset.store(jobs.ended + 1, Relaxed);",
        "queue.reset"),
    Bug("newest-first", "the newest job of a queue runs first",
        "rust/dmirror/queue.rs",
        "        let seqno = jobs.ended + 1;\n        let slot = *jobs",
        "        let seqno = jobs.submitted;\n        let slot = *jobs",
        "queue.in_order"),
]


def changed(bug, text):
    """The text of the bug's file with the bug in it."""
    if text.count(bug.old) != 1:
        times = text.count(bug.old)
        raise ValueError(f"{bug.name}: what it replaces stands {times} times in {bug.file}")
    return text.replace(bug.old, bug.new)


def copy():
    """A whole copy, with a build folder of its own that is kept for the next time."""
    files = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                           cwd=TOP, check=True, stdout=subprocess.PIPE, text=True).stdout
    for name in filter(None, files.split("\0")):
        source, target = TOP / name, TREE / name
        if source.is_file() and not (target.exists() and filecmp.cmp(source, target, shallow=False)):
            target.parent.mkdir(parents=True, exist_ok=True)
            # With the time of now, so that what was planted before is built anew.
            shutil.copy(source, target)


def run(bug):
    """Run what is to find the bug. Returns the status, what was found, and whether
    any case ran."""
    log = LOG / bug.name
    if bug.runs == "kunit":
        command, settings = ["test/kunit.py", "short"], {}
    else:
        command = ["guest/guest.sh"]
        settings = {"KERNEL": bug.kernel, "NAME": "planted", "LEAKS": "0",
                    "CMD": f"dmirror-selftest --ktap --timeout 60 {bug.runs}"}
    with log.open("wb") as stream:
        status = subprocess.run([TREE / "scripts" / command[0], *command[1:]], env={**os.environ, **settings},
                                check=False, stdout=stream, stderr=subprocess.STDOUT).returncode
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    ran = any(line.startswith(("ok ", "not ok ", "passed ", "failed ")) for line in lines)
    if bug.runs == "kunit":
        return status, [line[8:].strip() for line in lines if line.startswith("failed ")], ran
    found = []
    for line in lines:
        if match := FAILED.match(line):
            found.append(match[1])
        elif match := COMPLAINT.match(line):
            found.append(f"the kernel: {match[1]}")
    return status, found + (["the guest hung"] if status == 124 else []), ran


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="bugs (default: all)")
    parser.add_argument("--list", action="store_true",
                        help="print NAME, KERNEL, RUNS, ABOUT, tabs between")
    args = parser.parse_args()
    if args.list:
        for bug in BUGS:
            print(bug.name, bug.kernel, bug.runs, bug.about, sep="\t")
        return 0
    bugs = {bug.name: bug for bug in BUGS}
    if unknown := [name for name in args.names if name not in bugs]:
        sys.exit(f"planted.py: error: there is no bug '{unknown[0]}'; --list names them")

    LOG.mkdir(parents=True, exist_ok=True)
    totals = Totals()
    for bug in [bugs[name] for name in args.names] or BUGS:
        print(f"==> {bug.name}: {bug.about}", file=sys.stderr, flush=True)
        copy()
        path = TREE / bug.file
        try:
            path.write_text(changed(bug, path.read_text(encoding="utf-8")), encoding="utf-8")
        except ValueError as error:
            totals.add(str(error), "failed")
            continue
        status, found, ran = run(bug)
        about = f"{bug.name}: {bug.about}"
        if status == 125 or not ran:
            totals.add(f"{bug.name}: nothing ran (status {status}): {LOG / bug.name}", "failed")
        elif status != 0 and found:
            totals.add(f"{about}: found by {'; '.join(found[:3])}", "passed")
        else:
            totals.add(f"{about}: not found by {bug.runs} (status {status})", "failed")
        sys.stdout.flush()
    return totals.end()


if __name__ == "__main__":
    sys.exit(main())
