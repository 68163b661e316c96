#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Tests of ktap.py and kunit_cases.py: python3 scripts/test/tests/test_ktap.py"""

import pathlib
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import kunit_cases  # noqa: E402
from ktap import Report  # noqa: E402

KUNIT = """\
[    5.1] dmirror: loading out-of-tree module taints kernel.
[    5.2] KTAP version 1
[    5.2] 1..2
[    5.2]     KTAP version 1
[    5.2]     # Subtest: pool
[    5.2]     # module: dmirror
[    5.2]     1..2
[    5.2]     ok 1 takes
[    5.3] something else of the kernel
[    5.3]     # gives: EXPECTATION FAILED at x.rs:1
[    5.3]     not ok 2 gives
[    5.3] # pool: pass:1 fail:1 skip:0 total:2
[    5.3] not ok 1 pool
[    5.3]     KTAP version 1
[    5.3]     # Subtest: table
[    5.3]     1..1
[    5.3]     ok 1 maps # SKIP no huge pages
[    5.3] ok 2 table
"""


def read(text):
    return Report().read(text.splitlines())


class Ktap(unittest.TestCase):
    def states(self, report):
        return [(name, state) for name, state, _ in report.cases]

    def test_kernel_log_with_suites(self):
        report = read(KUNIT)
        self.assertEqual(self.states(report), [
            ("pool.takes", "passed"), ("pool.gives", "failed"), ("table.maps", "skipped")])
        self.assertEqual(report.problems, [])
        self.assertIn("EXPECTATION", report.cases[1][2][0])

    def test_flat_output_of_a_program(self):
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

    def test_suite_cut_off(self):
        cut = KUNIT[:KUNIT.index("[    5.3] ok 2 table")]
        self.assertEqual(len(read(cut).problems), 2)  # no result, and a short plan
        cut = KUNIT[:KUNIT.index("[    5.3]     ok 1 maps")]
        self.assertEqual(len(read(cut).problems), 2)

    def test_short_plan_of_a_suite(self):
        self.assertEqual(len(read(KUNIT.replace("    1..1", "    1..2")).problems), 1)

    def test_suite_fails_by_itself(self):
        self.assertEqual(len(read(KUNIT.replace("ok 2 table", "not ok 2 table")).problems), 1)

    def test_two_runs_in_one_log(self):
        report = read(KUNIT + KUNIT)
        self.assertEqual(len(report.cases), 6)
        self.assertEqual(report.problems, [])

    def test_expected_cases(self):
        report = read(KUNIT)
        report.expect(["pool.takes", "pool.gives", "pool.lends"])
        self.assertEqual(len(report.problems), 2)  # lends is missing, maps is not listed


class KunitCases(unittest.TestCase):
    def test_suites_and_cases(self):
        text = '''
            // #[kunit_tests(not_this)]
            #[kunit_tests(pool)]
            mod tests {
                #[test]
                fn takes() -> Result { let _ = "}"; Ok(()) }
                fn no_case() {}
                /// With a comment.
                #[test]
                #[expect(clippy::all)]
                fn gives() { if true { } }
            }
            #[test]
            fn of_the_host() {}
            #[macros::kunit_tests(table)] mod t { #[test] fn maps() {} }
        '''
        self.assertEqual(list(kunit_cases.cases(text)), ["pool.takes", "pool.gives", "table.maps"])

    def test_empty_suite(self):
        with self.assertRaises(ValueError):
            list(kunit_cases.cases("#[kunit_tests(pool)] mod tests { }"))


if __name__ == "__main__":
    unittest.main()
