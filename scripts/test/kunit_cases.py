#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""List the KUnit cases of Rust sources as SUITE.CASE, one a line.

KUnit compiles tests away without a word when the kernel is not configured
for them, so what ran is compared with this list.
"""

import pathlib
import re
import sys

# What can hold braces or markers that mean nothing: comments and literals.
NOISE = re.compile(r'//[^\n]*|/\*.*?\*/|r(#*)".*?"\1|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])\'', re.DOTALL)
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
    text = NOISE.sub(" ", text)
    for suite in SUITE.finditer(text):
        names = CASE.findall(body(text, suite.end()))
        if not names:
            raise ValueError(f"suite {suite[1]} has no case")
        yield from (f"{suite[1]}.{name}" for name in names)


def main():
    found = []
    for folder in sys.argv[1:]:
        for path in sorted(pathlib.Path(folder).rglob("*.rs")):
            try:
                found += cases(path.read_text(encoding="utf-8"))
            except ValueError as error:
                sys.exit(f"{path}: {error}")
    twice = {name for name in found if found.count(name) > 1}
    if twice:
        sys.exit(f"more than one case is called {', '.join(sorted(twice))}")
    print("\n".join(found))


if __name__ == "__main__":
    main()
