#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Run the bundled selftest in a guest, and compare what ran with its own list
# of cases.
#
#   scripts/test/selftest.sh [stock|debug|kdir|short|few|pages|reserved|loads]...      default: KERNEL, or stock debug
#
# Memory for two coherent devices is set aside on the kernel's command line;
# ARGS, APPEND or MEM in the environment replace that. There are words for more, which
# KDIR gives another kernel:
#
#   short     the debug kernel, and the cases in which it is most likely to see
#             what others do not: about the module's own memory, locks and
#             references. Some of migration, faults and forks is in matrix.sh and
#             hmm-tests, on the same kernel; all of it in selftest.sh debug
#   few       the stock kernel, and the cases about faults of the device and what
#             waits in them, open files and parameters: what differs most between
#             the kernel series
#   pages     the stock kernel, and the cases that depend most on the size of pages
#   reserved  the stock kernel with memory for the private devices set aside as
#             well, and with five levels of page tables, where physical addresses
#             are wider; the cases to which that makes a difference
#   loads     one case on the stock kernel: a thousand loads and unloads with
#             resident pages
#
# Takes the other settings of guest.sh; CMD is the selftest. DMIRROR_SECONDS: for
# how long cases go on that repeat something.
#
# With MODULE=test_hmm it runs on upstream's module, which has the same ABI, and
# has private devices alone. The cases that need more than that skip; others
# fail, or take the kernel down, and the cases behind those run after another
# boot.
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/cases.sh"

# A static program: its list can be asked for here.
programs=$("$SCRIPTS/build/samples.sh")
export MODULE=${MODULE:-dmirror}
timeout=${TIMEOUT:-}
mine=${KDIR:+kdir}
if [ $# -eq 0 ]; then
	if [ -n "${KERNEL:-}" ]; then set -- "$KERNEL"; else set -- stock debug; fi
fi
on_reserved=(migrate. fault. fork huge. evict coherent. numa. frames. io. swap. unload.)
on_short=(
	huge. fork_huge. lifetime. death. opens. exclusive. races. failing. nth. queue. engine.
	evict.several evict.huge_several evict.no_system coherent.
	unload.while unload.nothing unload.other
	held.fault_begun held.fault_moved held.fault_huge held.back_collected held.release_collected held.walked
	held.exclusive held.engine_out_copied held.engine_found held.engine_atomic held.vma_unmapped held.vma_exited
)
on_few=(read. write. failing. engine.other uffd. opens. stats. unload.while unload.nothing)
on_pages=(huge.part huge.across huge.windows counts. window. snapshot. policy.presets policy.granule stats.request unload.while)
selftest="${DMIRROR_SECONDS:+DMIRROR_SECONDS=$DMIRROR_SECONDS }dmirror-selftest --ktap"
own=${ARGS+x}${APPEND+x}${MEM+x}
[ -z "$own" ] || [[ " $* " != *" reserved "* ]] || die "reserved has its own ARGS, APPEND and MEM"
for place; do
	settings=(KERNEL="$place" NAME=selftest CMD="$selftest" TIMEOUT="${timeout:-2700}") cases=()
	if [ "$place" = short ]; then
		[ "$MODULE" = dmirror ] || die "short was chosen for dmirror"
		cases=("${on_short[@]}")
		settings+=(KERNEL="${mine:-debug}" NAME=selftest-short CMD="$selftest ${cases[*]}")
	fi
	if [ "$place" = few ] || [ "$place" = pages ]; then
		cases=("${on_few[@]}")
		[ "$place" = few ] || cases=("${on_pages[@]}")
		settings+=(KERNEL="${mine:-stock}" NAME="selftest-$place" CMD="$selftest ${cases[*]}")
	fi
	if [ "$place" = reserved ]; then
		[ "$MODULE" = dmirror ] || die "$MODULE takes no memory that was set aside for private devices"
		cases=("${on_reserved[@]}")
		settings=(
			KERNEL="${mine:-stock}" NAME=selftest-reserved CMD="$selftest ${on_reserved[*]}" TIMEOUT="${timeout:-2700}"
			MEM=8G PAGING=5 APPEND='memmap=1280M$0x180000000'
			ARGS='vram_base=0x180000000 vram_size=0x40000000 spm_addr_dev0=0x1c0000000 spm_addr_dev1=0x1c8000000 spm_size=0x4000000'
		)
	elif [ "$place" = loads ]; then
		[ "$MODULE" = dmirror ] || die "$MODULE leaves traces"
		cases=("=unload.leaves_no_trace")
		settings=(
			KERNEL="${mine:-stock}" NAME=selftest-loads TIMEOUT="${timeout:-7200}"
			CMD="DMIRROR_LOADS=1000 dmirror-selftest --ktap --timeout 7000 ${cases[*]}"
		)
	elif [ "$MODULE" = dmirror ] && [ -z "$own" ]; then
		settings+=("${COHERENT_DEVICES[@]}")
	fi
	export "${settings[@]}"
	if [ "$MODULE" = dmirror ]; then
		guest_cases "$place: " run_program "$programs/dmirror-selftest" --list "${cases[@]}"
	else
		export NAME=$NAME-$MODULE
		mkdir -p "$BUILD/log"
		run_program "$programs/dmirror-selftest" --list >"$BUILD/log/$NAME-$KERNEL.list"
		boot_cases "$place: " "$BUILD/log/$NAME-$KERNEL.list" =
	fi
	unset "${settings[@]%%=*}"
done
totals
