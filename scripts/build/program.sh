#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Build a program for the guest from one file: in C, with the headers of rust/uapi, or in
# Rust, with the crates dmirror-client and anyhow. Prints the path of the program, which is
# static and has the name of the file.
#
#   scripts/build/program.sh FILE.c|FILE.rs
. "$(dirname "$0")/../lib/lib.sh"

[ $# -eq 1 ] || die "no file was given" "Usage: scripts/build/program.sh FILE.c|FILE.rs"
[ -r "$1" ] || die "$1 is not there or not readable"
name=$(basename "${1%.*}")
[[ $name =~ ^[a-zA-Z][a-zA-Z0-9_-]*$ ]] || die "the name '$name' is none for a program" "It has letters, digits, - and _."
folder=$BUILD/$(built_for programs)/$name
mkdir -p "$folder"

case $1 in
*.c)
	cp "$1" "$folder/main.c"
	in_root "${CROSS}gcc" -O2 -Wall -static -I"$TOP/rust/uapi" -o "$folder/$name" "$folder/main.c" >&2
	;;
*.rs)
	# With the versions of samples/, whose crates are compiled already.
	cp "$1" "$folder/main.rs"
	cp "$TOP/samples/Cargo.lock" "$folder"
	cat >"$folder/Cargo.toml" <<-EOF
		[workspace]
		[package]
		name = "program-$name"
		edition = "2024"
		[[bin]]
		name = "program-$name"
		path = "main.rs"
		[dependencies]
		anyhow = "1.0"
		dmirror-client.path = "$TOP/samples/dmirror-client"
	EOF
	sed -n '/^\[profile\.release\]/,/^$/p' "$TOP/samples/Cargo.toml" >>"$folder/Cargo.toml"
	with_crates release "${PROGRAM[@]}" --quiet --offline --manifest-path "$folder/Cargo.toml" >&2
	cp "$BUILD/cargo-release${CROSS:+-$ARCH}/$PROGRAM_TARGET/release/program-$name" "$folder/$name"
	;;
*) die "$1 ends neither in .c nor in .rs" ;;
esac
printf '%s\n' "$folder/$name"
