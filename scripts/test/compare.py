#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Print what conformance.sh found of several modules side by side.

Takes the list of the cases, FIXTURE.VARIANT.TEST one a line, and for each
module NAME=RESULT, where RESULT.cases holds the lines that conformance.sh
printed and RESULT.complaints the number of lines with a kernel's complaint. A
test is a row; each variant has a column a module. Exits with 1 unless the first
module passed every case without a complaint.
"""

import argparse
import re
import sys

LINE = re.compile(r"^(passed|failed|skipped) +([\w.]+)(?:: (.*))?$")
# Failures with a word of their own.
WORDS = {
    "the kernel died in it": "kernel died",
    "the guest hung in it": "hung",
    "did not run": "did not run",
    "must not be skipped": "skipped",
}


def results(lines):
    """What became of each case, in a word or two."""
    found = {}
    for line in lines:
        if match := LINE.match(line):
            state, name, reason = match.groups()
            reasons = [word for start, word in WORDS.items() if (reason or "").startswith(start)]
            found[name] = reasons[0] if reasons else state
    return found


def split(name):
    """The row and the column group of a case: its test and its variant."""
    fixture, *variant, test = name.split(".")
    variant = variant[0] if variant else ""
    return f"{fixture}.{test}", variant.removeprefix(f"{fixture}_").removeprefix("device_")


def table(names, modules):
    """Head, rows and totals of the table, lists of words."""
    variants = list(dict.fromkeys(split(name)[1] for name in names))
    cells = {}
    for module, found in modules.items():
        for name in names:
            row, variant = split(name)
            cells.setdefault(row, {})[variant, module] = found.get(name, "did not run")
    columns = [(variant, module) for variant in variants for module in modules]
    head = ["case", *(f"{variant}: {module}".removeprefix(": ") for variant, module in columns)]
    rows = [[row, *(of_row.get(column, "") for column in columns)] for row, of_row in cells.items()]

    def count(word, column):
        return str(sum(row[1 + columns.index(column)] == word for row in rows))

    words = list(dict.fromkeys(word for row in rows for word in row[1:] if word))
    words = ["passed", *sorted(word for word in words if word != "passed")]
    totals = [[f"total {word}", *(count(word, column) for column in columns)] for word in words]
    return head, rows, totals


def show(head, rows, totals, markdown):
    if markdown:
        print("|", " | ".join(head), "|")
        print("|", " | ".join("---" for _ in head), "|")
        for row in rows + totals:
            print("|", " | ".join(row), "|")
        print()
        return
    widths = [max(len(row[i]) for row in [head, *rows, *totals]) for i in range(len(head))]
    for part in ([head], rows, totals):
        for row in part:
            print("  ".join(word.ljust(width) for word, width in zip(row, widths)).rstrip())
        print()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="+", metavar="NAME=RESULT")
    parser.add_argument("--list", required=True, help="names of all cases, one a line")
    parser.add_argument("--markdown", action="store_true", help="print a table of Markdown")
    args = parser.parse_args()

    with open(args.list, encoding="utf-8") as stream:
        names = stream.read().split()
    modules, complaints = {}, {}
    for argument in args.modules:
        module, path = argument.split("=", 1)
        with open(f"{path}.cases", encoding="utf-8") as stream:
            modules[module] = results(stream.read().splitlines())
        with open(f"{path}.complaints", encoding="utf-8") as stream:
            complaints[module] = int(stream.read())

    show(*table(names, modules), args.markdown)
    for module, found in modules.items():
        passed = sum(found.get(name) == "passed" for name in names)
        print(f"{module}: {passed} of {len(names)} cases passed, {complaints[module]} lines of complaint by the kernel")
    first = next(iter(modules))
    good = all(modules[first].get(name) == "passed" for name in names) and not complaints[first]
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
