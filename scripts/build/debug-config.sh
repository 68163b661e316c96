#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Print the options of the debug kernel for ARCH and PAGES: what is set on top of
# allnoconfig. Give it to the build of a kernel of your own by KCONFIG_ALLCONFIG.
. "$(dirname "$0")/../lib/lib.sh"

grep -hE '^(# )?CONFIG_' "$SCRIPTS/build/kernel"/{debug,"$ARCH"}.config
[ "$ARCH" != arm64 ] || echo "CONFIG_ARM64_${PAGES}_PAGES=y"
