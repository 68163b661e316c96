#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Run upstream's test suite of the ABI, hmm-tests, unmodified, in a guest. Each
# case that the program lists has to report; a complaint of the kernel is a
# failure. What takes the kernel down has failed, and the cases behind it run
# after another boot.
#
#   scripts/test/conformance.sh [stock|debug|kdir|short|few|ksft]...      default: KERNEL, or debug
#
# short: the cases of private devices, and gup_test, which Debian's kernel lacks, on the
# debug kernel; on the stock kernel those of coherent devices and
# those that measure speed, which take three quarters of the time on the other.
# few: the stock kernel, or KDIR, without those that measure speed.
#
# ksft: the scripts of the kernel's selftests that run the suite in a CI, unmodified:
# ksft_hmm.sh, which has private devices, and test_hmm.sh with addresses of coherent ones. They
# ask for test_hmm by name, and get dmirror, the second one on a kernel that has test_hmm
# itself. On the stock kernel, or KDIR.
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

# Two coherent devices with 256 MiB each, or a huge page, in memory that the system leaves
# alone.
MEM=${MEM:-4G}
both=512 size=
[ "$PAGES" != 64K ] || both=1024 size=' spm_size=0x20000000'
APPEND="$(without_last "$both") ${APPEND:-}"
ARGS=${ARGS-$(coherent_in_last "$both")$size}
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
	# A pool of huge pages, whatever their size is: 400 MiB, or one of 512 MiB.
	# shellcheck disable=SC2016 # expanded in the guest
	local pool='size=$(sed -n "s/^Hugepagesize: *\([0-9]*\) kB/\1/p" /proc/meminfo)
		echo $(((409600 + size - 1) / size)) >/proc/sys/vm/nr_hugepages'
	export KERNEL NAME=$1-$MODULE CMD="$pool; hmm-tests"
	boot_cases "$2" "$3" "-r " --may-skip "$may_skip"
}

# ksft SCRIPT ARGUMENTS MAY_SKIP [FILE...] : a script of the kernel's selftests, as a CI
# calls it.
ksft() {
	local mm list=$BUILD/log/ksft-$1.list may_skip=$3 files="$SCRIPTS/guest/inside/kselftest ${*:4}"
	[ "$MODULE" = dmirror ] || die "ksft is about dmirror in place of test_hmm"
	has_gup_test "$KERNEL" || may_skip+=${may_skip:+|}$no_gup_test
	mm=$(mm_sources)/tools/testing/selftests/mm
	rm -rf "$BUILD/ksft"
	mkdir -p "$BUILD/ksft/mm"
	cp "$mm"/{ksft_hmm.sh,run_vmtests.sh,test_hmm.sh} "$tests/hmm-tests" "$BUILD/ksft/mm"
	{ cat "$tests/cases" && printf '%s\n' "$1" "$1.loads" "$1.unloads"; } >"$list"
	# The names of cases are no arguments of the script, which would begin anew after a death.
	MODULE=none SYSTEM=kselftest ARGS='' NAME=ksft-${1%.sh} MOST_DEATHS=1 \
		FILES="$BUILD/ksft/mm $files" \
		CMD="kselftest $1 $2 #" boot_cases "$1: " "$list" "" --may-skip "$may_skip"
}

# mm_sources: the kernel's source that the suite is built from.
mm_sources() {
	if [ "$KERNEL" = kdir ]; then kdir_source; else printf '%s/linux\n' "$("$SCRIPTS/build/stock-kernel.sh")"; fi
}

# own_test_hmm: the test_hmm of the kernel, if it has one.
own_test_hmm() {
	if [ "$KERNEL" != kdir ] || [ -e "$KDIR/lib/test_hmm.ko" ]; then "$SCRIPTS/build/test-hmm.sh" "$KERNEL"; fi
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
	elif [ "$place" = ksft ]; then
		export KERNEL=${mine:-stock}
		ksft ksft_hmm.sh '' 'hmm2?\.hmm2?_device_coherent\..*'
		ksft test_hmm.sh "smoke $(coherent_in_last 512 | sed 's/spm_addr_dev[01]=//g')" '' \
			"$(own_test_hmm)" "$SCRIPTS/guest/inside/test_hmm.conf"
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
