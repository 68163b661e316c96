#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Run upstream's suite on our module and on upstream's own, on the debug kernel
or another KERNEL, and print the results side by side.

A test is a row; each variant has a column a module. Exits with 1 unless our
module passed every case without a complaint of the kernel.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys

SCRIPTS = pathlib.Path(__file__).resolve().parents[1]
LOG = SCRIPTS.parent / "build/log"
MODULES = ["dmirror", "test_hmm"]

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


def conformance(module, kernel, reuse):
    """What became of each case on a module, and how many lines the kernels
    complained; from the last run where that shall do."""
    result = LOG / f"conformance-{module}-{kernel}"
    complaints = result.with_name(f"{result.name}.complaints")
    if not reuse or not complaints.exists():
        print(f"==> conformance of {module}", file=sys.stderr)
        complaints.unlink(missing_ok=True)
        # What fails shows in the table.
        subprocess.run([SCRIPTS / "test/conformance.sh"], check=False, stdout=sys.stderr,
                       env={**os.environ, "MODULE": module, "KERNEL": kernel})
        if not complaints.exists():
            sys.exit(f"compare.py: error: there are no results of {module}")
    lines = result.with_name(f"{result.name}.cases").read_text(encoding="utf-8").splitlines()
    return results(lines), int(complaints.read_text(encoding="utf-8"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--reuse", action="store_true",
                        help="take the results of the last runs where there are any")
    parser.add_argument("--markdown", action="store_true", help="print a table for a document")
    args = parser.parse_args()

    suite = subprocess.run([SCRIPTS / "build/hmm-tests.sh"],
                           check=False, stdout=subprocess.PIPE, text=True)
    if suite.returncode:
        return suite.returncode
    names = (pathlib.Path(suite.stdout.strip()) / "cases").read_text(encoding="utf-8").split()
    kernel = os.environ.get("KERNEL") or "debug"
    found, complaints = {}, {}
    for module in MODULES:
        found[module], complaints[module] = conformance(module, kernel, args.reuse)

    show(*table(names, found), args.markdown)
    for module in MODULES:
        passed = sum(found[module].get(name) == "passed" for name in names)
        print(f"{module}: {passed} of {len(names)} cases passed, "
              f"{complaints[module]} lines of complaint by the kernel")
    ours = MODULES[0]
    good = all(found[ours].get(name) == "passed" for name in names) and not complaints[ours]
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
