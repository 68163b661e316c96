#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Each bug of planted.py still fits the source: python3 scripts/test/tests/test_planted.py"""

import pathlib
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from planted import BUGS, TOP, Bug, changed  # noqa: E402


class Planted(unittest.TestCase):
    def test_what_a_bug_replaces_is_there_once(self):
        for bug in BUGS:
            with self.subTest(bug.name):
                text = (TOP / bug.file).read_text(encoding="utf-8")
                self.assertNotEqual(changed(bug, text), text)

    def test_names_are_unique(self):
        self.assertEqual(len({bug.name for bug in BUGS}), len(BUGS))

    def test_a_bug_that_does_not_fit(self):
        for text in ("", "a a"):
            with self.assertRaises(ValueError):
                changed(Bug("name", "about", "file", "a", "b", "kunit"), text)


if __name__ == "__main__":
    unittest.main()
