#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Plant bugs in a copy of the module, one at a time, and see that tests of
# `make test` find each: scripts/test/planted.py has the bugs, and which cases are to
# find them. Prints what did.
#
#   scripts/test/planted.sh [NAME...]       default: all
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/cases.sh"

tree=$BUILD/planted
declare -A kernel=() runs=() about=()
names=()
while IFS=$'\t' read -r name where what why; do
	names+=("$name")
	kernel[$name]=$where runs[$name]=$what about[$name]=$why
done < <(in_root "$SCRIPTS/test/planted.py" --list)
[ $# -eq 0 ] || names=("$@")
for name in "${names[@]}"; do
	[ -n "${about[$name]:-}" ] || die "there is no bug '$name'" "scripts/test/planted.py --list names them."
done

# A whole copy, with a build folder of its own that is kept for the next time.
copy() {
	local file
	while IFS= read -r file; do
		[ -f "$TOP/$file" ] || continue
		! cmp -s "$TOP/$file" "$tree/$file" || continue
		mkdir -p "$tree/$(dirname "$file")"
		# With the time of now, so that what was planted before is built anew.
		cp "$TOP/$file" "$tree/$file"
	done < <(cd "$TOP" && git ls-files --cached --others --exclude-standard)
}

# found_by LOG : what of the run that printed LOG found the bug.
found_by() {
	sed -n 's/^failed *//p' "$1" | head -n 3 | paste -sd ';' | sed 's/;/; /g'
}

log=$BUILD/log/planted
mkdir -p "$log"
for name in "${names[@]}"; do
	note "$name: ${about[$name]}"
	copy
	"$tree/scripts/test/planted.py" --plant "$name" "$tree"
	status=0
	if [ "${runs[$name]}" = kunit ]; then
		"$tree/scripts/test/kunit.py" >"$log/$name" 2>&1 || status=$?
	else
		KERNEL=${kernel[$name]} NAME=planted LEAKS=0 \
			CMD="dmirror-selftest --ktap --timeout 60 ${runs[$name]}" "$tree/scripts/guest/guest.sh" >"$log/$name" 2>&1 || status=$?
		# As ktap.py shows it, and what the kernel says.
		sed -nE 's/^not ok [0-9]+ /failed  /p; s/^.*\] *((WARNING|BUG|kernel BUG|Oops|Kernel panic)[: ].*)/failed  the kernel: \1/p' \
			"$log/$name" >"$log/$name.found"
		mv "$log/$name.found" "$log/$name.cases"
		[ "$status" -ne 124 ] || echo "failed  the guest hung" >>"$log/$name.cases"
		cat "$log/$name.cases" >>"$log/$name"
	fi
	by=$(found_by "$log/$name")
	if [ "$status" -eq 125 ] || ! grep -qE '^(ok|not ok|passed|failed) ' "$log/$name"; then
		failed "$name: nothing ran (status $status): $log/$name"
	elif [ "$status" -ne 0 ] && [ -n "$by" ]; then
		passed "$name: ${about[$name]}: found by $by"
	else
		failed "$name: ${about[$name]}: not found by ${runs[$name]} (status $status)"
	fi
done
totals
