# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# Cases that a kernel may not survive, sourced after cases.sh: when one takes
# the kernel down, the guest is booted again and goes on with those behind it.

# So many kernels may die before the rest of the cases is left alone.
MOST_DEATHS=${MOST_DEATHS:-30}

# last_words LOG : what a kernel said when it died, and where.
last_words() {
	local words place
	words=$(grep -aoE '(BUG: |Oops: |kernel BUG at |Kernel panic - ).*' "$1" |
		grep -vE '^Oops: (Oops|invalid opcode)|^Kernel panic - not syncing: Fatal exception' | tail -n1 || true)
	place=$(sed -n 's/.*RIP: 0010:\([a-zA-Z0-9_.]*\).*/\1/p' "$1" | tail -n1)
	printf '%s\n' "${words:-it said nothing}${place:+, in $place}"
}

# complaints_in LOG : how many lines of it are complaints.
complaints_in() {
	local found
	found=$("$SCRIPTS/guest/complaints.sh" "$1" | sed -n 's/^--- \([0-9]*\) line(s) with a complaint$/\1/p' || true)
	printf '%d\n' "${found:-0}"
}

# boot_cases PREFIX LIST SELECT [ARGUMENT...] : run the cases whose names are in
# the file LIST by guests with the settings in the environment. CMD prints KTAP
# and, followed by SELECT and a name, for each of several, runs those. Arguments go to boots.py. Leaves in build/log, as NAME-KERNEL.*:
# cases (what is printed), complaints (how many lines the kernels complained).
# shellcheck disable=SC2153 # CMD and NAME are settings of guest.sh
boot_cases() {
	local prefix=$1 list=$2 select=$3 command=$CMD name=$NAME output=$BUILD/log/$NAME-$KERNEL
	local boot=0 deaths=0 complaints=0 found=0 first='' status=0 ended=0 log left outputs=() failed_before=$FAILED
	shift 3
	mkdir -p "$BUILD/log"
	rm -f "$output".{ktap,cases,complaints}*
	: >"$output.died"
	mapfile -t left <"$list"
	while [ "${#left[@]}" -gt 0 ] && [ "$deaths" -lt "$MOST_DEATHS" ]; do
		boot=$((boot + 1))
		outputs+=("$output.ktap-$boot")
		log=$BUILD/log/$name-$boot-$KERNEL.log
		rm -f "$log"
		CMD="$command$(printf " $select%s" "${left[@]}")"
		status=0
		NAME=$name-$boot "$SCRIPTS/guest/guest.sh" >"${outputs[-1]}" || status=$?
		if ! grep -q 'dmirror-guest: command starts' "$log" 2>/dev/null; then
			failed "${prefix}the guest did not get as far as the cases (status $status, see above)"
			break
		fi
		found=$(complaints_in "$log")
		complaints=$((complaints + found))
		[ "$found" -eq 0 ] || first=${first:-$log}
		ended=$(grep -c 'dmirror-guest: command exit' "$log" || true)
		mapfile -t left < <(in_root "$SCRIPTS/test/boots.py" --left --list "$list" --died "$output.died" "${outputs[@]}")
		if [ "$ended" -gt 0 ] || [ "${#left[@]}" -eq 0 ]; then break; fi
		deaths=$((deaths + 1))
		if [ "$status" -eq 124 ]; then reason="the guest hung in it"; else reason="the kernel died in it: $(last_words "$log")"; fi
		printf '%s\t%s\n' "${left[0]}" "$reason" >>"$output.died"
		note "${left[0]}: $reason"
		left=("${left[@]:1}")
	done
	in_root "$SCRIPTS/test/boots.py" --prefix "$prefix" "$@" --list "$list" --died "$output.died" "${outputs[@]}" >"$output.cases" || true
	sed '$d' "$output.cases"
	add_totals "$output.cases" || failed "${prefix}the results could not be read"
	printf '%d\n' "$complaints" >"$output.complaints"
	if [ "$complaints" -gt 0 ]; then
		failed "${prefix}kernel: $complaints lines of complaint in $boot boots, of which $deaths died ($BUILD/log/$name-N-$KERNEL.log)"
		complaint "$first"
	elif [ "$status" -gt 1 ] || { [ "$status" -eq 1 ] && [ "$FAILED" -eq "$failed_before" ]; }; then
		failed "${prefix}the guest (status $status, see above)"
	fi
}
