#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Run guest/inside/checks in a guest: foreign programs, the second driver, loading and
# unloading, the command-line tool.
#
#   scripts/test/guest-checks.sh [stock|debug]      default: the one, then the other
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/cases.sh"

programs=$("$SCRIPTS/build/guest-programs.sh")
files="$programs/foreign $programs/holder $programs/minimal $programs/on-terminal"
kernels=("$@")
[ $# -gt 0 ] || kernels=(stock debug)
for kernel in "${kernels[@]}"; do
	KERNEL=$kernel MODULE=dmirror NAME=checks CMD=checks \
		FILES="$files $SCRIPTS/guest/inside/checks $SCRIPTS/guest/inside/tool-cases" \
		guest_cases "$kernel: " in_root "$SCRIPTS/guest/inside/checks" --list
done
totals
