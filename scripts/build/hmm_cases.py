#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Read what a program of the kernel's selftest harness prints for `-l`, and
name its cases, in the order in which they run: FIXTURE.VARIANT.TEST.

The list has a table for each fixture. Its columns are independent of each
other: the variants stand in one, the tests in another, and each variant runs
each test.
"""

import sys

HEADER = ["#", "FIXTURE", "VARIANT", "TEST"]
# Where the second and the third column begin.
VARIANT, TEST = 21, 47


def cases(text):
    """The names of the cases in the list `text`."""
    lines = text.splitlines()
    if not lines or lines[0].split() != HEADER:
        raise ValueError("this is no list of the selftest harness: its header is missing")
    names = []
    fixture, variants, tests = None, [], []
    for line in [*lines[1:], "---"]:
        if line.startswith("---"):
            for variant in variants or [None]:
                names += (".".join(filter(None, (fixture, variant, test))) for test in tests)
            fixture, variants, tests = None, [], []
            continue
        # A name that is longer than its column moves those behind it.
        words = line.split()
        if line[:VARIANT].strip():
            fixture = words.pop(0)
        if line[VARIANT:TEST].strip():
            variants.append(words.pop(0))
        tests += words
    if not names:
        raise ValueError("this list names no cases")
    return names


def main():
    with open(sys.argv[1] if len(sys.argv) > 1 else 0, encoding="utf-8") as stream:
        print(*cases(stream.read()), sep="\n")


if __name__ == "__main__":
    main()
