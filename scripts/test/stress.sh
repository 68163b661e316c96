#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Random programs against the module, in a guest, compared with an oracle: one
# process alone, without and with swap, then several at once, for a third of
# DURATION each. Takes the settings of guest.sh, and DURATION, SEED, PROCS and OPS
# (see Documentation/using.md).
#
#   scripts/test/stress.sh [coherent] [SEED|fresh]...
#                 default: SEED, or fresh: the clock's; one after the other, for DURATION
#                 each. coherent: the module has two coherent devices as well
#
# `dmirror-stress replay FILE` runs what it prints when a program fails.
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/cases.sh"
. "$SCRIPTS/lib/seeds.sh"
. "$SCRIPTS/lib/kdir.sh"

DURATION=${DURATION:-60} SEED=${SEED:-} PROCS=${PROCS:-3} OPS=${OPS:-200}
for name in DURATION PROCS OPS; do
	[[ ${!name} =~ ^[1-9][0-9]*$ ]] || die "$name=${!name}" "$name is a number from 1 on."
done
# Small devices, so that they evict.
small=capacity=0x1000000
if [ "${1:-}" = coherent ]; then
	shift
	export "${COHERENT_DEVICES[@]}"
	ARGS+=" $small"
fi
[ $# -gt 0 ] || set -- "${SEED:-fresh}"
export KERNEL=${KERNEL:-debug} ARGS=${ARGS:-$small}
export TIMEOUT=${TIMEOUT:-$((DURATION * 3 * $# + 600))}
run="dmirror-stress run --seed SEED --ops $OPS --seconds $(((DURATION + 2) / 3))"
disk='{ [ -b /dev/ram0 ] || modprobe -q brd rd_nr=1 rd_size=32768; }'
swap="echo 'with swap:' && $disk && $run --swap"
# A kernel of the user's own need not have a ram disk.
if [ "$KERNEL" = kdir ] && [ "$(kdir_option BLK_DEV_RAM)" != y ] && [ ! -e "$KDIR/drivers/block/brd.ko" ]; then
	swap=true
	skipped "$KERNEL: stress, with swap"
	echo "        the kernel has no ram disk: neither CONFIG_BLK_DEV_RAM=y nor its module"
fi
run_seeds stress "$run && $swap && echo 'several:' && $run --procs $PROCS" "$@"
totals
