#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Build the Debian packages, look at them with lintian, and try them in a Debian 13 of
# their own:
#
#   - in a chroot, at this machine's speed: what the installation says if there can be no
#     module, that DKMS builds it for the chroot's kernel, and that nothing stays behind;
#   - in a guest that boots the same system with Debian's kernel: the module, the device
#     files, the programs, and their removal (scripts/guest/inside/packages).
#
#   scripts/test/packages.sh [built]      built: the packages that are in build/deb
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/cases.sh"
. "$SCRIPTS/lib/host.sh"

[ -z "$CROSS" ] || die "ARCH=$ARCH is not this machine's" "The packages are tried on $HOST_ARCH."
TIMEOUT=${TIMEOUT:-1500}
mkdir -p "$BUILD/log" "$BUILD/tmp"

# -- The packages ----------------------------------------------------------------

case ${1:-} in
'') "$SCRIPTS/package/deb.sh" >&2 || { failed "the packages are built" && totals; } ;;
built) ;;
*) die "packages.sh $1" "It takes the word built, or nothing." ;;
esac
passed "the packages are built"
deb=$BUILD/deb
package_root=$("$SCRIPTS/package/build-root.sh")

# Errors fail, and nothing is overridden; warnings are in the log.
lintian_says() {
	DMIRROR_ROOT=$package_root in_root lintian --allow-root --tag-display-limit 0 --show-overrides --fail-on error "$@" |
		tee "$BUILD/log/lintian.log"
}
check "lintian: the source package and the others" lintian_says "$deb"/*.changes

# -- In a chroot -----------------------------------------------------------------

base=$("$SCRIPTS/package/guest-root.sh")
release=$(cat "$("$SCRIPTS/build/stock-kernel.sh")/build/include/config/kernel.release")
tmp=$(mktemp -d "$BUILD/tmp/packages.XXXXXX")
system=$tmp/system
qemu=
clean_up() {
	[ -z "$qemu" ] || kill "$qemu" 2>/dev/null || true
	rm -rf -- "$tmp"
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP
note "copying the Debian system"
mkdir "$system"
cp -a --reflink=auto "$base"/* "$system"

inside() { DMIRROR_ROOT=$system "$SCRIPTS/build/in-root.sh" env DEBIAN_FRONTEND=noninteractive "$@"; }
log=$BUILD/log/packages-chroot.log
: >"$log"

# logged COMMAND... : run it in the chroot; what it prints is in $said, and in the log.
logged() {
	local status=0
	said=$(inside "$@" 2>&1 </dev/null) || status=$?
	printf '# %s\n%s\n# status %d\n' "$*" "$said" "$status" >>"$log"
	return "$status"
}
# says WORDS : whether the last command printed them, whatever the breaks of lines.
says() {
	local text
	text=$(tr -s '[:space:]' ' ' <<<"$said")
	[[ $text == *"$1"* ]] || { printf '%s\n(without: %s)\n' "$said" "$1" && return 1; }
}
# succeeded STATUS : of the last command.
succeeded() { [ "$1" -eq 0 ] || { printf '%s\n(status %s)\n' "$said" "$1" && return 1; }; }
is_configured() { [ "$(inside dpkg-query -W -f '${Status}' dmirror-dkms)" = "install ok installed" ] && [ -z "$(inside dpkg --audit)" ]; }
has_module() {
	local file
	file=$(find "$system/lib/modules/$1/updates/dkms" -name 'dmirror.ko*' 2>/dev/null) && [ -n "$file" ]
}
lacks_module() { ! has_module "$release"; }
module_fits() { has_module "$release" && [[ $(inside modinfo -F vermagic -k "$release" dmirror) == "$release "* ]]; }

# other_kernel RELEASE [SED-COMMAND] : headers of a kernel, with a changed configuration.
other_kernel() {
	local dir=$system/lib/modules/$1/build
	mkdir -p "$dir/include"
	sed -e "${2:-}" "$system/usr/src/linux-headers-$release/.config" >"$dir/.config"
}

# What hinders the build, kernel by kernel. First there is no package index either.
other_kernel 6.12.0-old
other_kernel 7.99.0-new
other_kernel "${KERNEL_SERIES[0]}.0-norust" '/^CONFIG_RUST=/d'
other_kernel "${KERNEL_SERIES[0]}.0-machine" '/^CONFIG_X86_64=/d; /^CONFIG_ARM64=/d'
other_kernel "${KERNEL_SERIES[0]}.0-versions" 's/^# CONFIG_MODVERSIONS is.*/CONFIG_MODVERSIONS=y/'
other_kernel "${KERNEL_SERIES[0]}.0-rustc" 's/^CONFIG_RUSTC_VERSION_TEXT=.*/CONFIG_RUSTC_VERSION_TEXT="rustc 1.99.0"/'
mkdir "$tmp/lists"
mv "$system/var/lib/apt/lists"/* "$tmp/lists"
mkdir -p "$system/files"
cp "$deb"/*.deb "$system/files"

status=0
note "installing dmirror-dkms where no module can be built"
logged sh -c 'dpkg -i /files/dmirror-dkms_*.deb' || status=$?
check "where no module can be built, the installation ends well" succeeded $status
check "and the package is configured" is_configured
printf -v series '%s, ' "${KERNEL_SERIES[@]}"
while IFS='|' read -r kernel reason advice; do
	check "it says why: Linux $kernel" says "There is no dmirror for Linux $kernel: $reason"
	check "it says what to do: Linux $kernel" says "$advice"
done <<EOF
6.12.0-old|this version is for the series ${series%, }.|Install a kernel of one of these
7.99.0-new|this version is for the series ${series%, }.|or a newer dmirror-dkms
${KERNEL_SERIES[0]}.0-norust|it was built without CONFIG_RUST.|Use a kernel that has all of them
${KERNEL_SERIES[0]}.0-machine|it is neither for x86-64 nor for arm64.|Use a kernel that is.
${KERNEL_SERIES[0]}.0-versions|it was built with CONFIG_MODVERSIONS|Use a kernel without it.
${KERNEL_SERIES[0]}.0-rustc|it was built with rustc 1.99.0, and here is rustc 1.|Install the rustc of the Debian release
$release|its headers hold no Rust metadata|index fresh (sudo apt-get update)?
EOF
status=0
logged /etc/kernel/postinst.d/dkms 7.99.0-new || status=$?
check "the installation of such a kernel ends well, too" succeeded $status

rm -r "$system"/lib/modules/{6.12.0-old,7.99.0-new} "$system/lib/modules/${KERNEL_SERIES[0]}".0-*
mv "$tmp/lists"/* "$system/var/lib/apt/lists"
note "building the module by DKMS, as the message tells (2 to 5 minutes)"
status=0
logged dkms autoinstall -k "$release" || status=$?
check "with an index the module is built, in a folder made by rust-ready-kernel" succeeded $status
check "it is made for that kernel" module_fits
check "the reason that there was none is gone" test ! -e "$system/var/cache/dmirror/$release.problem"
check "what was said of other kernels is gone" test ! -e "$system/var/cache/dmirror/6.12.0-old.problem"

# The folder stands in for headers that have the metadata. No other may be made.
note "building it against headers that have Rust metadata"
cache=$system/var/cache/dmirror/kernel-$release
headers=$(readlink "$system/lib/modules/$release/build")
ln -sfn "/var/cache/dmirror/kernel-$release/build" "$system/lib/modules/$release/build"
mv "$cache/.complete" "$tmp/complete"
mv "$system/usr/bin/rust-ready-kernel" "$tmp"
version=$(inside dpkg-query -W -f '${source:Upstream-Version}' dmirror-dkms)
status=0
logged dkms unbuild "dmirror/$version" -k "$release" || status=$?
check "the module can be unbuilt" succeeded $status
check "and is gone" lacks_module
status=0
logged dkms autoinstall -k "$release" || status=$?
check "headers with Rust metadata are used as they are" succeeded $status
check "the module is made for that kernel again" module_fits
ln -sfn "$headers" "$system/lib/modules/$release/build"
mv "$tmp/complete" "$cache/.complete"
mv "$tmp/rust-ready-kernel" "$system/usr/bin"

# -- In a guest ------------------------------------------------------------------

# The kernel's source stays out of the image: it is most of it, and nothing uses it there.
mv "$cache/linux" "$tmp/linux"
size=$(du -sm "$system" | cut -f1)
note "writing a disk image of $size MiB"
truncate -s $((size + size / 4 + 512))M "$tmp/disk"
DMIRROR_ROOT=$base in_root mke2fs -q -t ext4 -L system -d "$system" "$tmp/disk" >&2
mkdir "$tmp/files"
cp "$deb"/dmirror-tools_*_"$DEBIAN_ARCH".deb "$SCRIPTS/guest/inside/packages" "$SCRIPTS/lib/cases.sh" "$tmp/files"
tar -c -C "$tmp/files" -f "$tmp/files.tar" .
choose_accel "" host
note "booting it (2 to 6 minutes without KVM)"
output=$BUILD/log/packages.out kernel_log=$BUILD/log/packages.log
: >"$output"
timeout -k 5 "$TIMEOUT" "$SCRIPTS/build/in-root.sh" "qemu-system-$GNU_ARCH" -machine "$MACHINE" -accel "$accel" -cpu "$cpu" -smp 2 -m 2G \
	-nodefaults -display none -no-reboot \
	-kernel "$(find "$system/boot" -name "vmlinuz-$release")" -initrd "$system/boot/initrd.img-$release" \
	-append "console=${SERIAL}0 ignore_loglevel oops=panic panic=-1 $FOUR_LEVELS root=LABEL=system rw systemd.run_success_action=poweroff systemd.run_failure_action=poweroff systemd.run=\"/bin/sh -c 'mkdir /run/files; tar -x -C /run/files -f /dev/disk/by-id/virtio-files; /bin/bash /run/files/packages >/dev/${SERIAL}1 2>&1'\"" \
	-drive "file=$tmp/disk,format=raw,if=none,id=disk,cache=unsafe" -device virtio-blk-pci,drive=disk \
	-drive "file=$tmp/files.tar,format=raw,if=none,id=files,readonly=on" -device virtio-blk-pci,drive=files,serial=files \
	-serial "file:$kernel_log" -serial "file:$output" </dev/null >&2 &
qemu=$!
status=0
wait "$qemu" || status=$?
qemu=
tr -d '\r' <"$output" >"$output.clean" && mv "$output.clean" "$output"
sed '$d' "$output"
add_totals "$output" || {
	failed "the guest ended without a result (status $status)"
	tail -n 30 "$kernel_log" | sed 's/^/        /'
}
check "the kernel did not complain" "$SCRIPTS/guest/complaints.sh" "$kernel_log"

# -- In the chroot again -----------------------------------------------------------

# There the folder of the kernel is whole.
mv "$tmp/linux" "$cache/linux"
status=0
logged sh -c 'dpkg -i /files/dmirror-tools_*.deb && dpkg --purge dmirror-dkms dmirror-tools' || status=$?
check "in the chroot both packages are purged" succeeded $status
left() { [ -z "$(find "$system"/{boot,etc,usr,var} -xdev -iname '*dmirror*' | tee /dev/stderr)" ]; }
check "with the folder of the kernel, and no file is left" left
totals
