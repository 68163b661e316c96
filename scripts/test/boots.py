#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Run cases that a kernel may not survive: when one takes the kernel down, the
guest is booted again and goes on with those behind it.

Takes the names of the cases, one a line, and the settings of guest.sh from the
environment. CMD prints KTAP and, followed by SELECT and a name, for each of
several, runs those. Prints a line a case in the order of the list and then the
totals. Leaves in build/log, as NAME-KERNEL.*: cases (what was printed of them),
complaints (how many lines the kernels complained).

These count as failures, besides cases that say so themselves: a case that a
kernel did not survive, one without a result, one that is not in the list, one
that was skipped for a reason that --may-skip does not allow, and complaints.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys

sys.dont_write_bytecode = True

from ktap import Report, Totals  # noqa: E402

SCRIPTS = pathlib.Path(__file__).resolve().parents[1]
LOG = SCRIPTS.parent / "build/log"
# So many kernels may die before the rest of the cases is left alone.
MOST_DEATHS = int(os.environ.get("MOST_DEATHS") or 30)

DEATH = re.compile(r"(?:BUG: |Oops: |kernel BUG at |Kernel panic - ).*")
# Lines that say again what another one has said.
AGAIN = re.compile(r"Oops: (?:Oops|invalid opcode)|Kernel panic - not syncing: Fatal exception")
PLACE = re.compile(r"RIP: 0010:([a-zA-Z0-9_.]*)")
COMPLAINTS = re.compile(r"^--- (\d+) line\(s\) with a complaint$", re.MULTILINE)


class Results:
    """What became of the cases of a list."""

    def __init__(self, names):
        self.names = names
        self.died = {}
        self.seen = {}

    def read(self, lines):
        """The KTAP of another boot."""
        for name, state, said in Report().read(lines).cases:
            self.seen.setdefault(name, (state, said))

    def left(self):
        """The names that have no result yet."""
        return [name for name in self.names if name not in self.seen and name not in self.died]

    def cases(self, may_skip=""):
        """All cases as (name, state, what was said), `may_skip` a pattern for
        `NAME: REASON` of those that may be skipped."""
        for name in self.names:
            if name in self.died:
                yield f"{name}: {self.died[name]}", "failed", []
            elif name not in self.seen:
                yield f"{name}: did not run", "failed", []
            else:
                state, said = self.seen[name]
                state = "skipped" if state == "known" else state
                reason = said[-1] if said else "no reason"
                if state == "skipped" and not re.fullmatch(may_skip, f"{name}: {reason}"):
                    yield f"{name}: must not be skipped", "failed", [reason]
                else:
                    yield name, state, said
        for name in sorted(self.seen.keys() - set(self.names)):
            yield f"{name}: is not in the list of cases", "failed", []


def last_words(log):
    """What a kernel said when it died, and where."""
    words = [line for line in DEATH.findall(log) if not AGAIN.match(line)]
    places = PLACE.findall(log)
    return (words[-1] if words else "it said nothing") + (f", in {places[-1]}" if places else "")


def read_text(path):
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


class Boots:
    """The guests that run the cases of a list."""

    def __init__(self, names, select):
        self.results = Results(names)
        self.select = select
        self.name = os.environ["NAME"]
        # Logs have the name that built_for in scripts/lib/lib.sh makes.
        self.kernel = os.environ["KERNEL"] + os.environ.get("BUILT_FOR", "")
        self.guest = os.environ.get("GUEST") or "guest"
        self.command = os.environ["CMD"]
        self.boots = 0
        self.deaths = 0
        self.complaints = 0
        self.first_complaint = []
        self.status = 0
        self.started = True

    def file(self, what):
        return LOG / f"{self.name}-{self.kernel}.{what}"

    def complained(self, log):
        shown = subprocess.run([SCRIPTS / "guest/complaints.sh", log],
                               check=False, stdout=subprocess.PIPE)
        text = shown.stdout.decode(errors="replace")
        found = COMPLAINTS.findall(text)
        if found and not self.first_complaint:
            self.first_complaint = text.splitlines()[1:16]
        return int(found[-1]) if found else 0

    def boot(self, names):
        """Run cases in a guest. Returns whether others can follow in another one."""
        self.boots += 1
        name = f"{self.name}-{self.boots}"
        log, output = LOG / f"{name}-{self.kernel}.log", self.file(f"ktap-{self.boots}")
        log.unlink(missing_ok=True)
        command = self.command + "".join(f" {self.select}{case}" for case in names)
        with output.open("wb") as stream:
            self.status = subprocess.run([SCRIPTS / f"guest/{self.guest}.sh"], check=False, stdout=stream,
                                         env={**os.environ, "NAME": name, "CMD": command}).returncode
        said = read_text(log)
        self.started = "dmirror-guest: command starts" in said
        if not self.started:
            return False
        self.complaints += self.complained(log)
        self.results.read(read_text(output).splitlines())
        left = self.results.left()
        if left and "dmirror-guest: command exit" not in said:
            self.deaths += 1
            if self.status == 124:
                reason = "the guest hung in it"
            else:
                reason = f"the kernel died in it: {last_words(said)}"
            self.results.died[left[0]] = reason
            print(f"==> {left[0]}: {reason}", file=sys.stderr)
            return True
        return False

    def run(self, prefix, may_skip):
        """All of them. Returns the exit status."""
        LOG.mkdir(parents=True, exist_ok=True)
        for old in LOG.glob(f"{self.name}-{self.kernel}.ktap-*"):
            old.unlink()
        self.file("complaints").unlink(missing_ok=True)
        while (left := self.results.left()) and self.deaths < MOST_DEATHS and self.boot(left):
            pass
        with self.file("cases").open("w", encoding="utf-8") as stream:
            totals = Totals(prefix, stream)
            for case in self.results.cases(may_skip):
                totals.add(*case)
        print(read_text(self.file("cases")), end="")
        totals.file = None  # what follows is said of no case
        self.file("complaints").write_text(f"{self.complaints}\n", encoding="utf-8")
        if not self.started:
            totals.add("the guest did not get as far as the cases "
                       f"(status {self.status}, see above)", "failed")
        if self.complaints:
            totals.add(f"kernel: {self.complaints} lines of complaint in {self.boots} boots, "
                       f"of which {self.deaths} died ({LOG / self.name}-N-{self.kernel}.log)", "failed", self.first_complaint)
        elif self.started and (self.status > 1 or self.status == 1 and not totals.counts["failed"]):
            totals.add(f"the guest (status {self.status}, see above)", "failed")
        return totals.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("list", metavar="LIST", help="names of all cases, one a line")
    parser.add_argument("select", metavar="SELECT", help="what selects one, before its name")
    parser.add_argument("--prefix", default="", help="put before each case's name")
    parser.add_argument("--may-skip", default=".*", metavar="PATTERN",
                        help="`NAME: REASON` of cases that may be skipped (default: all)")
    args = parser.parse_args()
    names = pathlib.Path(args.list).read_text(encoding="utf-8").split()
    return Boots(names, args.select).run(args.prefix, args.may_skip)


if __name__ == "__main__":
    sys.exit(main())
