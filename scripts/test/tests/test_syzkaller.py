#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The description of the ABI for syzkaller: it has each command of rust/uapi by
its number, its structs have the members of those of the header, and each line is
one of the forms that syzkaller reads. syzkaller itself is in no Debian."""

import re
import unittest
from pathlib import Path

TOP = Path(__file__).resolve().parents[3]
HEADER = "".join(
    (TOP / "rust/uapi" / name).read_text(encoding="utf-8") for name in ("dmirror.h", "dmirror_queue.h")
)
DESCRIPTION = (TOP / "Documentation/syzkaller/dev_dmirror.txt").read_text(encoding="utf-8")

NAME = r"[a-zA-Z_][a-zA-Z0-9_]*"
# A type and its arguments, which can be types, numbers, ranges and strings.
TYPE = rf"(?:{NAME}(?:\[[^\n]*\])?)"
FIELD = rf"{NAME} {TYPE}"
LINES = [re.compile(form) for form in (
    r"", r"#.*",
    rf"resource {NAME}\[{NAME}\]",
    rf"{NAME}(?:\${NAME})?\({FIELD}(?:, {FIELD})*\)(?: {NAME})?",
    rf"{NAME} = 0x[0-9a-f]+(?:, 0x[0-9a-f]+)*",
    rf"{NAME} {{", rf"\t{NAME}\t{TYPE}(?:\t\((?:in|out|inout)\))?", r"}(?: \[align\[[0-9]+\]\])?",
)]


# What each struct of the header has: types and names of its members.
STRUCTS = {name: re.findall(r"\t__([us]\d+) (\w+)(?:\[(\d+)\])?;", body)
           for name, body in re.findall(r"^struct (\w+) {\n(.*?)^};", HEADER, re.MULTILINE | re.DOTALL)}


def number(nr, struct):
    """_IOWR('H', nr, struct)."""
    size = sum(int(kind[1:]) // 8 * int(count or 1) for kind, _, count in STRUCTS[struct])
    return 3 << 30 | size << 16 | ord("H") << 8 | nr


class Syzkaller(unittest.TestCase):
    def test_each_line_is_of_a_form_that_is_known(self):
        for line in DESCRIPTION.splitlines():
            self.assertTrue(any(form.fullmatch(line) for form in LINES), line)
            self.assertEqual(line.count("["), line.count("]"), line)
            self.assertEqual(line.count("("), line.count(")"), line)

    def test_commands_are_those_of_the_header(self):
        numbers = {name: int(nr, 16) for name, nr in
                   re.findall(r"#define DMIRROR_NR_(\w+)\s+(0x[0-9a-f]+)", HEADER)}
        structs = dict(re.findall(r"_IOWR\(DMIRROR_IOC_MAGIC, DMIRROR_NR_(\w+), struct (\w+)\)", HEADER))
        described = {name: int(value, 16) for name, value in
                     re.findall(r"ioctl\$DMIRROR_(\w+)\(.*const\[(0x[0-9a-f]+)\]", DESCRIPTION)}
        self.assertEqual(len(numbers), 18)
        self.assertEqual(described, {name: number(nr, structs[name]) for name, nr in numbers.items()})

    def test_structs_have_the_fields_of_the_header(self):
        structs = re.findall(rf"^({NAME}) {{\n(.*?)^}}", DESCRIPTION, re.MULTILINE | re.DOTALL)
        self.assertEqual(set(STRUCTS) - {name for name, _ in structs}, {"dmirror_cmd"})
        for name, body in structs:
            # Some describe struct dmirror_cmd as one command uses it.
            fields = [field for _, field, _ in STRUCTS.get(name, STRUCTS["dmirror_cmd"])]
            self.assertEqual(re.findall(r"^\t(\w+)\t", body, re.MULTILINE), fields, name)

    def test_what_is_named_is_there(self):
        for name in re.findall(r"\b(dmirror_\w+|fd_dmirror)\b", DESCRIPTION):
            self.assertRegex(DESCRIPTION, rf"(?m)^({name} [{{=]|resource {name}\[)")


if __name__ == "__main__":
    unittest.main()
