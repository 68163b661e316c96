#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Random requests to the module, in a guest. Takes the settings of guest.sh, and
# DURATION, SEED and PROCS (see Documentation/using.md).
#
#   scripts/test/fuzz.sh [SEED|fresh]...      default: SEED, or fresh: the clock's;
#                                             one after the other, for DURATION each
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/cases.sh"
. "$SCRIPTS/lib/seeds.sh"

DURATION=${DURATION:-60} SEED=${SEED:-} PROCS=${PROCS:-3}
for name in DURATION PROCS; do
	[[ ${!name} =~ ^[1-9][0-9]*$ ]] || die "$name=${!name}" "$name is a number from 1 on."
done
[ $# -gt 0 ] || set -- "${SEED:-fresh}"

# How many lines the kernel may log while requests are sent: those of the guest.
MOST_LINES=20

# logged : fails if the kernel logged more than that during the command.
logged() {
	local lines
	lines=$(sed -n '/dmirror-guest: command starts/,/dmirror-guest: command exit/p' "$1" | wc -l)
	[ "$lines" -gt 0 ] && [ "$lines" -le "$MOST_LINES" ] && return
	echo "$lines lines in the kernel log (see $1)"
	return 1
}

# Small devices, so that they evict.
export KERNEL=${KERNEL:-debug} ARGS=${ARGS:-capacity=0x1000000}
export TIMEOUT=${TIMEOUT:-$((DURATION * 3 * $# + 600))}
run_seeds fuzz "dmirror-stress fuzz --seed SEED --seconds $DURATION --threads $PROCS" "$@"
# shellcheck disable=SC2154 # set by run_seeds
[[ $guest_status =~ ^(122|125)$ ]] || check "$KERNEL: fuzz, a short kernel log" logged "$seeds_log"
totals
