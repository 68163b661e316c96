#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Run guest/checks in a guest: foreign programs, the second driver, loading and
# unloading, the command-line tool.
#
#   scripts/guest-checks.sh [stock|debug]      default: the one, then the other
. "$(dirname "$0")/lib.sh"
. "$SCRIPTS/cases.sh"

programs=$("$SCRIPTS/guest-programs.sh")
files="$programs/foreign $programs/holder $programs/minimal $programs/on-terminal"
kernels=("$@")
[ $# -gt 0 ] || kernels=(stock debug)
for kernel in "${kernels[@]}"; do
	KERNEL=$kernel MODULE=dmirror NAME=checks CMD=checks \
		FILES="$files $SCRIPTS/guest/checks $SCRIPTS/guest/tool-cases" \
		guest_cases "$kernel: " in_root "$SCRIPTS/guest/checks" --list
done
totals
