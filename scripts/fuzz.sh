#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Random requests to the module, in a guest. Takes the settings of guest.sh, and
#
#   DURATION=60   seconds
#   SEED=…        where the random numbers begin; otherwise the clock says
#   PROCS=3       threads that send them
#
#   scripts/fuzz.sh [SEED|fresh]...      default: SEED, or fresh: the clock's
. "$(dirname "$0")/lib.sh"
. "$SCRIPTS/cases.sh"

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
export TIMEOUT=${TIMEOUT:-$((DURATION * 3 + 600))}
for seed; do
	[ "$seed" != fresh ] || seed=$(date +%s)
	[[ $seed =~ ^[0-9]+$ ]] || die "SEED=$seed" "A seed is a number."
	export NAME=fuzz-$seed
	export CMD="dmirror-stress fuzz --seed $seed --seconds $DURATION --threads $PROCS"
	status=0
	"$SCRIPTS/guest.sh" >&2 || status=$?
	name="$KERNEL: fuzz, seed $seed"
	if [ "$status" -eq 0 ]; then passed "$name"; else failed "$name (status $status, see above)"; fi
	[[ ! $status =~ ^(122|125)$ ]] || continue
	check "$KERNEL: fuzz, seed $seed: a short kernel log" logged "$BUILD/log/$NAME-$KERNEL.log"
done
totals
