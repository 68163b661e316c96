#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Run guest/inside/checks in a guest: foreign programs, those of quick-start.md, the second
# driver, loading and unloading, the command-line tool.
#
#   scripts/test/guest-checks.sh [stock|debug|kdir]      default: stock, then debug; or KDIR
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/cases.sh"

programs=$("$SCRIPTS/build/guest-programs.sh")
files=
for program in foreign holder minimal on-terminal still32 target; do files+=" $programs/$program"; done
# Those of quick-start.md, as a reader saves them.
mkdir -p "$BUILD/tmp"
for program in first.c:c second.rs:rust; do
	sed -n "/^\`\`\`${program#*:}\$/,/^\`\`\`\$/p" "$TOP/Documentation/quick-start.md" | sed '1d;$d' >"$BUILD/tmp/${program%:*}"
	files+=" $("$SCRIPTS/build/program.sh" "$BUILD/tmp/${program%:*}")"
done
inside=$SCRIPTS/guest/inside
# shellcheck disable=SC2046 # words
[ $# -gt 0 ] || set -- $(default_kernels)
for kernel; do
	KERNEL=$kernel MODULE=dmirror NAME=checks CMD=checks \
		FILES="$files $inside/checks $inside/tool-cases $inside/attach-cases" \
		guest_cases "$kernel: " in_root "$inside/checks" --list
done
totals
