#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What is said of a KDIR before anything is built or booted: which tools are taken, and
# what is missing.
unset KDIR KERNEL SERIES MAKEFLAGS MAKELEVEL LLVM
. "$(dirname "$0")/../../lib/lib.sh"
. "$SCRIPTS/lib/kdir.sh"

tmp=$(mktemp -d)
trap 'rm -rf -- "$tmp"' EXIT
failures=0

# Compilers of this host, by what they say of themselves.
mkdir -p "$tmp/bin" "$tmp/kernel"/{rust,include/config,"$(dirname "$BOOT_IMAGE")"}
tool() { printf '#!/bin/sh\necho "%s"\n' "$2" >"$tmp/bin/$1" && chmod +x "$tmp/bin/$1"; }
root_rustc=$(in_root rustc --version) root_bindgen=$(in_root bindgen --version)
root_gcc=$(in_root "${CROSS}gcc" --version | head -n1)

# kernel RUSTC BINDGEN COMPILER [OPTION...] : one that was built with them, in $tmp/kernel.
kernel() {
	local name
	{
		printf 'CONFIG_%s_VERSION_TEXT="%s"\n' RUSTC "$1" BINDGEN "$2" CC "$3"
		case $ARCH in
		x86_64) echo CONFIG_X86_64=y ;;
		arm64) echo CONFIG_ARM64=y ;;
		esac
		for name in $(needed_options) BLK_DEV_INITRD BINFMT_ELF BINFMT_SCRIPT PRINTK TTY PROC_FS SYSFS DEVTMPFS \
			TMPFS FUTEX FILE_LOCKING MODULE_UNLOAD SERIAL_8250 SERIAL_8250_CONSOLE SERIAL_AMBA_PL011 \
			SERIAL_AMBA_PL011_CONSOLE ACPI; do
			[[ " ${*:4} " == *" -$name "* ]] || printf 'CONFIG_%s=y\n' "$name"
		done
		for name in "${@:4}"; do
			[[ $name == -* ]] || printf 'CONFIG_%s=y\n' "$name"
		done
	} >"$tmp/kernel/.config"
	: >"$tmp/kernel/Module.symvers"
	: >"$tmp/kernel/rust/libkernel.rmeta"
	: >"$tmp/kernel/$BOOT_IMAGE"
	echo "${KERNEL_SERIES[-1]}.0" >"$tmp/kernel/include/config/kernel.release"
}

# says STATUS WORDS COMMAND... : it exits so, and what it says has the words.
says() {
	local status=0 output
	output=$(PATH="$tmp/bin:$PATH" "${@:3}" 2>&1) || status=$?
	[ "$status" -eq "$1" ] && [[ $output == *"$2"* ]] && return
	printf 'status %d, not %d with "%s": %s\n%s\n' "$status" "$1" "$2" "${*:3}" "$output"
	failures=$((failures + 1))
}
preflight() { says "$1" "$2" "$SCRIPTS/build/preflight.sh" "${@:3}" "$tmp/kernel"; }

# -- Which tools -------------------------------------------------------------------

host_rustc='rustc 9.9.9 (host)' host_bindgen='bindgen 9.9.9' host_gcc="${CROSS}gcc (Host 99) 99.1"
tool rustc "$host_rustc" && tool bindgen "$host_bindgen" && tool "${CROSS}gcc" "$host_gcc"

kernel "$host_rustc" "$host_bindgen" "$host_gcc"
preflight 0 host
# The name by which gcc was called is no difference.
kernel "$host_rustc" "$host_bindgen" "other-gcc-99 (Host 99) 99.1"
preflight 0 host
kernel "$root_rustc" "$root_bindgen" "$root_gcc"
preflight 0 root
kernel "$host_rustc" "$host_bindgen" "gcc (Host 98) 98"
preflight 0 "the C compiler of this host is '$host_gcc', and the kernel was built with 'gcc (Host 98) 98'"
kernel "rustc 1.2.3" "$root_bindgen" "$root_gcc"
preflight 1 "the kernel was built with 'rustc 1.2.3', this host has '$host_rustc', the build root has '$root_rustc'"
kernel "$host_rustc" "bindgen 0.1" "$host_gcc"
preflight 1 "the kernel was built with 'bindgen 0.1', this host has '$host_bindgen', the build root has '$root_bindgen'"
kernel "$host_rustc" "$root_bindgen" "$host_gcc"
preflight 1 "neither this host nor the build root has all tools"

# -- What is missing ---------------------------------------------------------------

good() { kernel "$host_rustc" "$host_bindgen" "$host_gcc" "$@"; }
good -DEVICE_PRIVATE
preflight 1 "CONFIG_DEVICE_PRIVATE is not set"
good MODVERSIONS
preflight 1 "CONFIG_MODVERSIONS is set"
good -X86_64 -ARM64
sed -i '/_64=y$\|ARM64=y$/d' "$tmp/kernel/.config"
preflight 1 "this is no kernel for $ARCH"
good
rm "$tmp/kernel/rust/libkernel.rmeta"
preflight 1 "no Rust metadata"
good
preflight 0 '' --guest
good -DEVTMPFS
preflight 1 "CONFIG_DEVTMPFS is not =y" --guest
good -BLK_DEV_INITRD
preflight 1 "CONFIG_BLK_DEV_INITRD is not =y" --guest
good -SERIAL_8250_CONSOLE -SERIAL_AMBA_PL011_CONSOLE
preflight 1 "_CONSOLE is not =y" --guest
good MODULE_SIG_FORCE
preflight 1 "CONFIG_MODULE_SIG_FORCE is set" --guest
good
rm "$tmp/kernel/$BOOT_IMAGE"
preflight 1 "$BOOT_IMAGE is not there" --guest
rm "$tmp/kernel/.config"
preflight 1 "no kernel was configured in it"

# A folder that was copied, and one that has another name as well.
good
ln -s kernel "$tmp/link"
echo "export KBUILD_OUTPUT = $tmp/link" >"$tmp/kernel/Makefile"
preflight 0 host
echo "export KBUILD_OUTPUT = $tmp/other" >"$tmp/kernel/Makefile"
preflight 1 "its Makefile builds in $tmp/other"
rm "$tmp/kernel/Makefile"

# -- What KDIR means ----------------------------------------------------------------

guest() { says 125 "$1" env "${@:2}" CMD=true "$SCRIPTS/guest/guest.sh"; }
guest "KDIR is a kernel already: leave KERNEL out" KDIR="$tmp/kernel" KERNEL=stock
guest "KDIR is a kernel already: leave SERIES out" KDIR="$tmp/kernel" SERIES=7.2
guest "is not a folder" KDIR="$tmp/nothing"
guest "KERNEL=kdir without KDIR" KERNEL=kdir
good -DEVTMPFS
guest "CONFIG_DEVTMPFS is not =y" KDIR="$tmp/kernel"
says 1 "Each of its parts takes KDIR by itself" env KDIR="$tmp/kernel" "$SCRIPTS/test/test.sh" --soak

# -- What Kconfig has dropped ----------------------------------------------------------

good KASAN
printf 'config %s\n\tbool\n' KASAN KCSAN >"$tmp/kernel/Kconfig"
fragment() {
	printf '%s\n' "${@:3}" >"$tmp/fragment"
	says "$1" "$2" "$SCRIPTS/build/check-config.sh" "$tmp/kernel" "$tmp/fragment"
}
fragment 0 '' CONFIG_KASAN=y '# CONFIG_KCSAN is not set' '# CONFIG_NO_SUCH is not set'
fragment 1 'CONFIG_KCSAN=y: it is not set' CONFIG_KASAN=y CONFIG_KCSAN=y
fragment 1 'CONFIG_NO_SUCH=y: this kernel has no such option' CONFIG_NO_SUCH=y
fragment 1 '# CONFIG_KASAN is not set: it is y' '# CONFIG_KASAN is not set'
[ "$failures" -eq 0 ]
