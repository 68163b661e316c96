#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Check whether the modules can be built against a kernel build folder, with
# the tools of this host. Names everything that is missing, and what to do.
#
#   scripts/build/preflight.sh KDIR
. "$(dirname "$0")/../lib/lib.sh"

[ $# -eq 1 ] || die "no folder was given" "Usage: scripts/build/preflight.sh KDIR"
kdir=$1
problems=0

# lack WHAT ADVICE
lack() {
	printf 'preflight: %s\n    %s\n' "$1" "$2" >&2
	problems=$((problems + 1))
}
option() { sed -n "s/^CONFIG_$1=\"\{0,1\}\([^\"]*\)\"\{0,1\}\$/\1/p" "$kdir/.config"; }

check_files() {
	local rebuild="Build the kernel there (make), or at least 'make modules_prepare' and a Module.symvers."
	[ -e "$kdir/Module.symvers" ] || lack "$kdir/Module.symvers is not there" "$rebuild"
	[ -e "$kdir/rust/libkernel.rmeta" ] || lack "$kdir/rust/libkernel.rmeta is not there: no Rust metadata" \
		"Use the build folder, not installed headers; for a kernel of Debian, scripts/build/rust-ready-kernel.sh makes one."
	local release=$kdir/include/config/kernel.release series
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
	for name in RUST ZONE_DEVICE DEVICE_PRIVATE HMM_MIRROR MMU_NOTIFIER MIGRATION MEMORY_HOTREMOVE TRANSPARENT_HUGEPAGE; do
		case $name in
		HMM_MIRROR | MMU_NOTIFIER) advice="It has no prompt: CONFIG_TEST_HMM=m selects it." ;;
		RUST) advice="Set it ('make rustavailable' says what hinders it) and rebuild the kernel." ;;
		*) advice="Set it and rebuild the kernel." ;;
		esac
		[ "$(option "$name")" = y ] || lack "CONFIG_$name is not set" "$advice"
	done
	[ -z "$(option MODVERSIONS)" ] || lack "CONFIG_MODVERSIONS is set" \
		"An external Rust module gets no symbol versions without it being rebuilt with the kernel: unset it and rebuild."
}

# check_tool NAME PACKAGE : whether it is there at all.
check_tool() {
	command -v "$1" >/dev/null || {
		lack "$1 is not there" "Install it (Debian: apt-get install $2)."
		return 1
	}
}

check_tools() {
	local wanted here
	check_tool make make || true
	if check_tool rustc rustc; then
		wanted=$(option RUSTC_VERSION_TEXT)
		here=$(rustc --version 2>/dev/null) || here='not usable'
		[ -z "$wanted" ] || [ "$wanted" = "$here" ] || lack "rustc is '$here', and the kernel was built with '$wanted'" \
			"Symbol names depend on the compiler: put that very version first on PATH."
	fi
	if check_tool bindgen bindgen; then
		wanted=$(option BINDGEN_VERSION_TEXT)
		here=$(bindgen --version 2>/dev/null) || here='not usable'
		[ -z "$wanted" ] || [ "$wanted" = "$here" ] || lack "bindgen is '$here', and the kernel was built with '$wanted'" \
			"Put that very version first on PATH."
	fi
	if [ -n "$(option CC_IS_CLANG)" ]; then
		check_tool clang clang || true
		check_tool ld.lld lld || true
	else
		check_tool gcc gcc || true
	fi
}

if [ ! -d "$kdir" ]; then
	lack "KDIR=$kdir is not a folder" "KDIR is the build folder of a kernel."
elif [ ! -e "$kdir/.config" ]; then
	lack "$kdir/.config is not there: no kernel was configured in it" "KDIR is the build folder of a kernel."
else
	check_files
	check_options
	check_tools
fi
[ "$problems" -eq 0 ] || die "cannot build against $kdir: $problems problem(s), named above"
