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

# What is built for: the machine that this runs on, or the one that ARCH names.
arch_of() {
	case $1 in
	x86_64 | amd64 | x86) echo x86_64 ;;
	arm64 | aarch64) echo arm64 ;;
	*) die "ARCH=$1" "ARCH is x86_64 or arm64." ;;
	esac
}
HOST_ARCH=$(arch_of "$(uname -m)")
ARCH=$(arch_of "${ARCH:-$HOST_ARCH}")
case $ARCH in
x86_64)
	DEBIAN_ARCH=amd64 GNU_ARCH=x86_64 QEMU=qemu-system-x86 BOOT_IMAGE=arch/x86/boot/bzImage
	# A guest's serial ports, and where its memory ends if it has 4 GiB.
	SERIAL=ttyS MEMORY_END=0x180000000
	# HPET stays off: under emulation the stock kernel hangs while it probes it.
	MACHINE=q35,hpet=off
	# Four levels are a quarter faster under emulation. With five the debug kernel
	# complains now and then while it boots, for nothing: an interrupt that arrives
	# while the kernel identifies its processor finds the feature bits cleared, and
	# KASAN takes good addresses for wild ones.
	FOUR_LEVELS=no5lvl
	;;
arm64)
	DEBIAN_ARCH=arm64 GNU_ARCH=aarch64 QEMU=qemu-system-arm BOOT_IMAGE=arch/arm64/boot/Image
	SERIAL=ttyAMA MEMORY_END=0x140000000 MACHINE=virt FOUR_LEVELS=
	;;
esac
KERNEL_FLAVOUR=cloud-$DEBIAN_ARCH

# The size of the kernel's pages, where the machine has several.
PAGES=${PAGES:-4K}
case $ARCH:$PAGES in
*:4K) ;;
arm64:16K) KERNEL_FLAVOUR=arm64-16k ;;
# Debian has no such kernel: the debug kernel can have these.
arm64:64K) ;;
*) die "PAGES=$PAGES with ARCH=$ARCH" "PAGES is 4K or, with ARCH=arm64, 16K or 64K." ;;
esac
KERNEL_LOCALVERSION=+deb13-$KERNEL_FLAVOUR
# Where compilers and QEMU are those of another machine. What runs on the host stays
# the host's.
CROSS=
[ "$ARCH" = "$HOST_ARCH" ] || CROSS=$GNU_ARCH-linux-gnu-

HOST_QEMU=qemu-system-x86
[ "$HOST_ARCH" = x86_64 ] || HOST_QEMU=qemu-system-arm

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
	"$HOST_QEMU" busybox-static
)
# For the part of the kernel that 32-bit programs use.
[ "$HOST_ARCH" != arm64 ] || ROOT_PACKAGES+=(gcc-arm-linux-gnueabihf)

# What the build root has besides when it builds for another machine.
CROSS_PACKAGES=(
	"gcc-${GNU_ARCH//_/-}-linux-gnu" "libc6-dev-$DEBIAN_ARCH-cross" "libstd-rust-dev:$DEBIAN_ARCH"
	"libnuma-dev:$DEBIAN_ARCH" "$QEMU" qemu-user
)
[ "$ARCH" != arm64 ] || CROSS_PACKAGES+=(gcc-arm-linux-gnueabihf)

# Programs that run with their memory on the device, see real.sh.
REAL_PACKAGES=(
	coreutils dash diffutils grep perl-base python3 redis-server redis-tools sed sqlite3 stress-ng xz-utils
)

# What the kernel's selftests of mm run on, see conformance.sh ksft.
KSELFTEST_PACKAGES=(bash coreutils dash debianutils grep kmod mawk sed)

# Host commands that everything rests on, and the Debian package of each. mmdebstrap
# needs python3 as well.
HOST_NEEDS=(
	mmdebstrap:mmdebstrap
	python3:python3
	unshare:util-linux
	tar:tar
	sha256sum:coreutils
)
