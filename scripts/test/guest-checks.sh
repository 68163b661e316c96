#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Run guest/inside/checks in a guest: foreign programs, the second driver, loading and
# unloading, the command-line tool.
#
#   scripts/test/guest-checks.sh [stock|debug]      default: the one, then the other, if
#                                                   the machine has both
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/cases.sh"

programs=$("$SCRIPTS/build/guest-programs.sh")
files=
for program in foreign holder minimal on-terminal still32 target; do files+=" $programs/$program"; done
inside=$SCRIPTS/guest/inside
kernels=("$@")
[ $# -gt 0 ] || kernels=(stock debug)
[ $# -gt 0 ] || [ "$ARCH" = x86_64 ] || kernels=(stock)
for kernel in "${kernels[@]}"; do
	KERNEL=$kernel MODULE=dmirror NAME=checks CMD=checks \
		FILES="$files $inside/checks $inside/tool-cases $inside/attach-cases" \
		guest_cases "$kernel: " in_root "$inside/checks" --list
done
totals
