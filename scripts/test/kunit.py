#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Run the KUnit suites of the kernel crates, on the debug kernel, or on the one in KDIR.

They run when the module is loaded, and report to the kernel log, which the
kernel's own parser (tools/testing/kunit) reads. KUnit compiles tests away
without a word when the kernel is not configured for them, so what ran is
compared with the #[test]s in the source. --list names those.
"""

import os
import pathlib
import re
import subprocess
import sys

sys.dont_write_bytecode = True

from ktap import Totals, compare  # noqa: E402

SCRIPTS = pathlib.Path(__file__).resolve().parents[1]
TOP = SCRIPTS.parent
LOG = TOP / "build/log"
KDIR = os.environ.get("KDIR")
KERNEL = "kdir" if KDIR else "debug"
CRATES = ["hmm", "emu", "dmirror"]
# Name and parameters of the kernel of each boot. Without memory cgroups no page is
# charged, which was once taken for its being in use.
BOOTS = [("kunit", ""), ("kunit-nocgroup", "cgroup_disable=memory")]

# -- What stands in the source -----------------------------------------------------

# What can hold braces or markers that mean nothing: comments and literals.
NOISE = re.compile(r'//[^\n]*|/\*.*?\*/|r(#*)".*?"\1|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])\'',
                   re.DOTALL)
SUITE = re.compile(r"#\[\s*(?:\w+::)*kunit_tests\(\s*(\w+)\s*\)\s*\]")
CASE = re.compile(r"#\[test\]\s*(?:#\[[^\]]*\]\s*)*(?:pub\s+)?(?:unsafe\s+)?fn\s+(\w+)")


def body(text, start):
    """The text from the first brace after `start` to the one that closes it."""
    depth = 0
    begin = text.index("{", start)
    for position in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[begin:position]
    raise ValueError("braces are not balanced")


def cases(text):
    """The cases in a Rust source, as SUITE.CASE."""
    text = NOISE.sub(" ", text)
    for suite in SUITE.finditer(text):
        names = CASE.findall(body(text, suite.end()))
        if not names:
            raise ValueError(f"suite {suite[1]} has no case")
        yield from (f"{suite[1]}.{name}" for name in names)


def cases_of_crates():
    found = []
    for path in sorted(path for crate in CRATES for path in (TOP / "rust" / crate).rglob("*.rs")):
        try:
            found += cases(path.read_text(encoding="utf-8"))
        except ValueError as error:
            sys.exit(f"{path}: {error}")
    twice = {name for name in found if found.count(name) > 1}
    if twice:
        sys.exit(f"more than one case is called {', '.join(sorted(twice))}")
    return found


# -- What ran ----------------------------------------------------------------------


def read(lines, kunit_parser):
    """The cases in a kernel log as (name, state, what was said of them), and what
    else is wrong, by the parser of the kernel."""
    problems = []

    class Printer:
        """Takes what the parser prints, of which only errors are wanted."""

        def print_with_timestamp(self, message):
            if message.startswith("[ERROR]"):
                problems.append(message.removeprefix("[ERROR] Test: ").splitlines()[0])

        def red(self, text):
            return text

        yellow = green = red

        def color_len(self):
            return 0

    status = kunit_parser.TestStatus
    states = {status.SUCCESS: "passed", status.SKIPPED: "skipped"}
    found = []

    def walk(test, path):
        for part in test.subtests:
            # A nameless one stands for what is missing, which is among the errors.
            name = ".".join([*path, part.name])
            if part.subtests:
                walk(part, [*path, part.name])
                if not part.ok_status() and all(case.ok_status() for case in part.subtests):
                    problems.append(f"{name}: failed, though no case of it did")
            elif part.name:
                said = [part.skip_reason] if part.skip_reason else [*map(str.strip, part.log)]
                found.append((name, states.get(part.status, "failed"), said))

    main = kunit_parser.parse_run_tests(lines, Printer())
    walk(main, [])
    if main.counts.errors and not problems:
        problems.append(f"{main.counts.errors} errors in what KUnit printed")
    return found, list(dict.fromkeys(problems))


def boot(name, append, expected, kunit_parser, totals):
    """Run the suites in a guest, and add what comes of them to the totals."""
    series = os.environ.get("SERIES")
    log = LOG / f"{name}-{KERNEL}{f'-{series}' if series else ''}.log"
    log.unlink(missing_ok=True)
    append = f"kunit.enable=1 kunit.autorun=1 {append} {os.environ.get('APPEND', '')}"
    settings = {"KERNEL": KERNEL, "MODULE": "dmirror", "NAME": name, "CMD": "true", "APPEND": append}
    guest = subprocess.run([SCRIPTS / "guest/guest.sh"], check=False, env={**os.environ, **settings})
    if guest.returncode == 125:
        sys.exit(125)
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    # Suites of the kernel's own run while it boots; ours, from this line on.
    _, _, ours = text.partition("dmirror: loading out-of-tree module")
    found, problems = read(ours.splitlines(), kunit_parser)
    for case in found:
        totals.add(*case)
    for problem in [*problems, *compare([name for name, _, _ in found], expected)]:
        totals.add(problem, "failed")
    if guest.returncode:
        said = []
        if guest.returncode == 120:
            complaints = subprocess.run([SCRIPTS / "guest/complaints.sh", log],
                                        check=False, stdout=subprocess.PIPE)
            said = complaints.stdout.decode(errors="replace").splitlines()[1:16]
        totals.add(f"the guest of {name} (status {guest.returncode}, see above)", "failed", said)


def kernel_source():
    """The folder of the kernel's source."""
    if KDIR:
        source = pathlib.Path(KDIR, "source")
        return source.resolve() if source.exists() else pathlib.Path(KDIR)
    stock = subprocess.run([SCRIPTS / "build/stock-kernel.sh"],
                           check=False, stdout=subprocess.PIPE, text=True)
    if stock.returncode:
        sys.exit(stock.returncode)
    return pathlib.Path(stock.stdout.strip(), "linux")


def main():
    expected = cases_of_crates()
    if sys.argv[1:] == ["--list"]:
        print("\n".join(expected))
        return 0
    if sys.argv[1:] not in ([], ["short"]):
        sys.exit("Usage: scripts/test/kunit.py [--list | short]")
    boots = BOOTS[:1] if sys.argv[1:] else BOOTS
    totals = Totals()
    if KDIR and "CONFIG_KUNIT=y" not in pathlib.Path(KDIR, ".config").read_text(encoding="utf-8").split("\n"):
        totals.add("the KUnit suites", "skipped", ["CONFIG_KUNIT is not =y in this kernel"])
        return totals.end()
    sys.path.insert(0, str(kernel_source() / "tools/testing/kunit"))
    import kunit_parser

    for name, append in boots:
        boot(name, append, expected, kunit_parser, totals)
    suites = len({name.split(".")[0] for name in expected})
    print(f"==> in the source: {suites} suites with {len(expected)} cases", file=sys.stderr)
    return totals.end()


if __name__ == "__main__":
    sys.exit(main())
