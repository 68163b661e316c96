#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Cases of the selftest on the debug kernel with each way of preemption, each setting of
# transparent huge pages, and one and two processors. The other suites run with
# full preemption, huge pages always, and two processors.
#
#   scripts/test/matrix.sh [quick]
#
# quick: two of the combinations, which between them have each of the other
# values, and fewer cases.
#
# Linux 7.3 on x86-64 has no preempt=none and no preempt=voluntary any more:
# sched_dynamic_mode() leaves them out where there is lazy preemption.
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/cases.sh"

# Cases, by parts of their names. Without huge pages the cases about them would skip.
declare -A themes=(
	[small]='migrate. fault. fork. read. write. exclusive. races.device held.out held.back'
	[all]='migrate. fault. fork. fork_huge. read. write. exclusive. huge. evict. madvise. mremap. races. held.'
	[few]='fault. fork_huge. huge.whole huge.windows races.device held.out'
	[fewer]='fault. migrate. fork. races.device_reads races.device_writes_are held.out_c held.out_moved'
)
case ${1:-} in
quick) rows=("lazy never 2:fewer" "lazy madvise 1:few") ;;
'')
	rows=()
	for preempt in full lazy; do
		for cpus in 1 2; do
			rows+=("$preempt always $cpus:all" "$preempt madvise $cpus:all" "$preempt never $cpus:small")
		done
	done
	;;
*) die "matrix.sh $*" "It takes the word quick, or nothing." ;;
esac

programs=$("$SCRIPTS/build/samples.sh")
# Others look for leaks: what these settings change is who comes first.
mine=${KDIR:+kdir}
export KERNEL=${mine:-debug} MODULE=dmirror LEAKS=${LEAKS:-0} TIMEOUT=${TIMEOUT:-2700}
for row in "${rows[@]}"; do
	read -r preempt huge CPUS <<<"${row%:*}"
	read -ra chosen <<<"${themes[${row#*:}]}"
	export CPUS NAME=matrix-$preempt-$huge-$CPUS
	export APPEND="preempt=$preempt transparent_hugepage=$huge"
	# Without memory cgroups no page is charged, which was once taken for its being in use.
	[ "$huge" != never ] || APPEND+=" cgroup_disable=memory"
	export CMD="dmirror-selftest --ktap ${chosen[*]}"
	guest_cases "$preempt, huge pages $huge, $CPUS cpus: " run_program "$programs/dmirror-selftest" --list "${chosen[@]}"
done
totals
