# shellcheck shell=bash disable=SC2034
# SPDX-License-Identifier: GPL-2.0
#
# What this project is built with and for: the one place where versions and
# package lists stand. Sourced by scripts/lib/lib.sh.

# The Debian release of the build root, and the suite that ships the kernel.
DEBIAN_SUITE=trixie
KERNEL_SUITE=trixie-backports

# The kernel series that this tree was tested on, the newest last; SERIES chooses one,
# or another. Of a series the newest package is used that the index offers.
# Documentation/series.md says how to add one.
KERNEL_SERIES=(7.2 7.3)
KERNEL_LOCALVERSION=+deb13-cloud-amd64

# Packages of the build root. Compilers come from the same release that built
# the stock kernel, because Rust metadata and symbol names depend on them.
ROOT_PACKAGES=(
	# compilers and kernel build
	make gcc libc6-dev flex bison bc libelf-dev libssl-dev dwarves
	rustc rust-src rustfmt rust-clippy bindgen clang llvm lld
	cpio xz-utils zstd kmod python3 perl rsync
	# user space, checks
	cargo shellcheck libnuma-dev ca-certificates
	# the guest
	qemu-system-x86 busybox-static
)

# Programs that run with their memory on the device, see real.sh.
REAL_PACKAGES=(
	coreutils dash diffutils grep perl-base python3 redis-server redis-tools sed sqlite3 stress-ng xz-utils
)

# Host commands that everything rests on, and the Debian package of each. mmdebstrap
# needs python3 as well.
HOST_NEEDS=(
	mmdebstrap:mmdebstrap
	python3:python3
	unshare:util-linux
	tar:tar
	sha256sum:coreutils
)
