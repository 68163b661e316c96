#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Make a build folder for Rust modules out of a stock Debian kernel.
#
# Debian's linux-headers packages hold no Rust metadata (rust/*.rmeta, the
# macro libraries, target.json), so no Rust module can be built against them.
# This script makes a folder that a module can be built against with
# `make -C FOLDER/build M=$PWD`, without rebuilding the kernel: Debian's source
# and configuration, prepared with the compilers that Debian used, and Debian's
# list of exported symbols. It proves at the end that the Rust symbols of the
# folder carry the names that the stock kernel exports.
#
# It stands alone: copy it to any Debian machine whose package sources offer
# the kernel's packages. It needs no privilege and installs nothing.
#
# In FOLDER afterwards:
#   linux/         the kernel's source, with Debian's patches
#   build/         the build folder: use it as KDIR
#   stock/         the package of the stock kernel, unpacked: vmlinuz and modules
set -euo pipefail

usage() {
	cat <<'USAGE'
Usage: rust-ready-kernel.sh [--release RELEASE] FOLDER

  --release RELEASE   the kernel, as `uname -r` prints it, for example
                      7.3.4+deb13-cloud-amd64 (default: the running kernel)
  FOLDER              where to put the result; must not exist, or be empty
USAGE
}

die() {
	printf 'rust-ready-kernel.sh: error: %s\n' "$1" >&2
	shift
	local line
	for line; do printf '    %s\n' "$line" >&2; done
	exit 1
}

say() { printf '==> %s\n' "$*"; }

release=$(uname -r)
folder=
while [ $# -gt 0 ]; do
	case $1 in
	--release)
		[ $# -ge 2 ] || die "--release wants a kernel release"
		release=$2
		shift 2
		;;
	-h | --help)
		usage
		exit
		;;
	-*) die "unknown option $1" "See --help." ;;
	*)
		[ -z "$folder" ] || die "more than one folder was given: $folder and $1"
		folder=$1
		shift
		;;
	esac
done
[ -n "$folder" ] || {
	usage >&2
	exit 2
}
[[ $release =~ ^([0-9]+\.[0-9]+)(\.[0-9]+)?([-+].*)?$ ]] ||
	die "'$release' does not look like a kernel release" "Example: 7.3.4+deb13-cloud-amd64"
series=${BASH_REMATCH[1]}
version=$series${BASH_REMATCH[2]}
localversion=${BASH_REMATCH[3]}

# Each tool, and the Debian package that has it.
missing=()
for need in make:make gcc:gcc flex:flex bison:bison bc:bc perl:perl python3:python3 \
	rustc:rustc bindgen:bindgen pahole:dwarves xz:xz-utils dpkg-deb:dpkg nm:binutils rsync:rsync \
	openssl:openssl; do
	command -v "${need%%:*}" >/dev/null || missing+=("${need#*:}")
done
[ -e "$(rustc --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library/core/src/lib.rs" ] || missing+=(rust-src)
[ -e /usr/include/libelf.h ] || missing+=(libelf-dev)
[ -e /usr/include/openssl/ssl.h ] || missing+=(libssl-dev)
[ "${#missing[@]}" -eq 0 ] || die "these packages are missing: ${missing[*]}" \
	"Install them with: sudo apt-get install ${missing[*]}"

if [ -e "$folder" ] && [ -n "$(ls -A "$folder")" ]; then
	die "$folder is there already and not empty"
fi
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
# What a failure left would be in the way of the next try.
trap '[ $? -eq 0 ] || rm -rf -- "${folder:?}"/*' EXIT
trap 'exit 130' INT TERM HUP
jobs=${JOBS:-$(nproc)}

# Packages whose names differ from release to release of Debian.
first_known() {
	local name
	for name; do
		if [ -n "$(apt-cache show --no-all-versions "$name" 2>/dev/null)" ]; then
			printf '%s\n' "$name"
			return
		fi
	done
	die "the package index has none of: $*" \
		"Is the suite that ships this kernel among the package sources, and the index fresh (sudo apt-get update)?"
}

say "Downloading the packages of Linux $release"
mkdir "$folder/packages"
headers=$(first_known "linux-headers-$release")
binary=$(first_known "linux-binary-$release" "linux-image-$release")
source=$(first_known "linux-source-$series")
package_version=$(apt-cache show --no-all-versions "$headers" | sed -n 's/^Version: //p')
(
	cd "$folder/packages"
	apt-get download -q -o APT::Sandbox::User=root "$headers" "$binary" "$source=$package_version"
) || die "could not download $headers, $binary and $source=$package_version" \
	"If the index is old: sudo apt-get update. If $source has moved on, its kernel is the one to use."

say "Unpacking"
mkdir "$folder/headers"
for package in "$folder/packages"/linux-headers-*.deb; do dpkg-deb -x "$package" "$folder/headers"; done
mkdir "$folder/stock"
for package in "$folder/packages"/linux-binary-*.deb "$folder/packages"/linux-image-*.deb; do
	[ ! -e "$package" ] || dpkg-deb -x "$package" "$folder/stock"
done
dpkg-deb --fsys-tarfile "$folder/packages"/linux-source-*.deb |
	tar -xO "./usr/src/linux-source-$series.tar.xz" | xz -dc -T0 | tar -x -C "$folder" --no-same-owner
mv "$folder/linux-source-$series" "$folder/linux"
rm -r "$folder/packages"

headers_dir=$folder/headers/usr/src/linux-headers-$release
build=$folder/build
for file in .config Module.symvers; do
	[ -e "$headers_dir/$file" ] || die "$headers has no $file"
done
grep -q '^CONFIG_RUST=y' "$headers_dir/.config" || die "Linux $release was built without Rust support"

# Symbol names contain a hash of the compiler's version: another compiler
# gives a module that builds and does not load.
built_with=$(sed -n 's/^CONFIG_RUSTC_VERSION_TEXT="\(.*\)"$/\1/p' "$headers_dir/.config")
here=$(rustc --version)
[ "$built_with" = "$here" ] || die "the kernel was built with $built_with, and here is $here" \
	"Use the compilers of the Debian release that the kernel package was built for."

say "Configuring and preparing (1 to 3 minutes)"
mkdir "$build"
cp "$headers_dir/.config" "$build/.config"
kernel_make() { make -C "$folder/linux" O="$build" LOCALVERSION="$localversion" -j"$jobs" "$@"; }
kernel_make olddefconfig
# What the stock kernel was configured with must come out again; a difference
# means a tool is missing here, and structures of another layout. The name by
# which gcc was called is no difference; its version is a line of its own.
options() { grep -v -e '^#' -e '^CONFIG_CC_VERSION_TEXT=' "$1" | sort; }
if ! config_change=$(diff <(options "$headers_dir/.config") <(options "$build/.config")); then
	printf '%s\n' "$config_change"
	die "the configuration changed as shown above" "A tool that Debian's kernel was built with is missing or of another version."
fi
kernel_make modules_prepare
cp "$headers_dir/Module.symvers" "$build/Module.symvers"
rm -r "$folder/headers"

made=$(cat "$build/include/config/kernel.release")
[ "$made" = "$release" ] || die "the prepared folder calls itself $made, not $release"

say "Comparing Rust symbols with those of the stock kernel"
exported=$(sed -n 's/^EXPORT_SYMBOL_RUST_GPL(\(.*\));$/\1/p' "$build"/rust/exports_*_generated.h | sort -u)
[ -n "$exported" ] || die "no Rust symbols were found in $build/rust"
absent=$(comm -23 <(printf '%s\n' "$exported") <(cut -f2 "$build/Module.symvers" | sort -u))
[ -z "$absent" ] || die "the stock kernel does not export these Rust symbols:" "$absent"
say "All $(wc -l <<<"$exported") Rust symbols of Linux $version$localversion match. Build modules with:"
printf '    make -C %s M=$PWD\n' "$build"
