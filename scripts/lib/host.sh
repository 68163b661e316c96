# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# What depends on the host: how packages are installed on it, whether its guests can use KVM,
# and which of its files they get. Source it after lib.sh.

# distribution FILE : the package manager that this os-release stands for.
distribution() {
	local file=$1 name
	# shellcheck source=/dev/null
	for name in $( (. "$file" && echo "${ID:-} ${ID_LIKE:-}") 2>/dev/null); do
		case $name in
		debian | ubuntu) echo debian && return ;;
		fedora | rhel) echo fedora && return ;;
		arch) echo arch && return ;;
		esac
	done
	echo other
}

# install_advice DISTRIBUTION PACKAGE... : how to install packages, by the names of Debian.
install_advice() {
	local distribution=$1 name packages=()
	shift
	for name; do
		case $distribution:$name in
		fedora:uidmap) name=shadow-utils ;;
		fedora:debian-archive-keyring) name=debian-keyring ;;
		arch:uidmap) name=shadow ;;
		arch:python3) name=python ;;
		esac
		packages+=("$name")
	done
	case $distribution in
	debian) echo "Install them with: sudo apt-get install ${packages[*]}" ;;
	fedora) echo "Install them with: sudo dnf install ${packages[*]}" ;;
	arch) echo "Install them with pacman, and mmdebstrap from the AUR: ${packages[*]}" ;;
	*) echo "Install them; these are the names of Debian's packages." ;;
	esac
}

# kvm_works [DEVICE [CPUINFO]] : whether guests can use KVM. A device file may be there and
# usable on an x86 machine whose processor does not offer it; a guest then hangs at its first
# instruction.
kvm_works() {
	local device=${1:-/dev/kvm} cpuinfo=${2:-/proc/cpuinfo}
	[ -z "$CROSS" ] && [ -r "$device" ] && [ -w "$device" ] || return 1
	[ "$ARCH" != x86_64 ] || grep -qE '^flags.* (vmx|svm)( |$)' "$cpuinfo"
}

# choose_accel ACCEL CLOCK [DEVICE [CPUINFO]] : sets accel, cpu and clock, options of QEMU. ACCEL
# is empty or a choice; with CLOCK=instructions each instruction takes a nanosecond.
# shellcheck disable=SC2034 # for who calls it
choose_accel() {
	accel=tcg,thread=multi
	if [ -n "$1" ]; then
		accel=$1
	elif kvm_works "${@:3}"; then
		accel=kvm
	fi
	# Emulated, a string instruction takes time for each of its steps (and counts
	# as many, where instructions are counted): the kernel shall not copy by bytes.
	cpu=max,-erms,-fsrm clock=
	# A processor without what is slow to emulate: signed pointers, five levels.
	[ "$ARCH" != arm64 ] || cpu=neoverse-n1
	if [ "${accel%%,*}" = kvm ]; then
		cpu=host
	elif [ "$2" = instructions ]; then
		# Processors take turns then, in one thread.
		accel=tcg,thread=single clock='-icount shift=0,sleep=off'
		# Linux takes `max` for one of 2005 that is slow at string instructions, and
		# copies and clears pages in another way than on any machine of today.
		[ "$ARCH" != x86_64 ] || cpu+=,vendor=GenuineIntel,family=6,model=94
	fi
}

# check_files FILE... : stops unless each can be read, and all have different names.
check_files() {
	local file names=' '
	for file; do
		[ -r "$file" ] || die "FILES names $file, which is not there or not readable"
		[[ $names != *" ${file##*/} "* ]] || die "FILES names two files called ${file##*/}"
		names+="${file##*/} "
	done
}
