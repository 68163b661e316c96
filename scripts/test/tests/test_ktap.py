#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Tests of ktap.py: python3 scripts/test/tests/test_ktap.py"""

import io
import pathlib
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from ktap import Report, Totals  # noqa: E402

RUN = """\
KTAP version 1
1..3
ok 1 fork.keeps_data
something else
# x.rs:1: expected 4, found 5
not ok 2 fork.counts
ok 3 huge.maps # SKIP no huge pages
"""


def read(text):
    return Report().read(text.splitlines())


class Ktap(unittest.TestCase):
    def states(self, report):
        return [(name, state) for name, state, _ in report.cases]

    def test_output_of_a_program(self):
        report = read(RUN)
        self.assertEqual(self.states(report), [
            ("fork.keeps_data", "passed"), ("fork.counts", "failed"), ("huge.maps", "skipped")])
        self.assertEqual(report.problems, [])
        self.assertIn("expected 4", report.cases[1][2][0])
        self.assertEqual(report.cases[2][2], ["no huge pages"])

    def test_older_form(self):
        report = read("TAP version 13\n1..2\nok 1 - fork keeps data\n# note\nok 2 close # SKIP why\n")
        self.assertEqual(self.states(report), [("fork keeps data", "passed"), ("close", "skipped")])
        self.assertEqual(report.problems, [])

    def test_what_is_known_to_fail(self):
        report = read("KTAP version 1\n1..1\nok 1 a.b # XFAIL it frees it twice\n")
        self.assertEqual(report.cases, [("a.b", "known", ["it frees it twice"])])

    def test_short_plan(self):
        self.assertEqual(len(read("KTAP version 1\n1..3\nok 1 a\nok 2 b\n").problems), 1)

    def test_plan_without_results(self):
        self.assertEqual(len(read("KTAP version 1\n1..3\n").problems), 1)

    def test_no_plan(self):
        self.assertEqual(len(read("ok 1 a\n").problems), 1)

    def test_number_left_out(self):
        self.assertEqual(len(read("KTAP version 1\n1..2\nok 2 b\n").problems), 1)

    def test_two_runs_in_one_log(self):
        report = read(RUN + RUN)
        self.assertEqual(len(report.cases), 6)
        self.assertEqual(report.problems, [])

    def test_expected_cases(self):
        report = read(RUN)
        report.expect(["fork.keeps_data", "fork.counts", "fork.lends"])
        self.assertEqual(report.problems, ["fork.lends: did not run", "huge.maps: is not in the list of cases"])


class Counting(unittest.TestCase):
    def end(self, *states):
        text = io.StringIO()
        totals = Totals("stock: ", text)
        for state in states:
            totals.add("a.b", state, ["what was said", "why"])
        return totals.end(), text.getvalue().splitlines()

    def test_all_passed(self):
        self.assertEqual(self.end("passed"), (0, ["passed  stock: a.b", "1 passed, 0 failed, 0 skipped"]))

    def test_reasons(self):
        status, lines = self.end("failed", "known", "skipped")
        self.assertEqual(status, 1)
        self.assertEqual(lines[:3], ["failed  stock: a.b", "        what was said", "        why"])
        self.assertEqual(lines[3:5], ["known   stock: a.b", "        why"])
        self.assertEqual(lines[-1], "0 passed, 1 failed, 2 skipped")

    def test_nothing_ran(self):
        self.assertEqual(self.end()[0], 1)


if __name__ == "__main__":
    unittest.main()
