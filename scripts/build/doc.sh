#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Make the documentation of the kernel crates and of the client library, in
# build/doc. A warning is an error. Each crate is one case.
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/cases.sh"

out=$("$SCRIPTS/build/modules.sh" stock)
rm -rf "$BUILD/doc"
mkdir -p "$BUILD/doc"

# kernel_crate NAME [OPTION...] : kbuild has no rustdoc target for external
# modules, so the command that compiled the crate is taken from what kbuild
# noted, without what concerns its output.
kernel_crate() {
	local name=$1 command word words=("${@:2}") environment=()
	command=$(sed -n "s|^savedcmd_rust/$name/$name.o := ||p" "$out/rust/$name/.$name.o.cmd")
	eval "set -- ${command%%;*}"
	for word; do
		case $word in
		rustc | --emit=* | --out-dir | rust/"$name"/) ;;
		[A-Z_]*=*) environment+=("$word") ;;
		*) words+=("$word") ;;
		esac
	done
	in_root env -C "$out" RUSTC_BOOTSTRAP=1 DMIRROR_OBJ="$out" "${environment[@]}" \
		rustdoc "${words[@]}" -Dwarnings --crate-name "$name" --output "$BUILD/doc"
}

client_library() {
	with_crates dev env RUSTDOCFLAGS=-Dwarnings cargo doc --quiet --locked \
		--no-deps -p dmirror-client --manifest-path "$TOP/samples/Cargo.toml" -j "$JOBS" &&
		cp -r "$BUILD/cargo-dev/doc" "$BUILD/doc/client"
}

check "rustdoc: hmm" kernel_crate hmm
check "rustdoc: emu" kernel_crate emu
# A module has no public items: all of them are shown.
check "rustdoc: dmirror" kernel_crate dmirror --document-private-items
check "rustdoc: dmirror-client" client_library
note "see $BUILD/doc: hmm, emu, dmirror, client/dmirror_client (index.html)"
totals
