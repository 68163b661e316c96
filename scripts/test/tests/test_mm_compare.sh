#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Tests of guest/inside/mm-compare.awk: what a test says by itself and on the device, and
# what the comparison makes of it.
set -euo pipefail

# The build root has the busybox that the guest gets.
[ "${1:-}" = in-root ] || exec "$(dirname "$0")/../../build/in-root.sh" "$(realpath "$0")" in-root

compare=$(cd "$(dirname "$0")/../../guest/inside" && pwd)/mm-compare.awk
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
failures=0

# expect WHAT STATUSES SEEN... : compares by.itself with each SEEN by `known`, and the
# results with standard input.
expect() {
	local what=$1 statuses=$2 expected
	shift 2
	expected=$(cat)
	# In the guest awk is busybox.
	busybox awk -v test=t -v statuses="$statuses" -f "$compare" known by.itself "$@" >said || true
	[ "$(grep -v '^#' said)" != "$expected" ] || return 0
	printf '%s: expected\n%s\nand this was said:\n' "$what" "$expected"
	cat said
	failures=$((failures + 1))
}

printf '# test, result, how, reason\nother\tall\tpassed, then failed\twhy\n' >known
cat >by.itself <<'END'
TAP version 13
1..6
ok 1 first of 4 (2 kB)
ok 2 # SKIP no such thing
ok 3 suite.case # SKIP why
ok 4 # XFAIL not yet
ok 5 twice
ok 6 twice
# Totals: pass:3 fail:0 xfail:1 xpass:0 skip:2 error:0
END

expect "the same" "0 0" by.itself <<'SAID'
ok mm.t
SAID
expect "the same, but for the status" "0 1" by.itself <<'SAID'
not ok mm.t
SAID

sed 's/^ok 6/not ok 6/' by.itself >second.twice
expect "one of two of a name" "0 1" second.twice <<'SAID'
not ok mm.t
SAID
sed '/^ok 1/d' by.itself >one.less
expect "a result is missing" "0 0" one.less <<'SAID'
not ok mm.t
SAID
sed 's/^ok 2 # SKIP/ok 2/' by.itself >not.skipped
expect "not skipped" "0 0" not.skipped <<'SAID'
not ok mm.t
SAID
{ cat by.itself && echo 'ok 7 transact Extra pages 10 (0.1%)'; } >counts.ten
{ cat by.itself && echo 'ok 7 transact Extra pages 11 (0.2%)'; } >counts.eleven
mv by.itself whole && cp counts.ten by.itself
expect "the same, but for a count" "0 0" counts.eleven <<'SAID'
ok mm.t
SAID
mv whole by.itself
{ cat by.itself && echo 'ok 7 more'; } >one.more
expect "a result more" "0 0" one.more <<'SAID'
not ok mm.t
SAID
: >nothing
expect "nothing on the device" "0 139" nothing <<'SAID'
not ok mm.t
SAID
{ head -n 4 by.itself && echo 'Bail out! two looks: 0 1# Totals: pass:1'; } >stopped
expect "stops itself" "0 1" stopped <<'SAID'
not ok mm.t
SAID

: >known
expect "nothing known" "0 1" second.twice <<'SAID'
not ok mm.t
SAID

cat >known <<'END'
t	twice (2)	passed, then failed	why 1
t	first * (2 kB)	passed, then failed	why 2
t	stops itself: two looks: *	not, then so	why 3
END
printf 'TAP version 13\n1..0 # SKIP no such kernel\n' >skips
expect "skips on the device alone" "0 4" skips <<'SAID'
not ok mm.t
ok mm.t: twice (2): passed, then failed
ok mm.t: first * (2 kB): passed, then failed
ok mm.t: stops itself: two looks: *: not, then so
SAID
mv by.itself whole && cp skips by.itself
expect "skips" "4 4" skips <<'SAID'
ok mm.t # SKIP no such kernel
ok mm.t: twice (2): passed, then failed # SKIP no such kernel
ok mm.t: first * (2 kB): passed, then failed # SKIP no such kernel
ok mm.t: stops itself: two looks: *: not, then so # SKIP no such kernel
SAID
mv whole by.itself
expect "known, and not met" "0 0" by.itself <<'SAID'
ok mm.t
ok mm.t: twice (2): passed, then failed
ok mm.t: first * (2 kB): passed, then failed
ok mm.t: stops itself: two looks: *: not, then so
SAID
expect "known, and not met, and it died at its end" "0 139" by.itself <<'SAID'
not ok mm.t
ok mm.t: twice (2): passed, then failed
ok mm.t: first * (2 kB): passed, then failed
ok mm.t: stops itself: two looks: *: not, then so
SAID
{ head -n 2 by.itself && echo 'Bail out! two looks: 0 1'; } >stopped.at.once
expect "known to stop itself, always at once" "0 1" stopped.at.once stopped.at.once <<'SAID'
not ok mm.t
ok mm.t: twice (2): passed, then failed
ok mm.t: first * (2 kB): passed, then failed
ok mm.t: stops itself: two looks: *: not, then so # XFAIL why 3
SAID
expect "known" "0 1" second.twice <<'SAID'
ok mm.t
ok mm.t: twice (2): passed, then failed # XFAIL why 1
ok mm.t: first * (2 kB): passed, then failed
ok mm.t: stops itself: two looks: *: not, then so
SAID
expect "known to stop itself, then to the end" "0 0" stopped by.itself <<'SAID'
ok mm.t
ok mm.t: twice (2): passed, then failed
ok mm.t: first * (2 kB): passed, then failed
ok mm.t: stops itself: two looks: *: not, then so # XFAIL why 3
SAID
expect "known to stop itself, thrice" "0 1" stopped stopped stopped <<'SAID'
ok mm.t
ok mm.t: twice (2): passed, then failed
ok mm.t: first * (2 kB): passed, then failed
ok mm.t: stops itself: two looks: *: not, then so # XFAIL why 3
SAID
sed 's/^ok 1/not ok 1/;s/^ok 2 # SKIP/ok 2/' stopped >stopped.and.more
expect "stopped itself, and another result differs" "0 1" stopped.and.more by.itself <<'SAID'
not ok mm.t
ok mm.t: twice (2): passed, then failed
ok mm.t: first * (2 kB): passed, then failed # XFAIL why 2
ok mm.t: stops itself: two looks: *: not, then so # XFAIL why 3
SAID
sed 's/^ok 5/not ok 5/' by.itself >first.twice
expect "another than the known one" "0 1" first.twice <<'SAID'
not ok mm.t
ok mm.t: twice (2): passed, then failed
ok mm.t: first * (2 kB): passed, then failed
ok mm.t: stops itself: two looks: *: not, then so
SAID

sed 's/^ok 6/ok 6 # SKIP/' by.itself >skipped.twice
expect "known, but in another way" "0 0" skipped.twice <<'SAID'
not ok mm.t
ok mm.t: twice (2): passed, then failed
ok mm.t: first * (2 kB): passed, then failed
ok mm.t: stops itself: two looks: *: not, then so
SAID

printf 't\tthrice\tpassed, then failed\twhy\n' >known
expect "known by a name that is not there" "0 0" by.itself <<'SAID'
ok mm.t
not ok mm.t: thrice: passed, then failed
SAID
printf 't\ttwice\tpassed, then failed\n' >known
expect "known without a reason" "0 0" by.itself <<'SAID'
not ok mm.t
ok mm.t: twice: passed, then failed
SAID

[ "$failures" -eq 0 ]
