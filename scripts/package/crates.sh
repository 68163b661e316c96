#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Get the crates of others that the programs are made of, for the source package. Prints
# a folder that has
#   vendor.tar.xz   their source, as cargo takes it without a network
#   copyright       who wrote them and under which licence, for debian/copyright
. "$(dirname "$0")/../lib/lib.sh"

cd "$TOP"
mapfile -t manifests < <(find samples -name Cargo.toml -o -name Cargo.lock | sort)
folder=$CACHE/vendor-$(key_of "$0" "$SCRIPTS/package/crates.py" "${manifests[@]}")

# Cargo has a home of its own here: with the usual one it would wait until no other
# cargo builds any more.
make_folder() {
	local dir=$1
	in_root env CARGO_HOME="$dir/cargo" cargo vendor --locked --manifest-path "$TOP/samples/Cargo.toml" "$dir/vendor"
	in_root env CARGO_HOME="$dir/cargo" "$SCRIPTS/package/crates.py" "$TOP/samples/Cargo.toml" "$dir/vendor" >"$dir/copyright"
	in_root tar -c --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$dir" vendor | in_root xz -6 -T0 >"$dir/vendor.tar.xz"
	rm -r "$dir/vendor" "$dir/cargo"
}

if ! is_made "$folder"; then
	hold_lock vendor
	make_once "$folder" run_step "Getting the source of crates" "1 to 2 minutes" make_folder
fi
printf '%s\n' "$folder"
