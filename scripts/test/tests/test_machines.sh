#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Which machines and sizes of pages are taken, what is said of others, and that what is
# built for each has a name of its own.
. "$(dirname "$0")/../../lib/lib.sh"

# with SETTINGS COMMAND... : the command's output and what it says, whatever its status.
with() {
	# shellcheck disable=SC2086 # several settings
	env -u ARCH -u PAGES -u SERIES $1 "${@:2}" 2>&1 || true
}

# name_of SETTINGS : what is built for the stock kernel.
name_of() { with "$1" bash -c '. "$1/lib/lib.sh"; built_for stock' name_of "$SCRIPTS"; }

[ "$HOST_ARCH" = x86_64 ] || exit 0
while IFS='|' read -r settings expected; do
	said=$(name_of "$settings")
	[[ $said == *"$expected"* ]] || die "'$settings' says '$said', not '$expected'"
done <<'TABLE'
|stock
ARCH=x86_64|stock
ARCH=amd64 PAGES=4K|stock
ARCH=arm64|stock-arm64
ARCH=aarch64 PAGES=16K|stock-arm64-16K
ARCH=arm64 PAGES=64K SERIES=7.2|stock-arm64-7.2-64K
ARCH=riscv64|ARCH is x86_64 or arm64
PAGES=16K|PAGES is 4K or, with ARCH=arm64, 16K or 64K
ARCH=arm64 PAGES=8K|PAGES is 4K or, with ARCH=arm64, 16K or 64K
TABLE

# Debian has no kernel with pages of 64 KiB; the debug kernel can have them.
said=$(with "ARCH=arm64 PAGES=64K KERNEL=stock CMD=true" "$SCRIPTS/guest/guest.sh")
[[ $said == *"KERNEL=debug has"* ]] || die "PAGES=64K with the stock kernel: $said"
