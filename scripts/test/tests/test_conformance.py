#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Tests of hmm_cases.py, boots.py and compare.py: python3 scripts/test/tests/test_conformance.py"""

import pathlib
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "build"))

import compare  # noqa: E402
import hmm_cases  # noqa: E402
from boots import Results, last_words  # noqa: E402

LINE = "-" * 80
LIST = f"""\
# FIXTURE            VARIANT                   TEST
global                                         
{LINE}
dev                  dev_private               open_close
                     dev_coherent              migrate
                                               a_test_with_a_name_that_is_longer_than_most
{LINE}
plain                                          one
                                               two
"""

FIRST = """\
TAP version 13
1..4
# Starting 4 tests from 2 test cases.
#  RUN           dev.a.one ...
#            OK  dev.a.one
ok 1 dev.a.one
#  RUN           dev.a.two ...
# x.c:1:two:Expected 0 (0) == ret (-22)
#          FAIL  dev.a.two
not ok 2 dev.a.two
#  RUN           dev.b.one ...
"""
SECOND = """\
TAP version 13
1..1
ok 1 dev.b.two # SKIP could not find a driver
"""
NAMES = ["dev.a.one", "dev.a.two", "dev.b.one", "dev.b.two"]


def results(*outputs, died=()):
    found = Results(NAMES)
    for output in outputs:
        found.read(output.splitlines())
    found.died.update(died)
    return found


class HmmCases(unittest.TestCase):
    def test_every_variant_runs_every_test(self):
        tests = ["open_close", "migrate", "a_test_with_a_name_that_is_longer_than_most"]
        self.assertEqual(hmm_cases.cases(LIST), [
            *(f"dev.dev_private.{test}" for test in tests),
            *(f"dev.dev_coherent.{test}" for test in tests),
            "plain.one", "plain.two"])

    def test_something_else(self):
        for text in ("", "Usage: hmm-tests\n", LIST.splitlines()[0]):
            with self.assertRaises(ValueError):
                hmm_cases.cases(text)


class Boots(unittest.TestCase):
    def test_left_after_a_death(self):
        self.assertEqual(results(FIRST).left(), ["dev.b.one", "dev.b.two"])
        self.assertEqual(results(FIRST, died=[("dev.b.one", "why")]).left(), ["dev.b.two"])
        self.assertEqual(results(FIRST, SECOND, died=[("dev.b.one", "why")]).left(), [])

    def test_results_of_two_boots(self):
        found = list(results(FIRST, SECOND, died=[("dev.b.one", "the kernel died")]).cases(".*"))
        self.assertEqual([(name, state) for name, state, _ in found], [
            ("dev.a.one", "passed"), ("dev.a.two", "failed"),
            ("dev.b.one: the kernel died", "failed"), ("dev.b.two", "skipped")])
        self.assertIn("Expected 0", " ".join(found[1][2]))

    def test_case_that_did_not_run(self):
        found = list(results(FIRST).cases())
        self.assertEqual(found[2], ("dev.b.one: did not run", "failed", []))

    def test_case_that_is_not_listed(self):
        found = list(results(FIRST + "ok 3 dev.c.new\n").cases())
        self.assertEqual(found[-1][:2], ("dev.c.new: is not in the list of cases", "failed"))

    def test_what_may_be_skipped(self):
        for pattern, state in (("dev.b.two: could not find a driver", "skipped"),
                               ("dev.b.two: no memory", "failed"), ("", "failed")):
            found = list(results(SECOND).cases(pattern))
            self.assertEqual(found[-1][1], state, pattern)

    def test_last_words(self):
        log = ("[    5.1] BUG: kernel NULL pointer dereference, address: 0000000000000008\n"
               "[    5.1] Oops: Oops: 0000 [#1] SMP NOPTI\n"
               "[    5.1] RIP: 0010:migrate_vma_pages+0x1/0x2\n"
               "[    5.2] Kernel panic - not syncing: Fatal exception\n")
        self.assertEqual(last_words(log), "BUG: kernel NULL pointer dereference, address: 0000000000000008, "
                         "in migrate_vma_pages")
        self.assertEqual(last_words("[    5.1] reboot: Power down\n"), "it said nothing")


class Compare(unittest.TestCase):
    def test_words(self):
        found = compare.results([
            "passed  dev.a.one", "failed  dev.a.two", "        # x.c:1:two",
            "failed  dev.b.one: the kernel died in it: Oops: 0000",
            "failed  dev.b.two: must not be skipped", "2 passed, 2 failed, 0 skipped"])
        self.assertEqual(found, {"dev.a.one": "passed", "dev.a.two": "failed",
                                 "dev.b.one": "kernel died", "dev.b.two": "skipped"})

    def test_table(self):
        names = ["dev.dev_device_x.one", "dev.dev_device_x.two", "dev.dev_device_y.one", "dev.dev_device_y.two"]
        modules = {"m": dict.fromkeys(names, "passed"), "n": {names[0]: "failed"}}
        head, rows, totals = compare.table(names, modules)
        self.assertEqual(head, ["case", "x: m", "x: n", "y: m", "y: n"])
        self.assertEqual(rows[0], ["dev.one", "passed", "failed", "passed", "did not run"])
        self.assertEqual(rows[1], ["dev.two", "passed", "did not run", "passed", "did not run"])
        self.assertEqual(totals[0], ["total passed", "2", "0", "2", "0"])
        self.assertEqual(totals[-1], ["total failed", "0", "1", "0", "0"])


if __name__ == "__main__":
    unittest.main()
