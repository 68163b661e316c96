# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# Programs that do something at random, sourced after cases.sh.

# run_seeds NAME COMMAND SEED... : run COMMAND in one guest, by its settings in the
# environment, once for each seed, which stands in it for the word SEED and may be
# `fresh`: the clock's. A case for each, and one for the kernel, whose log is
# build/log/NAME-KERNEL.log.
run_seeds() {
	local name=$1 command=$2 output=$BUILD/log/$1.out seed status=0 seeds=()
	shift 2
	mkdir -p "$BUILD/log"
	CMD=
	for seed; do
		[ "$seed" != fresh ] || seed=$(date +%s)
		[[ $seed =~ ^[0-9]+$ ]] || die "SEED=$seed" "A seed is a number."
		seeds+=("$seed")
		CMD+="${command//SEED/$seed}; echo seed $seed: exit \$?; "
	done
	export CMD NAME=$name
	"$SCRIPTS/guest.sh" | tee "$output" >&2 || status=${PIPESTATUS[0]}
	for seed in "${seeds[@]}"; do
		check "$KERNEL: $name, seed $seed" ended_well "$seed" "$output"
	done
	if [ "$status" -eq 0 ]; then
		passed "$KERNEL: $name, the guest"
	else
		failed "$KERNEL: $name, the guest (status $status, see above)"
	fi
}

ended_well() {
	! grep -qx "seed $1: exit 0" "$2" || return 0
	tail -n 20 "$2"
	return 1
}
