#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Run upstream's test suite of the ABI, hmm-tests, unmodified, in a guest. Each
# case that the program lists has to report; a complaint of the kernel is a
# failure. What takes the kernel down has failed, and the cases behind it run
# after another boot.
#
#   scripts/test/conformance.sh [stock|debug|kdir|short|few]...      default: KERNEL, or debug
#
# short: the cases of private devices, and gup_test, which Debian's kernel lacks, on the
# debug kernel; on the stock kernel those of coherent devices and
# those that measure speed, which take three quarters of the time on the other.
# few: the stock kernel, or KDIR, without those that measure speed.
#
# Takes the settings of guest.sh; CMD is the suite. MODULE=test_hmm runs it on
# upstream's own module.
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/cases.sh"
. "$SCRIPTS/lib/kdir.sh"

tests=$("$SCRIPTS/build/hmm-tests.sh")
export MODULE=${MODULE:-dmirror} FILES=$tests/hmm-tests
# The harness stops a case after 30 s, and the benchmark after 120 s, which is
# little under emulation: these are to be seconds of the guest, not of the host.
export CLOCK=${CLOCK:-instructions} TIMEOUT=${TIMEOUT:-3600}

# Two coherent devices with 256 MiB each, in memory that the system leaves alone.
MEM=${MEM:-4G}
APPEND="$(without_last 512) ${APPEND:-}"
ARGS=${ARGS-$(coherent_in_last 512)}
export MEM APPEND ARGS

# What may be skipped: Debian's kernel has no CONFIG_GUP_TEST, and one of the user's own
# need not have it.
no_gup_test='hmm\.[a-z_]*\.hmm_gup_test: .*could not find gup_test driver'
has_gup_test() {
	case $1 in
	stock) return 1 ;;
	kdir) [ -n "$(kdir_option GUP_TEST)" ] ;;
	esac
}

# run NAME PREFIX LIST : the cases in the file LIST; what comes of them is in
# build/log/NAME-MODULE-KERNEL.*.
run() {
	local may_skip=
	has_gup_test "$KERNEL" || may_skip=$no_gup_test
	export KERNEL NAME=$1-$MODULE CMD='echo 200 >/proc/sys/vm/nr_hugepages; hmm-tests'
	boot_cases "$2" "$3" "-r " --may-skip "$may_skip"
}

mine=${KDIR:+kdir}
[ $# -gt 0 ] || set -- "${KERNEL:-debug}"
mkdir -p "$BUILD/log"
list=$BUILD/log/$(built_for "conformance-short-$MODULE").list
for place; do
	grep -v benchmark "$tests/cases" >"$list"
	if [ "$place" = few ]; then
		KERNEL=${mine:-stock} run conformance-few "" "$list"
		continue
	elif [ "$place" != short ]; then
		KERNEL=$place run conformance "" "$tests/cases"
		continue
	fi
	grep -v benchmark "$tests/cases" | grep -e '_private\.' -e gup_test >"$list.debug"
	KERNEL=debug run conformance-short "debug: " "$list.debug"
	grep -vxFf "$list.debug" "$tests/cases" >"$list"
	KERNEL=stock run conformance-short "stock: " "$list"
done
totals
