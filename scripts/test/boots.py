#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Put together the results of cases that ran in more than one boot of a kernel.

Takes the list of the cases, one a line, and the KTAP output of each boot. A
case that a kernel did not survive is named in a file of its own, with the
reason behind a tab. Prints what ktap.py prints, a line a case in the order of
the list and then the totals; with --left, the names that have no result yet.

These count as failures, besides cases that say so themselves: a case that a
kernel did not survive, one without a result, one that is not in the list, and
one that was skipped for a reason that --may-skip does not allow.
"""

import argparse
import re
import sys

sys.dont_write_bytecode = True

from ktap import Report, show  # noqa: E402


class Results:
    """What became of the cases of a list."""

    def __init__(self, names, died, outputs):
        self.names = names
        self.died = dict(died)
        self.seen = {}
        for lines in outputs:
            for name, state, said in Report().read(lines).cases:
                self.seen.setdefault(name, (state, said))

    def left(self):
        """The names that have no result yet."""
        return [name for name in self.names if name not in self.seen and name not in self.died]

    def cases(self, may_skip=""):
        """All cases as (name, state, what was said), `may_skip` a pattern for
        `NAME: REASON` of those that may be skipped."""
        for name in self.names:
            if name in self.died:
                yield f"{name}: {self.died[name]}", "failed", []
            elif name not in self.seen:
                yield f"{name}: did not run", "failed", []
            else:
                state, said = self.seen[name]
                state = "skipped" if state == "known" else state
                reason = said[-1] if said else "no reason"
                if state == "skipped" and not re.fullmatch(may_skip, f"{name}: {reason}"):
                    yield f"{name}: must not be skipped", "failed", [reason]
                else:
                    yield name, state, said
        for name in self.seen.keys() - set(self.names):
            yield f"{name}: is not in the list of cases", "failed", []


def read_lines(path):
    with open(path, encoding="utf-8", errors="replace") as stream:
        return [line.rstrip("\n") for line in stream]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("outputs", nargs="+", metavar="OUTPUT", help="KTAP of a boot")
    parser.add_argument("--list", required=True, help="names of all cases, one a line")
    parser.add_argument("--died", required=True, help="cases that a kernel did not survive: NAME, tab, reason")
    parser.add_argument("--left", action="store_true", help="print the names that have no result yet")
    parser.add_argument("--prefix", default="", help="put before each case's name")
    parser.add_argument("--may-skip", default=".*", metavar="PATTERN",
                        help="`NAME: REASON` of cases that may be skipped (default: all)")
    args = parser.parse_args()

    results = Results([name for name in read_lines(args.list) if name],
                      [line.split("\t", 1) for line in read_lines(args.died)],
                      [read_lines(output) for output in args.outputs])
    if args.left:
        for name in results.left():
            print(name)
        return 0
    totals = {"passed": 0, "failed": 0, "skipped": 0}
    for name, state, said in results.cases(args.may_skip):
        totals[state] += 1
        show(args.prefix + name, state, said)
    print(", ".join(f"{count} {state}" for state, count in totals.items()))
    return 1 if totals["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
