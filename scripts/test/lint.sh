#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Look at the source: format, lints, licence lines, and rules of this project.
# Each check is one case, and all of them are made.
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/cases.sh"

cd "$TOP"
stock=$("$SCRIPTS/build/stock-kernel.sh")
# What is tracked, and what is new and not ignored.
mapfile -t files < <(git ls-files --cached --others --exclude-standard | while read -r file; do [ ! -f "$file" ] || echo "$file"; done)
[ "${#files[@]}" -gt 0 ] || die "git lists no files in $TOP"

# matching PATTERN... : those of the files that match a shell pattern.
matching() {
	local file pattern
	for file in "${files[@]}"; do
		for pattern; do
			# shellcheck disable=SC2053 # a pattern
			[[ $file != $pattern ]] || printf '%s\n' "$file"
		done
	done
}

# -- Rust ----------------------------------------------------------------------

format_of_kernel_crates() {
	local sources
	mapfile -t sources < <(matching 'rust/hmm/*.rs' 'rust/emu/*.rs' 'rust/dmirror/*.rs' 'rust/compile-fail/*.rs' 'samples/minimal/*.rs' 'samples/ivshmem/*.rs')
	in_root rustfmt --check --config-path "$TOP/rust" "${sources[@]}"
}

# Into a folder of its own and from nothing: what is up to date says nothing.
clippy_of_kernel_crates() {
	local log=$BUILD/log/clippy.log
	rm -rf "$BUILD/clippy"
	mkdir -p "$BUILD/log"
	OUT=$BUILD/clippy "$SCRIPTS/build/modules.sh" stock CLIPPY=1 modules >"$log" 2>&1 || {
		cat "$log"
		return 1
	}
	awk '/^(warning|error)/ { shown = 1; found = 1 } /^$/ { shown = 0 } shown; END { exit found }' "$log"
}

format_of_workspace() { in_root cargo fmt --check --all --manifest-path "$1/Cargo.toml"; }

clippy_of_workspace() {
	with_crates dev cargo clippy --quiet --locked --workspace --all-targets --all-features \
		-j "$JOBS" --manifest-path "$1/Cargo.toml" -- -D warnings
}

# in_code WORD FOLDER : fails if the word is in code, not only in comments.
in_code() {
	local file status=0
	for file in $(matching "$2/*.rs"); do
		sed 's|//.*||' "$file" | grep -nw "$1" || continue
		echo "is in $file"
		status=1
	done
	return $status
}

denies_unsafe_code() { grep -qxF '#![deny(unsafe_code)]' "$1" || { echo "$1 has no line #![deny(unsafe_code)]" && false; }; }

# -- All files -----------------------------------------------------------------

shell_scripts() {
	local file first scripts=()
	for file in "${files[@]}"; do
		IFS= read -r first <"$file" || true
		[[ $file != *.sh && ! $first =~ ^'#!'.*(bash|busybox\ sh|/sh)$ ]] || scripts+=("$file")
	done 2>/dev/null # null bytes
	in_root shellcheck "${scripts[@]}"
}

# In the first lines, where tools look for it. What a tool generates or a
# format without comments cannot hold one; and LICENSE is the licence.
spdx_lines() {
	local file status=0
	for file in "${files[@]}"; do
		case $file in
		LICENSE | *.lock | *.json | *.patch | *.png | *.svg | *.txt) continue ;;
		esac
		head -n 3 "$file" | grep -q 'SPDX-License-Identifier: ' && continue
		echo "$file: no SPDX-License-Identifier in its first three lines"
		status=1
	done
	return $status
}

file_lengths() {
	local file length status=0
	for file in $(matching 'rust/*.rs' 'rust/*.[ch]' 'samples/*.rs'); do
		length=$(wc -l <"$file")
		[ "$length" -gt 500 ] || continue
		echo "$file: $length lines, more than 500"
		status=1
	done
	return $status
}

# Where this checkout and its cache happen to be is nobody else's business.
paths_of_this_machine() {
	! grep -nF -e "$TOP/" -e "$CACHE" -e "/$(basename "$HOME")/.cache" "${files[@]}"
}

# The programs say the version of the newest release.
versions_agree() {
	local released programs
	released=$(sed -n 's/^## \([0-9.]*\) - .*/\1/p' "$TOP/CHANGELOG.md" | head -n1)
	programs=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$TOP/samples/Cargo.toml")
	[ -n "$released" ] && [ "$programs" = "$released" ] && return
	echo "samples/Cargo.toml: version $programs; CHANGELOG.md: $released"
	return 1
}

patches_apply() { GIT_CEILING_DIRECTORIES=$stock git -C "$stock/linux" apply --check "$TOP"/Documentation/upstream/*.patch; }

check "rustfmt: kernel crates" format_of_kernel_crates
check "clippy: kernel crates" clippy_of_kernel_crates
for workspace in samples rust/host-tests; do
	check "rustfmt: $workspace" format_of_workspace "$workspace"
	check "clippy: $workspace" clippy_of_workspace "$workspace"
done
check "no emulator in rust/hmm" in_code emu rust/hmm
for crate in rust/dmirror/dmirror.rs samples/minimal/driver.rs; do
	check "no unsafe in $(dirname "$crate")" in_code unsafe "$(dirname "$crate")"
	check "no bindings in $(dirname "$crate")" in_code bindings "$(dirname "$crate")"
	check "unsafe is denied in $crate" denies_unsafe_code "$crate"
done
check "unsafe is denied in samples/ivshmem/driver.rs" denies_unsafe_code samples/ivshmem/driver.rs
check "shellcheck" shell_scripts
check "SPDX lines" spdx_lines
check "at most 500 lines a file" file_lengths
check "versions agree" versions_agree
check "patches for mm apply" patches_apply
check "no paths of this machine" paths_of_this_machine
totals
