#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# From nothing to pages moving: prepare what is missing, boot the stock kernel (or KDIR)
# in a guest, show the demo and a few cases of each theme of the selftest, and
# say how it went.
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/cases.sh"

# fail WHAT LOG : says that WHAT has failed. On a series that this tree was not tested on, somebody has to
# see to it once: what helps to begin with that.
fail() {
	local series errors release=
	[ "$kernel" = stock ] && series=$("$SCRIPTS/build/series.sh" 2>/dev/null) || series=${KERNEL_SERIES[-1]}
	[[ " ${KERNEL_SERIES[*]} " != *" $series "* ]] || die "$1"
	mapfile -t errors < <(grep -E '^error|^ERROR|^[^ ]*: error:|^ *--> |\*\*\* .*Stop\.' "$2" 2>/dev/null | sed "s|$TOP/||" | head -n40)
	release=$(cat "$CACHE"/stock-*/build/include/config/kernel.release 2>/dev/null | grep "^${series//./\\.}" | head -n1) || true
	die "$1: this tree was not tested on Linux $series" \
		"Documentation/series.md says what to do. If you report this, please say:" \
		"commit $(git -C "$TOP" rev-parse --short HEAD 2>/dev/null || echo unknown), \
kernel ${release:-$series}, $(in_root rustc --version)" \
		"${errors[@]}"
}

start=$SECONDS
mkdir -p "$BUILD/log"
"$SCRIPTS/build/root.sh" >/dev/null
kernel=${KDIR:+kdir} kernel=${kernel:-stock}
[ "$kernel" != stock ] || "$SCRIPTS/build/stock-kernel.sh" >/dev/null ||
	fail "the kernel could not be prepared" "$(find "$CACHE/log" -name 'Preparing-the-stock-kernel-*' -printf '%T@ %p\n' | sort -n | tail -n1 | cut -d' ' -f2)"
"$SCRIPTS/build/crates.sh" release >/dev/null
note "building the module and the programs (usually 5 seconds; 1 to 3 minutes in a new checkout)"
log=$BUILD/log/build.log
build() { "$SCRIPTS/build/modules.sh" "$kernel" >&2 && programs=$("$SCRIPTS/build/samples.sh"); }
if ! build 2>"$log"; then
	cat "$log" >&2
	fail "the module or the programs could not be built" "$log"
fi
built=$SECONDS

note "booting Linux in a guest"
output=$BUILD/log/run
# One guest for both. The demo unloads the module; marks stand between what people
# see, and what is for the log comes last.
# shellcheck disable=SC2016 # expanded in the guest
command='
	dmirror-demo
	echo "=== demo exit $?"
	grep -q "^dmirror " /proc/modules || load-module || exit
	echo
	dmirror-selftest --quick --ktap-file /tmp/ktap
	echo "=== selftest exit $?"
	cat /tmp/ktap
'
status=0
# What tee hides from the guest: whether this is a terminal.
[ ! -t 1 ] || export GUEST_TERM=${TERM:-dumb}
env "${COHERENT_DEVICES[@]}" KERNEL="$kernel" MODULE=dmirror BUILT=1 NAME=run CMD="$command" \
	"$SCRIPTS/guest/guest.sh" | tee "$output.out" | sed -u '/^=== selftest exit/,$d; /^=== /d' ||
	status=${PIPESTATUS[0]}

demo=$(sed -n 's/^=== demo exit //p' "$output.out")
selftest=$(sed -n 's/^=== selftest exit //p' "$output.out")
log=$BUILD/log/run-$(built_for "$kernel").log
booted=$(sed -n 's/^\[ *\([0-9]*\)\..*dmirror-guest: command starts$/\1/p' "$log")
sed '1,/^=== selftest exit/d' "$output.out" >"$output.ktap"
run_program "$programs/dmirror-selftest" --quick --list >"$output.list"
if [ -n "$selftest" ]; then
	"$SCRIPTS/test/ktap.py" --expect "$output.list" "$output.ktap" >"$output.cases" || true
	add_totals "$output.cases" || FAILED=1
fi

echo
if [ "$demo" = 0 ]; then
	echo "demo:      every page and every byte was where it should be"
else
	echo "demo:      FAILED (${demo:+exit status }${demo:-it did not end})"
fi
if [ "$selftest" = 0 ] && [ "$FAILED" -eq 0 ]; then
	echo "selftest:  $PASSED passed, $SKIPPED skipped: a few cases of each theme"
elif [ -n "$selftest" ]; then
	echo "selftest:  FAILED"
	grep '^failed' "$output.cases" | sed 's/^/           /' || true
else
	echo "selftest:  FAILED (it did not end)"
fi
if [ "$status" -eq 120 ]; then
	echo "kernel:    COMPLAINED, see above"
else
	echo "kernel:    no complaint; its log is $log"
fi
parts="$((built - start)) s to build, ${booted:-?} s to boot"
echo "time:      $((SECONDS - start)) s, of which $parts"
all=$(run_program "$programs/dmirror-selftest" --list | wc -l)
echo "the rest:  make selftest ($all cases), make test (every test)"
if [ "$status" -ne 0 ] || [ "$demo" != 0 ] || [ "$selftest" != 0 ] || [ "$FAILED" -gt 0 ]; then
	echo "make run failed" >&2
	exit 1
fi
