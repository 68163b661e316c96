#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Print the options of the debug kernel for ARCH and PAGES: what is set on top of
# allnoconfig. Give it to the build of a kernel of your own by KCONFIG_ALLCONFIG.
#
#   scripts/build/debug-config.sh [SOURCE]
#
# SOURCE is the kernel's source; default: that of the stock kernel, or KERNEL_SOURCE/linux.
. "$(dirname "$0")/../lib/lib.sh"

source=${1:-${KERNEL_SOURCE:-$("$SCRIPTS/build/stock-kernel.sh")}/linux}
names=()
# An option without a prompt there, which this one selects. Goes with Linux 7.2.
! grep -qx 'config PROC_SYSCTL' "$source/fs/proc/Kconfig" || names+=(-e 's/^CONFIG_SYSCTL=/CONFIG_PROC_SYSCTL=/')
grep -hE '^(# )?CONFIG_' "$SCRIPTS/build/kernel"/{debug,"$ARCH"}.config | sed "${names[@]}" -e ''
[ "$ARCH" != arm64 ] || echo "CONFIG_ARM64_${PAGES}_PAGES=y"
