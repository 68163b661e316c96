#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Check whether the modules can be built against a kernel build folder, and with which
# tools: those of this host, or those of the build root. Prints `host` or `root`. Names
# everything that is missing, and what to do.
#
#   scripts/build/preflight.sh KDIR
#   scripts/build/preflight.sh --guest KDIR     whether a guest can boot it; prints nothing
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/kdir.sh"

guest=
if [ "${1:-}" = --guest ]; then
	guest=1
	shift
fi
[ $# -eq 1 ] || die "no folder was given" "Usage: scripts/build/preflight.sh [--guest] KDIR"
KDIR=$1
problems=0

# lack WHAT ADVICE
lack() {
	printf 'preflight: %s\n    %s\n' "$1" "$2" >&2
	problems=$((problems + 1))
}

check_files() {
	local rebuild="Build the kernel there (make), or at least 'make modules_prepare' and a Module.symvers."
	[ -e "$KDIR/Module.symvers" ] || lack "$KDIR/Module.symvers is not there" "$rebuild"
	[ -e "$KDIR/rust/libkernel.rmeta" ] || lack "$KDIR/rust/libkernel.rmeta is not there: no Rust metadata" \
		"Use the build folder, not installed headers; for a kernel of Debian, scripts/build/rust-ready-kernel.sh makes one."
	local output release=$KDIR/include/config/kernel.release series
	# The makefile of a build folder that was moved or copied builds in the old place.
	output=$(sed -n 's/^export KBUILD_OUTPUT = //p' "$KDIR/Makefile" 2>/dev/null || true)
	[ -z "$output" ] || [ "$(realpath -m "$output")" = "$(realpath "$KDIR")" ] ||
		lack "the build folder was moved or copied: its Makefile builds in $output" \
			"Use that folder, or let the kernel make the Makefile again: make -C SOURCE O=$KDIR modules_prepare"
	if [ ! -e "$release" ]; then
		lack "$release is not there" "$rebuild"
	else
		series=$(sed -E 's/^([0-9]+\.[0-9]+).*/\1/' "$release")
		# Whoever works on the next series has nothing else to build for.
		[[ " ${KERNEL_SERIES[*]} " == *" $series "* ]] ||
			note "the kernel is $(cat "$release"); this tree was tested on ${KERNEL_SERIES[*]}, and may not build"
	fi
}

check_options() {
	local name advice
	for name in $(needed_options); do
		case $name in
		HMM_MIRROR | MMU_NOTIFIER) advice="It has no prompt: CONFIG_TEST_HMM=m selects it." ;;
		64BIT) advice="dmirror is for machines of 64 bits." ;;
		RUST) advice="Set it ('make rustavailable' says what hinders it) and rebuild the kernel." ;;
		*) advice="Set it and rebuild the kernel." ;;
		esac
		[ "$(kdir_option "$name")" = y ] || lack "CONFIG_$name is not set" "$advice"
	done
	[ -z "$(kdir_option MODVERSIONS)" ] || lack "CONFIG_MODVERSIONS is set" \
		"An external Rust module gets no symbol versions without it being rebuilt with the kernel: unset it and rebuild."
	case $ARCH in
	x86_64) name=X86_64 ;;
	arm64) name=ARM64 ;;
	esac
	[ "$(kdir_option "$name")" = y ] || lack "this is no kernel for $ARCH" "ARCH names the machine: x86_64 or arm64."
}

# compiler PLACE : the command for the C compiler of the kernel's kind.
compiler() {
	local llvm
	llvm=$(kdir_llvm "$1")
	if [ -z "$(kdir_option CC_IS_CLANG)" ]; then
		printf '%sgcc\n' "$CROSS"
	else
		case $llvm in
		*/) printf '%sclang\n' "$llvm" ;;
		-*) printf 'clang%s\n' "$llvm" ;;
		*) echo clang ;;
		esac
	fi
}

# versions PLACE : what rustc, bindgen and the C compiler say of themselves, a line each.
versions() {
	local run=()
	[ "$1" = host ] || run=(in_root)
	# shellcheck disable=SC2016 # expanded by the inner shell
	"${run[@]}" env LC_ALL=C bash -c 'for tool; do
		line=$("$tool" --version 2>/dev/null | head -n1)
		printf "%s\n" "${line:-none}"
	done' versions rustc bindgen "$(compiler "$1")"
}

# fit PLACE : compares its tools with those of the kernel. Sets tools, and fits: exactly, almost (another
# C compiler, of the same kind), or to nothing.
fit() {
	local wanted name index
	mapfile -t tools < <(versions "$1")
	# Without a build root there is nothing.
	[ "${#tools[@]}" -eq 3 ] || tools=(none none none)
	fits=exactly
	for index in 0 1 2; do
		name=${names[index]} wanted=${built_with[index]}
		[ "${tools[index]}" != none ] || fits=
		# gcc begins with the name by which it was called.
		[ -z "$wanted" ] || [ "${wanted#*gcc* (}" = "${tools[index]#*gcc* (}" ] ||
			case $name in
			compiler) fits=${fits:+almost} ;;
			*) fits= ;;
			esac
	done
}

# choose_tools: sets place. Symbol names depend on the very version of rustc.
choose_tools() {
	local names=(rustc bindgen compiler) built_with=() name fits='' almost='' index tools=() seen=()
	place=
	for name in RUSTC BINDGEN CC; do built_with+=("$(kdir_option "${name}_VERSION_TEXT")"); done
	for name in host root; do
		fit "$name"
		seen+=("${tools[@]}")
		case $fits in
		exactly) place=$name && break ;;
		almost) almost=${almost:-$name} ;;
		esac
	done
	[ "$place" != root ] || note "building with the tools of the build root, which are those of the kernel"
	[ -n "$place" ] || [ -z "$almost" ] || {
		place=$almost
		index=$([ "$place" = host ] && echo 2 || echo 5)
		note "the C compiler of this $place is '${seen[index]}', and the kernel was built with '${built_with[2]}'"
	}
	[ -n "$place" ] || for index in 0 1 2; do
		[ "${built_with[index]}" = "${seen[index]}" ] || [ "${built_with[index]}" = "${seen[index + 3]}" ] ||
			lack "the kernel was built with '${built_with[index]}', this host has '${seen[index]}', the build root has '${seen[index + 3]}'" \
				"Symbol names depend on rustc, and bindings on bindgen: put those very versions first on PATH, or build the kernel with others."
	done
	[ -n "$place" ] || [ "$problems" -gt 0 ] || lack "neither this host nor the build root has all tools of the kernel: ${built_with[*]}" \
		"Put those very versions of rustc and bindgen first on PATH, with ${built_with[2]}."
	[ "$place" != host ] || check_host
}

# check_host: what the kernel's build system calls besides.
check_host() {
	local need needs=(make:make)
	[ -z "$(kdir_option CC_IS_CLANG)" ] || [[ ${LLVM:-1} == [-/]* ]] || needs+=(ld.lld:lld)
	[ -z "$(kdir_option DEBUG_INFO_BTF_MODULES)" ] || needs+=(pahole:dwarves)
	for need in "${needs[@]}"; do
		command -v "${need%%:*}" >/dev/null || lack "${need%%:*} is not there" "Install it (Debian: apt-get install ${need#*:})."
	done
}

# check_guest: what guest.sh and guest/inside/init rest on.
check_guest() {
	local name names=(
		BLK_DEV_INITRD BINFMT_ELF BINFMT_SCRIPT PRINTK TTY PROC_FS SYSFS DEVTMPFS TMPFS
		FUTEX FILE_LOCKING MODULE_UNLOAD
	)
	case $ARCH in
	# Without ACPI the guest does not power off.
	x86_64) names+=(SERIAL_8250 SERIAL_8250_CONSOLE ACPI) ;;
	arm64) names+=(SERIAL_AMBA_PL011 SERIAL_AMBA_PL011_CONSOLE) ;;
	esac
	for name in "${names[@]}"; do
		[ "$(kdir_option "$name")" = y ] || lack "CONFIG_$name is not =y" \
			"A guest needs it; scripts/build/debug-config.sh prints all that it needs."
	done
	[ -z "$(kdir_option MODULE_SIG_FORCE)" ] || lack "CONFIG_MODULE_SIG_FORCE is set" \
		"The modules are not signed: unset it and rebuild."
	[ -r "$KDIR/$BOOT_IMAGE" ] || lack "$KDIR/$BOOT_IMAGE is not there" "Build it: make ${BOOT_IMAGE##*/} there."
}

if [ ! -d "$KDIR" ]; then
	lack "KDIR=$KDIR is not a folder" "KDIR is the build folder of a kernel."
elif [ ! -e "$KDIR/.config" ]; then
	lack "$KDIR/.config is not there: no kernel was configured in it" "KDIR is the build folder of a kernel."
elif [ -n "$guest" ]; then
	check_guest
	[ "$problems" -eq 0 ] || die "no guest can boot the kernel in $KDIR: $problems problem(s), named above"
	exit
else
	check_files
	check_options
	choose_tools
fi
[ "$problems" -eq 0 ] || die "cannot build against $KDIR: $problems problem(s), named above"
printf '%s\n' "$place"
