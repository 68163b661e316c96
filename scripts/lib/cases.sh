# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# Counting cases in shell scripts, sourced after lib.sh. What a script prints
# has the form of ktap.py: a line a case, then the totals.

# without_last MIB : the kernel parameter for a guest with 4 GiB to leave the last so many
# MiB alone.
without_last() {
	case $ARCH in
	x86_64) printf 'memmap=%dM$%#x' "$1" $((MEMORY_END - ($1 << 20))) ;;
	arm64) printf 'mem=%dM' $((4096 - $1)) ;;
	esac
}

# coherent_in_last MIB : parameters of the module for two coherent devices there.
coherent_in_last() {
	printf 'spm_addr_dev0=%#x spm_addr_dev1=%#x' $((MEMORY_END - ($1 << 20))) $((MEMORY_END - ($1 << 19)))
}

# Settings of guest.sh for two coherent devices of 64 MiB each, or of a huge page where
# that is more.
# shellcheck disable=SC2034 # used by the scripts
case $PAGES in
64K) COHERENT_DEVICES=(MEM=4G APPEND="$(without_last 1024)" ARGS="$(coherent_in_last 1024) spm_size=0x20000000") ;;
*) COHERENT_DEVICES=(MEM=4G APPEND="$(without_last 128)" ARGS="$(coherent_in_last 128) spm_size=0x4000000") ;;
esac

# What reads results is in Python.
command -v python3 >/dev/null || "$SCRIPTS/build/host.sh"

PASSED=0 FAILED=0 SKIPPED=0

passed() {
	printf 'passed  %s\n' "$1"
	PASSED=$((PASSED + 1))
}
failed() {
	printf 'failed  %s\n' "$1"
	FAILED=$((FAILED + 1))
}
skipped() {
	printf 'skipped %s\n' "$1"
	SKIPPED=$((SKIPPED + 1))
}

# check NAME COMMAND... : one case; what a failing command printed is shown.
check() {
	local name=$1 output
	shift
	if output=$("$@" 2>&1); then
		passed "$name"
	else
		failed "$name"
		[ -z "$output" ] || printf '        %s\n' "${output//$'\n'/$'\n        '}"
	fi
}

# add_totals FILE : count what a script printed into FILE, by its last line.
# Without such a line it is a failure.
add_totals() {
	if [[ $(tail -n1 "$1" 2>/dev/null) =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed,\ ([0-9]+)\ skipped$ ]]; then
		PASSED=$((PASSED + BASH_REMATCH[1]))
		FAILED=$((FAILED + BASH_REMATCH[2]))
		SKIPPED=$((SKIPPED + BASH_REMATCH[3]))
		return
	fi
	return 1
}

# What makes the guest: guest.sh, or vng.sh where virtme-ng is installed.
export GUEST=${GUEST:-guest}
[[ $GUEST =~ ^(guest|vng)$ ]] || die "GUEST=$GUEST" "GUEST is guest or vng."

# guest_cases PREFIX LISTER... : run a guest by its settings in the environment,
# in which CMD prints KTAP, and compare it with the names of the cases, which
# LISTER prints.
# shellcheck disable=SC2153 # NAME is a setting of guest.sh
guest_cases() {
	local prefix=$1 output status=0 failed_before=$FAILED
	output=$BUILD/log/$NAME-$(built_for "$KERNEL")
	shift
	mkdir -p "$BUILD/log"
	"$@" >"$output.list"
	"$SCRIPTS/guest/$GUEST.sh" >"$output.ktap" || status=$?
	if [ "$status" -eq 122 ] || [ "$status" -eq 125 ]; then
		failed "${prefix}no case ran: the guest did not get that far (status $status, see above)"
		return
	fi
	"$SCRIPTS/test/ktap.py" --prefix "$prefix" --expect "$output.list" "$output.ktap" >"$output.cases" || true
	sed '$d' "$output.cases"
	add_totals "$output.cases" || failed "${prefix}the results could not be read"
	# What runs cases exits with 1 when one failed.
	if [ "$status" -gt 1 ] || { [ "$status" -eq 1 ] && [ "$FAILED" -eq "$failed_before" ]; }; then
		failed "${prefix}the guest (status $status, see above)"
		[ "$status" -ne 120 ] || complaint "$output.log"
	fi
}

# boot_cases PREFIX LIST SELECT [OPTION...] : run the cases whose names are in the
# file LIST, some of which the kernel may not survive: see boots.py.
# shellcheck disable=SC2153 # NAME is a setting of guest.sh
boot_cases() {
	local output
	output=$BUILD/log/$NAME-$(built_for "$KERNEL").boots
	mkdir -p "$BUILD/log"
	"$SCRIPTS/test/boots.py" --prefix "$1" "${@:4}" -- "$2" "$3" >"$output" || true
	sed '$d' "$output"
	add_totals "$output" || failed "${1}the results could not be read"
}

# complaint LOG : the beginning of the first complaint in a kernel log, as what
# is said of a case.
complaint() {
	"$SCRIPTS/guest/complaints.sh" "$1" | sed -n '2,16 s/^/        /p' || true
}

# totals : the last line, and the exit status of the script.
totals() {
	printf '%d passed, %d failed, %d skipped\n' "$PASSED" "$FAILED" "$SKIPPED"
	[ "$FAILED" -eq 0 ] && [ $((PASSED + SKIPPED)) -gt 0 ]
}
