#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Run guest/inside/checks in a guest: foreign programs, the second driver, loading and
# unloading, the command-line tool.
#
#   scripts/test/guest-checks.sh [stock|debug|kdir]      default: stock, then debug; or KDIR
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/cases.sh"

programs=$("$SCRIPTS/build/guest-programs.sh")
files="$programs/foreign $programs/holder $programs/minimal $programs/on-terminal"
# shellcheck disable=SC2046 # words
[ $# -gt 0 ] || set -- $(default_kernels)
for kernel; do
	KERNEL=$kernel MODULE=dmirror NAME=checks CMD=checks \
		FILES="$files $SCRIPTS/guest/inside/checks $SCRIPTS/guest/inside/tool-cases" \
		guest_cases "$kernel: " in_root "$SCRIPTS/guest/inside/checks" --list
done
totals
