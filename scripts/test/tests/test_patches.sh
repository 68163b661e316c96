#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Patches in the forms in which people have them: each comes out as the same diff.
. "$(dirname "$0")/../../lib/lib.sh"
. "$SCRIPTS/lib/patches.sh"

tmp=$(mktemp -d)
trap 'rm -rf -- "$tmp"' EXIT
failures=0

diff_of() { printf 'diff --git a/%s b/%s\n--- a/%s\n+++ b/%s\n@@ -1 +1 @@\n-old\n+%s\n' "$1" "$1" "$1" "$1" "$2"; }
# mail SUBJECT TEXT : without the line that separates mails.
mail() { printf 'From: A <a@example.org>\nDate: Tue, 1 Dec 2026 00:00:00 +0000\nSubject: %s\n%s\n-- \n2.47\n' "$1" "$2"; }
separated() { printf 'From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001\n' && mail "$@"; }
first() { printf '\nWhy it is.\n---\n mm/one.c | 2 +-\n\n%s\n' "$(diff_of mm/one.c new)"; }
second() { printf '\nWhy it is.\n---\n%s\n' "$(diff_of mm/two.c new)"; }
long='[PATCH v2 1/2] mm/one: a subject that is so long
 that it has a second line'
mail "$long" "$(first)" >"$tmp/mail"
{
	separated '[PATCH v2 0/2] mm: both' $'\nWhat the series is about.'
	separated '[PATCH v2 1/2] mm/one: change' "$(first)"
	separated '[PATCH v2 2/2] mm/two: change' "$(second)"
} >"$tmp/mbox"
separated '[PATCH] =?UTF-8?q?mm:=20=C3=A4?=' "$(printf 'Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\nWhy.\n---\n%s\n' \
	"$(diff_of mm/one.c =C3=A4=3D)")" >"$tmp/quoted"
diff_of mm/one.c new >"$tmp/plain.diff"
separated '[PATCH 0/1] mm: nothing' $'\nNo diff is here.' >"$tmp/cover"

# expect SUBJECTS LINES FILE... : of the patches in the files, and what they add.
expect() {
	local subjects lines
	(unpack_patches "$tmp/out" "${@:3}")
	subjects=$(paste -sd'|' "$tmp/out/subjects")
	lines=$(sed -n 's/^+\([^+]\)/\1/p' "$tmp"/out/*.patch | paste -sd'|')
	[ "$subjects" = "$1" ] && [ "$lines" = "$2" ] && return
	printf 'subjects %s, lines %s: %s\n' "$subjects" "$lines" "${*:3}"
	failures=$((failures + 1))
}
expect 'mm/one: a subject that is so long that it has a second line' new "$tmp/mail"
expect 'mm/one: change|mm/two: change' 'new|new' "$tmp/mbox"
expect 'mm: ä' 'ä=' "$tmp/quoted"
expect plain.diff new "$tmp/plain.diff"
expect 'plain.diff|mm: ä' 'new|ä=' "$tmp/plain.diff" "$tmp/cover" "$tmp/quoted"

for wrong in "$tmp/cover" "$tmp/nothing" "$0"; do
	! (unpack_patches "$tmp/out" "$wrong") >/dev/null 2>&1 || {
		printf 'it was taken: %s\n' "$wrong"
		failures=$((failures + 1))
	}
done
[ "$failures" -eq 0 ]
