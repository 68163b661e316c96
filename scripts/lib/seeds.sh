# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# Programs that do something at random, sourced after cases.sh.

# run_seeds NAME COMMAND SEED... : run COMMAND in one guest, by its settings in the
# environment, once for each seed, which stands in it for the word SEED and may be
# `fresh`: the clock's. A seed behind the first one meets a module that was used;
# none runs after one that failed. A case for each, and one for the guest. Sets
# guest_status, and seeds_log, the kernel's.
run_seeds() {
	local what=$1 command=$2 nth output said seed seeds=()
	shift 2
	for seed; do
		[ "$seed" != fresh ] || seed=$(($(date +%s) + ${#seeds[@]}))
		[[ $seed =~ ^[0-9]+$ ]] || die "SEED=$seed" "A seed is a number."
		seeds+=("$seed")
	done
	CMD='' NAME=$what-${seeds[0]}
	for nth in "${!seeds[@]}"; do
		CMD+="${command//SEED/${seeds[nth]}} || exit; echo run $nth, seed ${seeds[nth]}: done; "
	done
	export CMD NAME
	mkdir -p "$BUILD/log"
	output=$BUILD/log/$NAME.out seeds_log=$BUILD/log/$NAME-$(built_for "$KERNEL").log guest_status=0
	rm -f "$output" "$seeds_log"
	"$SCRIPTS/guest/guest.sh" | tee "$output" >&2 || guest_status=${PIPESTATUS[0]}
	for nth in "${!seeds[@]}"; do
		seed=${seeds[nth]}
		if grep -qx "run $nth, seed $seed: done" "$output"; then
			passed "$KERNEL: $what, seed $seed"
		elif [ "$nth" -eq 0 ] || grep -qx "run $((nth - 1)), seed ${seeds[nth - 1]}: done" "$output"; then
			failed "$KERNEL: $what, seed $seed"
			# All of it is above; this is what it says of the failure.
			said=$(grep -aE '(seed [0-9]+[^:]*: |stuck|statistics of |in use: |warned)' "$output" | tail -n 4 || true)
			printf '%s\n' "${said:-$(tail -n 8 "$output")}" | sed 's/^/        /'
		else
			failed "$KERNEL: $what, seed $seed: did not run, because the one before has failed"
		fi
	done
	if [ "$guest_status" -eq 0 ]; then
		passed "$KERNEL: $what, the guest"
	else
		failed "$KERNEL: $what, the guest (status $guest_status, see above)"
		[ "$guest_status" -ne 120 ] || complaint "$seeds_log"
	fi
}
