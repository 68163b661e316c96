#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Build the C programs of guest/inside/, static, in the build root. Prints the folder
# that holds them.
. "$(dirname "$0")/../lib/lib.sh"

out=$BUILD/$(built_for guest)
mkdir -p "$out"
# One build at a time, as two parts of `make test` may want it.
exec {lock}>"$out/.lock"
flock "$lock"
for source in "$SCRIPTS"/guest/inside/*.c; do
	program=$out/$(basename "$source" .c)
	if [ "$source" -nt "$program" ] || [ "$TOP/rust/uapi/dmirror.h" -nt "$program" ] ||
		[ "$TOP/rust/uapi/dmirror_queue.h" -nt "$program" ]; then
		in_root "${CROSS}gcc" -O2 -Wall -Wextra -Werror -static -I"$TOP/rust/uapi" -o "$program" "$source" >&2
	fi
done
printf '%s\n' "$out"
