#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Read KTAP, say what ran, and fail when anything failed or vanished.

Reads test output (the kernel test anything protocol,
Documentation/dev-tools/ktap.rst) from a file or standard input, with or
without the time stamps of a kernel log, and with other lines in between.
Prints one line a case, and at the end `N passed, N failed, N skipped`. A case
that is known to fail (XFAIL) is shown as such, and counts as skipped.

These count as failures, besides cases that say so themselves: a plan that
was not fulfilled, a missing plan, a suite that began and has no result, a
suite that failed though its cases did not, and, with --expect, each case that
is in the list and did not run, or ran and is not in the list.
"""

import argparse
import re
import sys

STAMP = re.compile(r"^(<\d+>)?\[ *\d+\.\d+\](\[ *[TC]\d+\])? ?")
VERSION = re.compile(r"^( *)K?TAP version \d+$", re.IGNORECASE)
PLAN = re.compile(r"^( *)1\.\.(\d+)( *#.*)?$")
SUBTEST = re.compile(r"^( *)# Subtest: (.*)$")
SKIP = re.compile("^SKIP *", re.IGNORECASE)
KNOWN = re.compile("^XFAIL *", re.IGNORECASE)
RESULT = re.compile(r"^( *)(not )?ok (\d+)(?: -)?(?: ([^#]*?))?(?: *# *(.*))?$")
COMMENT = re.compile(r"^ *#")


class Level:
    """The results at one depth, between its version line and its end."""

    def __init__(self):
        self.name = None
        self.plan = None
        self.count = 0
        self.failed = 0

    def problems(self, name):
        if self.plan is None:
            yield f"{name}: there was no plan (1..N)"
        elif self.plan != self.count:
            yield f"{name}: {self.count} results, but {self.plan} were planned"


class Report:
    """What was read: cases as (name, state, what was said of them), and problems."""

    def __init__(self):
        self.cases = []
        self.problems = []
        self._levels = {}
        self._comments = []

    def _close_deeper(self, depth):
        """End the levels below `depth` which no result has claimed."""
        for level in sorted((d for d in self._levels if d > depth), reverse=True):
            name = self._levels.pop(level).name or "a subtest"
            self.problems.append(f"{name}: began and has no result")

    def _close(self, depth):
        level = self._levels.pop(depth, None)
        if level is not None:
            self.problems += level.problems(level.name or "the run")

    def _open(self, depth):
        return self._levels.setdefault(depth, Level())

    def _path(self, depth):
        names = [self._levels[d].name for d in sorted(self._levels) if d <= depth]
        return [name for name in names if name]

    def _result(self, depth, failed, number, name, directive):
        children = sorted(d for d in self._levels if d > depth)
        for deeper in children[1:][::-1]:
            stray = self._levels.pop(deeper).name or "a subtest"
            self.problems.append(f"{stray}: began and has no result")
        parent = self._open(depth)
        parent.count += 1
        parent.failed += failed
        if number != parent.count:
            self.problems.append(f"{name}: number {number}, expected {parent.count}")
            parent.count = max(parent.count, number)
        if children:
            suite = self._levels.pop(children[0])
            if not SKIP.match(directive or ""):
                self.problems += suite.problems(name)
            if failed and not suite.failed:
                self.problems.append(f"{name}: failed, though no case of it did")
        else:
            state = "failed" if failed else "passed"
            if SKIP.match(directive or ""):
                state = "skipped"
            elif KNOWN.match(directive or ""):
                state = "known"
            reason = KNOWN.sub("", SKIP.sub("", directive or ""))
            said = [*self._comments, reason] if reason else self._comments
            self.cases.append((".".join([*self._path(depth), name]), state, said))
        self._comments = []

    def read(self, lines):
        for line in lines:
            line = STAMP.sub("", line.rstrip("\r\n"), count=1)
            if match := VERSION.match(line):
                depth = len(match[1])
                self._close_deeper(depth)
                self._close(depth)
                self._open(depth)
            elif match := SUBTEST.match(line):
                depth = len(match[1])
                # The version line above it is optional at this depth.
                self._close_deeper(depth)
                self._open(depth).name = match[2].strip()
                self._comments = []
            elif match := PLAN.match(line):
                self._open(len(match[1])).plan = int(match[2])
            elif match := RESULT.match(line):
                self._result(len(match[1]), bool(match[2]), int(match[3]),
                             (match[4] or "").strip() or f"case {match[3]}", match[5])
            elif COMMENT.match(line):
                self._comments.append(line.strip())
        self._close_deeper(-1 if not self._levels else min(self._levels))
        for depth in list(self._levels):
            self._close(depth)
        return self

    def expect(self, names):
        """Compare the cases that ran with a list of their names."""
        ran = {name for name, _, _ in self.cases}
        self.problems += [f"{name}: did not run" for name in names if name not in ran]
        self.problems += [f"{name}: is not in the list of cases"
                          for name in sorted(ran - set(names))]


def show(name, state, said=()):
    """Print the line of a case, and below it why it is not one that passed."""
    print(f"{state:8}{name}")
    for line in {"failed": said, "skipped": said[-1:], "known": said[-1:]}.get(state, ()):
        print(f"        {line}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", help="what to read (default: standard input)")
    parser.add_argument("--expect", metavar="LIST", help="names of the cases that must run, one a line")
    parser.add_argument("--prefix", default="", help="put before each case's name")
    args = parser.parse_args()

    with open(args.file or 0, encoding="utf-8", errors="replace") as stream:
        report = Report().read(stream)
    if args.expect is not None:
        with open(args.expect, encoding="utf-8") as stream:
            report.expect([line.strip() for line in stream if line.strip()])

    totals = {"passed": 0, "failed": 0, "skipped": 0}
    for name, state, said in report.cases:
        # What is known to fail was not run to its end.
        totals["skipped" if state == "known" else state] += 1
        show(args.prefix + name, state, said)
    for problem in report.problems:
        totals["failed"] += 1
        show(args.prefix + problem, "failed")
    if not report.cases:
        show(args.prefix + "no case ran", "failed")
        totals["failed"] += 1
    print(", ".join(f"{count} {state}" for state, count in totals.items()))
    return 1 if totals["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
