#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Build the debug kernel: the stock kernel's source, configured by debug-config.sh, with
# clang. Prints the path of its build folder. KERNEL_SOURCE names another folder in which
# the source is linux/.
#
#   scripts/build/debug-kernel.sh [--patched]
#
# --patched: with the patches of Documentation/upstream.
. "$(dirname "$0")/../lib/lib.sh"

name=debug patches=()
if [ "${1:-}" = --patched ]; then
	name=patched
	patches=("$TOP"/Documentation/upstream/*.patch)
fi

stock=${KERNEL_SOURCE:-$("$SCRIPTS/build/stock-kernel.sh")}
options=$("$SCRIPTS/build/debug-config.sh")
folder=$CACHE/$name-$(key_of "$(basename "$stock")" "$options" "$0" "${patches[@]}")

# patched_source FOLDER : a copy of the source, whose files are links but for
# those that the patches change.
patched_source() {
	local file
	rm -rf -- "$1"
	cp -al "$stock/linux" "$1"
	sed -n 's|^+++ b/||p' "${patches[@]}" | sort -u | while read -r file; do
		cp --remove-destination "$stock/linux/$file" "$1/$file"
	done
	GIT_CEILING_DIRECTORIES=$1 git -C "$1" apply "${patches[@]}"
}

make_folder() {
	local dir=$1 source=$stock/linux line name dropped=()
	if [ "${#patches[@]}" -gt 0 ]; then
		source=$dir.source
		patched_source "$source"
	fi
	kernel_make() { in_root make -C "$source" O="$dir" LLVM=1 LOCALVERSION=-dmirror-debug -j"$JOBS" "$@"; }
	printf '%s\n' "$options" >"$dir/options"
	kernel_make KCONFIG_ALLCONFIG="$dir/options" allnoconfig
	# Kconfig drops a line whose dependencies are not met without a word.
	while read -r line; do
		case $line in
		CONFIG_*=*) grep -qxF "$line" "$dir/.config" || dropped+=("$line") ;;
		'# CONFIG_'*' is not set')
			name=${line#\# }
			! grep -q "^${name%% *}=" "$dir/.config" || dropped+=("$line")
			;;
		esac
	done <<<"$options"
	[ "${#dropped[@]}" -eq 0 ] || die "scripts/build/kernel: these lines did not take effect:" "${dropped[@]}"
	kernel_make "${BOOT_IMAGE##*/}" modules
}

if ! is_made "$folder"; then
	hold_lock "$name"
	make_once "$folder" run_step "Building the $name kernel" "15 to 20 minutes" make_folder
fi
printf '%s\n' "$folder"
