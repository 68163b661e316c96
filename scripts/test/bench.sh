#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Measure our module and upstream's test_hmm with dmirror-bench, on the stock
# kernel, and compare them. Results (JSON) and pictures (SVG, PNG) go to
# build/bench; the table of ratios is the last thing printed.
#
#   scripts/test/bench.sh         all: in guests that count instructions (CPUS=1
#                                 CLOCK=instructions), and by the clock (CPUS=2)
#   scripts/test/bench.sh quick   the part of make test: few operations on little
#                                 memory, in instructions; fails where a ratio is above
#                                 its limit in samples/dmirror-bench/limits.toml
#   scripts/test/bench.sh policy  no guest: a simulation of the presets, with all
#                                 evictions or what options of dmirror-bench policy say
#
# Nothing judges a time of the clock. KERNEL=debug measures another kernel.
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/cases.sh"

out=$BUILD/bench
mkdir -p "$out"
export KERNEL=${KERNEL:-stock}

# More than the largest memory that is measured, so that all of it fits; and little,
# for what happens when it does not.
large=capacity=0x50000000 little=capacity=0x4000000

# on_host COMMAND ARGUMENT... : the program on this host, where it can draw.
on_host() {
	with_crates release cargo run --quiet --release --locked \
		--manifest-path "$TOP/samples/Cargo.toml" -p dmirror-bench --features plot -j "$JOBS" -- "$@"
}

# measure MODULE CLOCK FILE COMMAND : run COMMAND in a guest, in which bench GROUPS
# [OPTION...] measures and the results end up in FILE. What is said meanwhile goes
# to standard error.
measure() {
	local module=$1 clock=$2 file=$3 cpus=2 status=0 text
	[ "$clock" != instructions ] || cpus=1
	# shellcheck disable=SC2016 # expanded in the guest
	text='
		bench() {
			files="$files /tmp/$1.json"
			groups=$1
			shift
			dmirror-bench run --clock '$clock' --groups "$groups" --json "/tmp/$groups.json" "$@" || exit
		}
		'$4'
		dmirror-bench join --json /tmp/all.json $files || exit
		echo "=== results"
		cat /tmp/all.json
	'
	note "$module, by $clock"
	rm -f "$file"
	MODULE=$module CPUS=$cpus CLOCK=$clock NAME=bench-$module-$clock CMD=$text \
		TIMEOUT=${TIMEOUT:-5400} "$SCRIPTS/guest/guest.sh" | tee "$file.out" |
		sed -u '/^=== results/,$d' >&2 || status=${PIPESTATUS[0]}
	sed '1,/^=== results/d' "$file.out" >"$file"
	# 120: the kernel complained, which guest.sh has shown. Of upstream's module that
	# is no news.
	[ "$status" -eq 0 ] || { [ "$status" -eq 120 ] && [ "$module" = test_hmm ]; } || return "$status"
	[ -s "$file" ]
}

# everything MODULE CLOCK : all that is measured by a clock.
everything() {
	local command args=$large
	if [ "$2" = instructions ]; then
		command='bench ops,one-page,sizes,window'
	else
		command='bench ops,one-page,threads --rounds 9'
	fi
	# A device that never gets full has no module parameter for that.
	[ "$1" = dmirror ] && command+="; rmmod dmirror; load-module dmirror $little" || args=
	if [ "$2" = instructions ]; then command+='; bench oversubscribed'; fi
	ARGS=$args measure "$1" "$2" "$out/$1-$2.json" "$command"
}

quick() {
	local module command='bench ops,one-page --size 8 --rounds 2'
	for module in dmirror test_hmm; do
		measure "$module" instructions "$out/quick-$module.json" "$command" || {
			failed "$module could not be measured"
			totals
			return
		}
	done
	run_program "$("$SCRIPTS/build/samples.sh")/dmirror-bench" check --limits "$TOP/samples/dmirror-bench/limits.toml" \
		"$out"/quick-{dmirror,test_hmm}.json
}

case ${1:-} in
policy)
	shift
	[ $# -gt 0 ] || set -- --evictions lru,fifo,random
	on_host policy --json "$out/policy.json" --plot "$out" "$@"
	exit
	;;
quick)
	quick
	exit
	;;
'') ;;
*) die "there is no '$1'" "Usage: scripts/test/bench.sh [quick | policy [OPTION...]]" ;;
esac

for module in dmirror test_hmm; do
	for clock in instructions host; do
		everything "$module" "$clock" || die "$module could not be measured by $clock (status $?)"
	done
	on_host join --json "$out/$module.json" "$out/$module"-{instructions,host}.json
done
on_host plot "$out"/{dmirror,test_hmm}.json --out "$out"
on_host table "$out"/{dmirror,test_hmm}.json
