#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Build the debug kernel: the stock kernel's source, configured by
# kernel/debug.config, with clang. Prints the path of its build folder.
. "$(dirname "$0")/lib.sh"

stock=$("$SCRIPTS/stock-kernel.sh")
fragment=$SCRIPTS/kernel/debug.config
options=$(grep -E '^(# )?CONFIG_' "$fragment")
folder=$CACHE/debug-$(key_of "$(basename "$stock")" "$options" "$0")

make_folder() {
	local dir=$1 line name dropped=()
	kernel_make() { in_root make -C "$stock/linux" O="$dir" LLVM=1 LOCALVERSION=-dmirror-debug -j"$JOBS" "$@"; }
	kernel_make KCONFIG_ALLCONFIG="$fragment" allnoconfig
	# Kconfig drops a line whose dependencies are not met without a word.
	while read -r line; do
		case $line in
		CONFIG_*=*) grep -qxF "$line" "$dir/.config" || dropped+=("$line") ;;
		'# CONFIG_'*' is not set')
			name=${line#\# }
			! grep -q "^${name%% *}=" "$dir/.config" || dropped+=("$line")
			;;
		esac
	done <"$fragment"
	[ "${#dropped[@]}" -eq 0 ] || die "$fragment: these lines did not take effect:" "${dropped[@]}"
	kernel_make bzImage modules
}

if ! is_made "$folder"; then
	hold_lock debug
	make_once "$folder" run_step "Building the debug kernel" "15 to 20 minutes" make_folder
fi
printf '%s\n' "$folder"
