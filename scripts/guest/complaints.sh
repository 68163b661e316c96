#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Look for complaints in a kernel log. Prints each one with what follows it,
# and exits with 1 if there was any. test/tests/test_complaints.sh has examples.
#
#   scripts/guest/complaints.sh LOG
set -euo pipefail

# How the line of a complaint begins, after the time stamp.
starts=(
	'WARNING: ' 'BUG: ' 'Oops' 'Kernel panic' 'Internal error'
	'INFO: task .* blocked' 'INFO: trying to register non-static key'
)

# What the line of a complaint contains, wherever.
holds=(
	# the end of a thread, or of all
	'kernel BUG at ' 'general protection fault[,:]' 'PANIC: ' 'unable to handle' 'rust_kernel: panicked'
	# memory
	'KASAN: ' 'KFENCE: ' 'KMSAN: ' 'Bad (page|rss-counter|swap)' 'page dumped because'
	'(Redzone|Poison|Left Redzone|Right Redzone) overwritten' 'Object already free'
	'memory corruption' 'page allocation failure' 'new suspected memory leaks'
	# undefined behaviour, inconsistent structures
	'UBSAN: ' 'KCSAN: ' 'ODEBUG: ' 'refcount_t: ' 'list_(add|del|move)[_a-z]* (corruption|double)'
	# locks, hangs
	'BUG: (sleeping|scheduling|workqueue|soft|spinlock|rwlock|using)' '\[ BUG: ' 'DEBUG_LOCKS_WARN_ON'
	'(circular|recursive) locking' 'lock inversion' 'inconsistent lock state' 'suspicious RCU usage'
	'held lock freed' 'bad unlock balance' 'hard LOCKUP' 'soft lockup' 'rcu: INFO: ' 'INFO: rcu_'
	# what the guest's init found
	'dmirror-guest: complaint'
)

if [ $# -ne 1 ] || [ ! -r "$1" ]; then
	echo "Usage: scripts/guest/complaints.sh LOG" >&2
	exit 2
fi

# join ITEM... : the items, as alternatives.
join() {
	local IFS='|'
	printf '%s' "$*"
}

# A complaint is shown with the 40 lines from it on; one that begins within
# those of another is not shown again.
STARTS="^(\\[ *[0-9.]+\\])?(\\[ *[TC][0-9]+\\])? *($(join "${starts[@]}"))" HOLDS=$(join "${holds[@]}") awk '
	BEGIN { starts = ENVIRON["STARTS"]; holds = ENVIRON["HOLDS"] }
	{ sub(/\r$/, "") }
	$0 ~ starts || $0 ~ holds {
		found++
		if (NR > until) print "--- line " NR ":"
		if (NR > until) until = NR + 40
	}
	NR <= until
	END {
		if (found) print "--- " found " line(s) with a complaint"
		exit found > 0
	}
' "$1"
