#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Tests of complaints.sh: lines that the kernel prints, and whether each of
# them is a complaint.
set -euo pipefail

complaints=$(dirname "$0")/../../guest/complaints.sh
failures=0

# expect STATUS LINE
expect() {
	local status=0
	printf '[    0.000000] Linux version 7.3.4\r\n%s\r\n[    9.000000] reboot: Power down\r\n' "$2" |
		"$complaints" /dev/stdin >/dev/null || status=$?
	[ "$status" -eq "$1" ] && return
	printf 'status %d, expected %d: %s\n' "$status" "$1" "$2"
	failures=$((failures + 1))
}

while IFS= read -r line; do expect 1 "$line"; done <<'LINES'
[    4.240366] WARNING: mm/memremap.c:158 at memremap_pages+0x1/0x2, CPU#0: insmod/77
[    4.240366][   T77] WARNING: at foo+0x1, CPU#0: insmod/77
[    4.240366] BUG: kernel NULL pointer dereference, address: 0000000000000008
[    4.240366] Oops: Oops: 0000 [#1] SMP NOPTI
[    4.240366] kernel BUG at mm/page_alloc.c:1!
[    4.240366] Kernel panic - not syncing: Fatal exception
[    4.240366] BUG: KASAN: slab-use-after-free in foo+0x1/0x2
[    4.240366] WARNING: possible circular locking dependency detected
[    4.240366] WARNING: possible recursive locking detected
[    4.240366] WARNING: inconsistent lock state
[    4.240366] WARNING: suspicious RCU usage
[    4.240366] [ BUG: Invalid wait context ]
[    4.240366] BUG: sleeping function called from invalid context at mm/x.c:1
[    4.240366] BUG: scheduling while atomic: insmod/77/0x00000002
[    4.240366] BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 40s!
[    4.240366] INFO: task rmmod:77 blocked for more than 120 seconds.
[    4.240366] INFO: trying to register non-static key.
[    4.240366] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [x:77]
[    4.240366] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:
[    4.240366] UBSAN: array-index-out-of-bounds in x.c:1:2
[    4.240366] kmemleak: 2 new suspected memory leaks (see /sys/kernel/debug/kmemleak)
[    4.240366] BUG: Bad page state in process x  pfn:12345
[    4.240366] BUG: Bad rss-counter state mm:0000 type:MM_ANONPAGES val:1
[    4.240366] page dumped because: VM_BUG_ON_FOLIO(!folio_test_locked(folio))
[    4.240366] list_del corruption. prev->next should be x, but was y
[    4.240366] list_add double add: new=x, prev=y, next=z.
[    4.240366] refcount_t: underflow; use-after-free.
[    4.240366] ODEBUG: free active (active state 0) object: x
[    4.240366] DEBUG_LOCKS_WARN_ON(1)
[    4.240366] rust_kernel: panicked at x.rs:1:2:
[    4.240366] x: page allocation failure: order:9, mode:0x1
[    4.240366] pagealloc: memory corruption
[    4.240366] general protection fault, probably for non-canonical address 0x1
[    4.240366] Oops: general protection fault, probably for non-canonical address 0x1
[    4.240366] traps: PANIC: double fault, error_code: 0x0
[    4.240366] dmirror-guest: complaint: memory leaked
LINES

while IFS= read -r line; do expect 0 "$line"; done <<'LINES'
[    4.240366] traps: dmirror-selftes[896] general protection fault ip:7f71fd204184 sp:7fff467eca90 error:402 in dmirror-selftest[18a184,7f71fd0a5000+285000]
[    4.240366] dmirror: loading out-of-tree module taints kernel.
[    4.240366] dmirror: module verification failed: signature and/or required key missing - tainting kernel
[    4.240366] Spectre V2 : WARNING: Unprivileged eBPF is enabled
[    4.240366] dmirror-demo[77]: segfault at 0 ip 1 sp 2 error 4 in x
[    4.240366] kmemleak: Kernel memory leak detector initialized (mem pool available: 1)
[    4.240366] Running RCU self tests
[    4.240366] rcu: RCU lockdep checking is enabled.
[    4.240366]     ok 1 warns_when_it_should
[    4.240366] sysrq: Show Blocked State
[    4.240366] INFO: NMI handler (nmi_cpu_backtrace_handler) took too long to run: 5.672 msecs
[    4.240366] debug: unmapping init memory
LINES

[ "$failures" -eq 0 ]
