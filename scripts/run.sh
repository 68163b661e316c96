#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# From nothing to pages moving: prepare what is missing, boot the stock kernel
# in a guest, show the demo, run the selftest, and say how it went.
. "$(dirname "$0")/lib.sh"
. "$SCRIPTS/cases.sh"

start=$SECONDS
"$SCRIPTS/root.sh" >/dev/null
"$SCRIPTS/stock-kernel.sh" >/dev/null
note "building the module and the programs"
mkdir -p "$BUILD/log"
if ! { "$SCRIPTS/modules.sh" stock && "$SCRIPTS/samples.sh"; } >"$BUILD/log/build.log" 2>&1; then
	cat "$BUILD/log/build.log" >&2
	die "the module or the programs could not be built"
fi

note "booting Linux in a guest"
output=$BUILD/log/run
# One guest for both. The demo unloads the module; a mark stands between them.
# shellcheck disable=SC2016 # expanded in the guest
command='
	dmirror-demo
	demo=$?
	echo "=== demo exit $demo"
	grep -q "^dmirror " /proc/modules || load-module || exit
	dmirror-selftest
	echo "=== selftest exit $?"
'
status=0
# What tee hides from the guest: whether this is a terminal.
[ ! -t 1 ] || export GUEST_TERM=${TERM:-dumb}
KERNEL=stock MODULE=dmirror NAME=run CMD=$command "$SCRIPTS/guest.sh" | tee "$output.out" | sed -u '/^=== /d' || status=${PIPESTATUS[0]}

demo=$(sed -n 's/^=== demo exit //p' "$output.out")
selftest=$(sed -n 's/^=== selftest exit //p' "$output.out")
sed '1,/^=== demo exit/d; /^=== selftest exit/,$d' "$output.out" >"$output.ktap"
in_root "$SCRIPTS/ktap.py" "$output.ktap" >"$output.cases" || true
add_totals "$output.cases" || failed "the results could not be read"

echo
if [ "$demo" = 0 ]; then
	echo "demo:      every page and every byte was where it should be"
else
	echo "demo:      FAILED (${demo:+exit status }${demo:-it did not end})"
fi
echo "selftest:  $(tail -n1 "$output.cases")"
grep '^failed' "$output.cases" | sed 's/^/           /' || true
[ "$status" -eq 120 ] && echo "kernel:    COMPLAINED, see above" || echo "kernel:    log in $BUILD/log/run-stock.log"
echo "time:      $((SECONDS - start)) s"
if [ "$status" -ne 0 ] || [ "$demo" != 0 ] || [ "$selftest" != 0 ] || [ "$FAILED" -gt 0 ]; then
	echo "make run failed" >&2
	exit 1
fi
