#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Read KTAP, say what ran, and fail when anything failed or vanished.

Reads what a program prints (the kernel test anything protocol,
Documentation/dev-tools/ktap.rst) from a file or standard input, with other
lines in between. Prints one line a case, and at the end `N passed, N failed,
N skipped`. A case that is known to fail (XFAIL) is shown as such, and counts
as skipped. There are no suites in it: KUnit has those, see kunit.py.

These count as failures, besides cases that say so themselves: a plan that
was not fulfilled, a missing plan, and, with --expect, each case that is in the
list and did not run, or ran and is not in the list.
"""

import argparse
import re
import sys

VERSION = re.compile(r"^K?TAP version \d+$", re.IGNORECASE)
PLAN = re.compile(r"^1\.\.(\d+)( *#.*)?$")
SKIP = re.compile("^SKIP *", re.IGNORECASE)
KNOWN = re.compile("^XFAIL *", re.IGNORECASE)
RESULT = re.compile(r"^(not )?ok (\d+)(?: -)?(?: ([^#]*?))?(?: *# *(.*))?$")


class Report:
    """What was read: cases as (name, state, what was said of them), and problems."""

    def __init__(self):
        self.cases = []
        self.problems = []
        self._plan = None
        self._count = 0
        self._comments = []

    def _end(self):
        """End a run: what follows, if anything, is another one."""
        if self._plan is None and self._count:
            self.problems.append("the run: there was no plan (1..N)")
        elif self._plan is not None and self._plan != self._count:
            self.problems.append(f"the run: {self._count} results, but {self._plan} were planned")
        self._plan, self._count, self._comments = None, 0, []

    def _result(self, failed, number, name, directive):
        self._count += 1
        if number != self._count:
            self.problems.append(f"{name}: number {number}, expected {self._count}")
            self._count = max(self._count, number)
        state = "failed" if failed else "passed"
        if SKIP.match(directive):
            state = "skipped"
        elif KNOWN.match(directive):
            state = "known"
        reason = KNOWN.sub("", SKIP.sub("", directive))
        self.cases.append((name, state, [*self._comments, *([reason] if reason else [])]))
        self._comments = []

    def read(self, lines):
        for line in lines:
            line = line.rstrip("\r\n")
            if VERSION.match(line):
                self._end()
            elif match := PLAN.match(line):
                self._plan = int(match[1])
            elif match := RESULT.match(line):
                name = (match[3] or "").strip() or f"case {match[2]}"
                self._result(bool(match[1]), int(match[2]), name, match[4] or "")
            elif line.startswith("#"):
                self._comments.append(line.strip())
        self._end()
        return self

    def expect(self, names):
        """Compare the cases that ran with a list of their names."""
        self.problems += compare([name for name, _, _ in self.cases], names)


def compare(ran, names):
    """What is wrong with the names of what ran, given those that should."""
    yield from (f"{name}: did not run" for name in names if name not in set(ran))
    yield from (f"{name}: is not in the list of cases" for name in sorted(set(ran) - set(names)))


class Totals:
    """Counts cases, and prints each in the form that add_totals of cases.sh reads."""

    def __init__(self, prefix="", file=None):
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}
        self.prefix = prefix
        self.file = file

    def add(self, name, state, said=()):
        """A case: a line, and below it why it is not one that passed."""
        # What is known to fail was not run to its end.
        self.counts["skipped" if state == "known" else state] += 1
        print(f"{state:8}{self.prefix}{name}", file=self.file)
        for line in {"failed": said, "skipped": said[-1:], "known": said[-1:]}.get(state, ()):
            print(f"        {line}", file=self.file)

    def end(self):
        """The last line. Returns the exit status."""
        counts = ", ".join(f"{count} {state}" for state, count in self.counts.items())
        print(counts, file=self.file, flush=True)
        return 1 if self.counts["failed"] or not sum(self.counts.values()) else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", help="what to read (default: standard input)")
    parser.add_argument("--expect", metavar="LIST",
                        help="names of the cases that must run, one a line")
    parser.add_argument("--prefix", default="", help="put before each case's name")
    args = parser.parse_args()

    with open(args.file or 0, encoding="utf-8", errors="replace") as stream:
        report = Report().read(stream)
    if args.expect is not None:
        with open(args.expect, encoding="utf-8") as stream:
            report.expect([line.strip() for line in stream if line.strip()])

    totals = Totals(args.prefix)
    for case in report.cases:
        totals.add(*case)
    for problem in report.problems:
        totals.add(problem, "failed")
    if not report.cases:
        totals.add("no case ran", "failed")
    return totals.end()


if __name__ == "__main__":
    sys.exit(main())
