#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# All of the tests, part by part, whatever other parts came to. Ends with
# `N passed, N failed, N skipped`, summed over all parts.
#
#   scripts/test/test.sh [--soak | --report [all]] [PART...]    default: all; --list names them
#
# --report: what report.sh shows of KDIR; with `all` whatever a guest can run on it.
#
# With KDIR in the environment: what runs in a guest, on that kernel; what the kernel
# lacks skips, with its reason. With ARCH of another machine: what runs in a guest.
#
# --soak: what takes hours instead. Stress and fuzz go on for DURATION seconds,
# by default an hour each.
#
# LANES parts run at a time (default: 2): a guest keeps little more than one
# processor busy. What a part says is shown when it has ended.
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/cases.sh"
. "$SCRIPTS/lib/kdir.sh"

LANES=${LANES:-2}
[[ $LANES =~ ^[1-9][0-9]*$ ]] || die "LANES=$LANES is no number of lanes"

# Name and command of each part. Those that build come first, then the longest.
# The seeds are always the same ones: whoever runs this did not come to find new bugs.
parts=(
	"lint:test/lint.sh"
	"doc:build/doc.sh"
	"host:test/host-tests.sh"
	"compile-fail:test/compile-fail.sh"
	"selftest-debug:test/selftest.sh short"
	"conformance:test/conformance.sh short"
	"selftest-stock:test/selftest.sh stock"
	"kunit:test/kunit.py short"
	"stress:test/stress.sh 1 2"
	"fuzz:test/fuzz.sh 1 2"
	"matrix:test/matrix.sh quick"
	"kernels:test/kernels.sh"
	"guest-stock:test/guest-checks.sh stock"
	"ivshmem:test/ivshmem.sh"
	"real:test/real.sh short"
	"bench:test/bench.sh quick"
)

kind="test"
if [ "${1:-}" = --soak ]; then
	shift
	kind=soak
	parts=(
		"stress:test/stress.sh"
		"fuzz:test/fuzz.sh"
		"matrix:test/matrix.sh"
		"loads:test/selftest.sh loads"
		"kunit:test/kunit.py"
		"conformance:test/conformance.sh debug"
		"ksft:test/conformance.sh ksft"
		"selftest-debug:test/selftest.sh debug"
		"selftest-reserved:test/selftest.sh reserved"
		"guest-debug:test/guest-checks.sh debug"
		"real:test/real.sh"
		"kernels:test/kernels.sh all"
		"packages:test/packages.sh"
		"hosts:test/hosts.sh"
	)
	export DURATION=${DURATION:-3600}
	[ -z "${KDIR:-}" ] || die "--soak with KDIR" "Each of its parts takes KDIR by itself, as in: make stress KDIR=… DURATION=3600"
elif [ "${1:-}" = --report ]; then
	shift
	kind=report
	[ -n "${KDIR:-}" ] || die "--report without KDIR" "scripts/test/report.sh calls this."
	parts=(
		"hmm-tests:test/conformance.sh few"
		"selftest:test/selftest.sh short"
		"kunit:test/kunit.py short"
		"stress:test/stress.sh coherent 1 2"
	)
	if [ "${1:-}" = all ]; then
		shift
		parts=(
			"hmm-tests:test/conformance.sh"
			"ksft:test/conformance.sh ksft"
			"selftest:test/selftest.sh"
			"kunit:test/kunit.py"
			"stress:test/stress.sh coherent 1 2"
			"fuzz:test/fuzz.sh 1 2"
			"guest:test/guest-checks.sh"
		)
	fi
	export DURATION=${DURATION:-60}
elif [ -n "${KDIR:-}" ]; then
	kind=kdir
	parts=(
		"selftest:test/selftest.sh"
		"conformance:test/conformance.sh few"
		"kunit:test/kunit.py short"
		"stress:test/stress.sh 1 2"
		"fuzz:test/fuzz.sh 1 2"
		"guest:test/guest-checks.sh"
	)
	export DURATION=${DURATION:-60}
elif [ -n "$CROSS" ]; then
	# For another machine: what runs in a guest and does not need the host's programs.
	kind=test$BUILT_FOR
	for part in "${!parts[@]}"; do
		[[ ! ${parts[part]%%:*} =~ ^(lint|doc|host|compile-fail|matrix|kernels|real|bench)$ ]] || unset "parts[part]"
	done
	# Debian has no such kernel.
	[ "$PAGES" != 64K ] || parts=(
		"selftest-debug:test/selftest.sh debug"
		"conformance:test/conformance.sh debug"
		"kunit:test/kunit.py short"
		"ivshmem:test/ivshmem.sh debug"
	)
	export DURATION=${DURATION:-16} DMIRROR_SECONDS=${DMIRROR_SECONDS:-2}
else
	# For each of the two seeds, and for a case that repeats something.
	export DURATION=${DURATION:-16} DMIRROR_SECONDS=${DMIRROR_SECONDS:-2}
fi

# Parts for x86-64 alone: programs of Debian in the guest, memory that the kernel is told to leave.
# And those that try things on the host.
elsewhere='^$'
[ "$ARCH" = x86_64 ] || elsewhere='^(real|ksft|selftest-reserved)$'
[ -z "$CROSS" ] || elsewhere='^(real|ksft|selftest-reserved|matrix|kernels|packages|hosts)$'
for part in "${!parts[@]}"; do
	[[ ! ${parts[part]%%:*} =~ $elsewhere ]] || unset "parts[part]"
done

if [ "${1:-}" = --list ]; then
	printf '%s\n' "${parts[@]%%:*}"
	exit
fi
for name; do
	[[ " ${parts[*]%%:*} " == *" $name "* ]] || die "there is no part '$name'" "scripts/test/test.sh --list names them."
done
chosen=()
for part in "${parts[@]}"; do
	[ $# -gt 0 ] && [[ " $* " != *" ${part%%:*} "* ]] || chosen+=("$part")
done

output_of() { printf '%s/log/%s-%s.out\n' "$BUILD" "$kind" "$1"; }

declare -A running=() # names, by process
trap 'exit 130' INT TERM HUP
trap stop_all EXIT
stop_all() {
	local group
	for group in "${!running[@]}"; do kill -- "-$group" 2>/dev/null || true; done
	wait
}

# begin PART : start it in a process group of its own, so that all of it can be
# stopped.
begin() {
	local name=${1%%:*}
	note "$name begins"
	set -m
	# shellcheck disable=SC2086 # a command and its argument
	(
		start=$SECONDS status=0
		"$SCRIPTS"/${1#*:} || status=$?
		printf '%d %d\n' "$status" $((SECONDS - start)) >"$(output_of "$name").end"
	) >"$(output_of "$name")" 2>&1 </dev/null &
	running[$!]=$name
	set +m
}

# await : until a part has ended; shows what it said.
await() {
	local process=
	wait -n -p process "${!running[@]}" || true
	if [ -z "$process" ]; then
		# One that was killed may have been waited for already.
		for process in "${!running[@]}"; do kill -0 "$process" 2>/dev/null || break; done
	fi
	note "${running[$process]}"
	cat "$(output_of "${running[$process]}")"
	unset "running[$process]"
}

# count NAME : add the results of a part to the totals, and a line to the table.
count() {
	local output status=1 seconds=0 remark=
	local before=("$PASSED" "$FAILED" "$SKIPPED")
	output=$(output_of "$1")
	read -r status seconds <"$output.end" || true
	if ! add_totals "$output"; then
		FAILED=$((FAILED + 1))
		remark="  ended without a result (status $status)"
	elif [ "$status" -ne 0 ] && [ "$FAILED" -eq "${before[1]}" ]; then
		FAILED=$((FAILED + 1))
		remark="  exit status $status"
	elif [ "$((PASSED + FAILED + SKIPPED))" -eq "$((before[0] + before[1] + before[2]))" ]; then
		FAILED=$((FAILED + 1))
		remark="  nothing ran"
	fi
	printf '%-20s %6d %6d %7d %5d s%s\n' "$1" $((PASSED - before[0])) $((FAILED - before[1])) \
		$((SKIPPED - before[2])) "$seconds" "$remark"
}

start=$SECONDS
mkdir -p "$BUILD/log"
# What takes so long the first time is no time of a part's.
if [ -n "${KDIR:-}" ]; then
	"$SCRIPTS/build/preflight.sh" "$KDIR" >/dev/null
	"$SCRIPTS/build/preflight.sh" --guest "$KDIR"
	kdir_checks >&2
else
	"$SCRIPTS/build/stock-kernel.sh" >/dev/null
fi
[ -n "${KDIR:-}" ] || [[ ! " ${chosen[*]} " =~ debug|short|kunit|stress|fuzz|matrix|ivshmem ]] || "$SCRIPTS/build/debug-kernel.sh" >/dev/null || true

for part in "${chosen[@]}"; do
	rm -f "$(output_of "${part%%:*}")"{,.end}
	while [ "${#running[@]}" -ge "$LANES" ]; do await; done
	begin "$part"
done
while [ "${#running[@]}" -gt 0 ]; do await; done

outputs=()
printf '\n%-20s %6s %6s %7s\n' part passed failed skipped
for part in "${chosen[@]}"; do
	count "${part%%:*}"
	outputs+=("$(output_of "${part%%:*}")")
done
if [ "$FAILED" -gt 0 ]; then
	# What failed, and the first lines of what is said of it.
	printf '\n'
	awk '
		/^failed/ { part = FILENAME; sub(/.*\/(test|soak|kdir|report)-/, "", part); sub(/\.out$/, "", part)
			sub(/^failed */, ""); print part ": " $0; lines = 8; next }
		/^        / && lines-- > 0 { print; next }
		{ lines = 0 }
	' "${outputs[@]}"
fi
printf '\nin %d min %d s\n' $(((SECONDS - start) / 60)) $(((SECONDS - start) % 60))
totals
