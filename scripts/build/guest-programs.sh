#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Build the C programs of guest/inside/, static, and the program of 32 bits, in the build
# root. Prints the folder that holds them.
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
# There is no library for it.
case $ARCH in
x86_64) compiler=("${CROSS}gcc" -m32) ;;
arm64) compiler=(arm-linux-gnueabihf-gcc) ;;
esac
source=$SCRIPTS/guest/inside/still32.S
[ "$out/still32" -nt "$source" ] || in_root "${compiler[@]}" -static -nostdlib -o "$out/still32" "$source" >&2
printf '%s\n' "$out"
