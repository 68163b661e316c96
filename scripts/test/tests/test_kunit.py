#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Tests of kunit.py, with the stock kernel's parser: python3 scripts/test/tests/test_kunit.py"""

import pathlib
import subprocess
import sys
import unittest

sys.dont_write_bytecode = True
SCRIPTS = pathlib.Path(__file__).resolve().parents[2]
STOCK = subprocess.run([SCRIPTS / "build/stock-kernel.sh"],
                       check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
sys.path[:0] = [str(SCRIPTS / "test"), f"{STOCK}/linux/tools/testing/kunit"]

import kunit  # noqa: E402
import kunit_parser  # noqa: E402

KUNIT = """\
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
    return kunit.read(text.splitlines(), kunit_parser)


class Log(unittest.TestCase):
    def test_suites(self):
        found, problems = read(KUNIT)
        self.assertEqual([(name, state) for name, state, _ in found], [
            ("pool.takes", "passed"), ("pool.gives", "failed"), ("table.maps", "skipped")])
        self.assertEqual(problems, [])
        self.assertIn("EXPECTATION", " ".join(found[1][2]))
        self.assertEqual(found[2][2], ["no huge pages"])

    def test_nothing(self):
        for text in ("", "[    5.1] dmirror: loaded\n"):
            found, problems = read(text)
            self.assertEqual((found, len(problems)), ([], 1))

    def test_cut_off(self):
        for end in ("[    5.3] ok 2 table", "[    5.3]     ok 1 maps", "[    5.3]     # Subtest: table"):
            found, problems = read(KUNIT[:KUNIT.index(end)])
            self.assertEqual(found[0][:2], ("pool.takes", "passed"))
            self.assertTrue(problems, end)

    def test_short_plan_of_a_suite(self):
        self.assertTrue(read(KUNIT.replace("    1..1", "    1..2"))[1])

    def test_suite_fails_by_itself(self):
        found, problems = read(KUNIT.replace("ok 2 table", "not ok 2 table"))
        self.assertEqual(problems, ["table: failed, though no case of it did"])

    def test_number_left_out(self):
        self.assertEqual(len(read(KUNIT.replace("ok 1 maps", "ok 2 maps"))[1]), 1)


class Source(unittest.TestCase):
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
        self.assertEqual(list(kunit.cases(text)), ["pool.takes", "pool.gives", "table.maps"])

    def test_empty_suite(self):
        with self.assertRaises(ValueError):
            list(kunit.cases("#[kunit_tests(pool)] mod tests { }"))


if __name__ == "__main__":
    unittest.main()
