#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Compile the crates of others that user space is made of, in the cache: they
# change only when Cargo.lock does, and most of a new checkout's first build is
# theirs. Prints a folder that cargo can go on from; cargo_in_root in
# scripts/lib/lib.sh copies it.
#
#   scripts/build/crates.sh release|dev
#
# release: for the programs. dev: for tests, clippy and documentation.
. "$(dirname "$0")/../lib/lib.sh"

kind=${1:-}
case $kind in
release) workspaces=(samples) ;;
dev) workspaces=(samples rust/host-tests) ;;
*) die "there is no kind '$kind'" "Usage: scripts/build/crates.sh release|dev" ;;
esac

# Which crates there are, with which features, and how they are compiled.
cd "$TOP"
mapfile -t manifests < <(find "${workspaces[@]}" -name Cargo.toml -o -name Cargo.lock | sort)
root=$("$SCRIPTS/build/root.sh")
folder=$CACHE/crates-$kind-$(key_of "$(basename "$root")" "$0" "${PROGRAM[*]}" "${manifests[@]}")

# Our own crates are there by name, with nothing in them.
make_folder() {
	local dir=$1 manifest package packages=() workspace
	local skeleton=$dir/skeleton
	for manifest in "${manifests[@]}"; do
		install -D -m644 "$manifest" "$skeleton/$manifest"
		package=$skeleton/${manifest%/*}
		grep -q '^\[package\]' "$manifest" || continue
		packages+=("$(sed -n 's/^name = "\(.*\)"$/\1/p' "$manifest")")
		mkdir "$package/src"
		echo '#![allow(missing_docs)]' >"$package/src/lib.rs"
		[ ! -e "${manifest%/*}/build.rs" ] || printf '%s\n' '#![allow(missing_docs)]' 'fn main() {}' >"$package/build.rs"
	done
	in_skeleton() {
		in_root env CARGO_TARGET_DIR="$dir/target" "$@" --workspace --locked --manifest-path "$skeleton/$workspace/Cargo.toml"
	}
	for workspace in "${workspaces[@]}"; do
		if [ "$kind" = release ]; then
			in_skeleton "${PROGRAM[@]}"
		else
			in_skeleton cargo clippy --all-targets --all-features
			in_skeleton cargo test --no-run --all-features
		fi
	done
	# Cargo must not take them for the real ones: it compares times of files.
	for package in "${packages[@]}"; do
		rm -rf "$dir"/target/{,*/}{debug,release}/{.fingerprint,build}/"$package"-*
	done
	rm -rf "$skeleton" "$dir"/target/{,*/}{debug,release}/incremental
}

if ! is_made "$folder"; then
	hold_lock "crates-$kind"
	make_once "$folder" run_step "Compiling crates ($kind)" "1 to 3 minutes" make_folder
fi
printf '%s\n' "$folder/target"
