#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Run a command in a QEMU guest, with the module loaded. What the command
# prints goes to standard output and nothing else does; the kernel log goes to
# build/log/NAME-KERNEL.log (NAME-KERNEL-SERIES.log if SERIES is set). KDIR is a kernel of
# the user's own, whose KERNEL is kdir. Takes the settings of Documentation/using.md from the
# environment, and for other scripts
#
#   GUEST_TERM=…         TERM in the guest, if this is not run in a terminal; NO_COLOR
#                        and the character set are those of this environment
#   SYSTEM=real          a Debian system with real programs in /debian (see real.sh)
#   SYSTEM=kselftest     one with what the kernel's selftests run on
#   BUILT=1              the modules were built just now: do not look again
#   INTERACTIVE=1        a shell on the terminal instead of CMD
#
# Exits with the status of CMD, or with
#   120  the kernel complained; the complaint is shown (see complaints.sh)
#   121  the guest ended before CMD did
#   122  the guest did not get as far as CMD, or the module did not load
#   123  CMD exited with 0, HOST_CMD did not
#   124  the guest hung and was stopped
#   125  a setting makes no sense, or something could not be built
DIE_STATUS=125
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/kdir.sh"
. "$SCRIPTS/lib/host.sh"

CMD=${CMD:-} FILES=${FILES:-} ARGS=${ARGS:-} APPEND=${APPEND:-} ACCEL=${ACCEL:-}
KERNEL=${KERNEL:-stock} MODULE=${MODULE:-dmirror} MEM=${MEM:-4G} CPUS=${CPUS:-2}
TIMEOUT=${TIMEOUT:-900} NAME=${NAME:-guest} INTERACTIVE=${INTERACTIVE:-0}
PAGING=${PAGING:-4} LEAKS=${LEAKS:-1} GUEST_TERM=${GUEST_TERM:-} GUEST_SIZE='' CLOCK=${CLOCK:-host}
SYSTEM=${SYSTEM:-} IVSHMEM=${IVSHMEM:-} HOST_CMD=${HOST_CMD:-} BUILT=${BUILT:-0}

# is_power_of_two SIZE : whether it is one, with a unit.
is_power_of_two() { [[ $1 =~ ^([1-9][0-9]*)[MG]$ ]] && (((BASH_REMATCH[1] & (BASH_REMATCH[1] - 1)) == 0)); }

check_settings() {
	[[ $KERNEL =~ ^(stock|debug|patched|kdir)$ ]] ||
		die "KERNEL=$KERNEL" "KERNEL is stock, debug or patched; KDIR names a kernel of yours."
	[ "$KERNEL" != stock ] || [ "$PAGES" != 64K ] || die "KERNEL=stock with PAGES=64K" "Debian has no such kernel; KERNEL=debug has."
	[ -z "$SYSTEM" ] || [ "$ARCH" = x86_64 ] || die "SYSTEM=$SYSTEM with ARCH=$ARCH" "The Debian system in the guest is for x86_64 only."
	[[ $MODULE =~ ^(dmirror|test_hmm|none)$ ]] || die "MODULE=$MODULE" "MODULE is dmirror, test_hmm or none."
	[[ $MEM =~ ^[1-9][0-9]*[MG]$ ]] || die "MEM=$MEM" "MEM is a size such as 4G or 2048M."
	[[ $CPUS =~ ^[1-9][0-9]*$ ]] || die "CPUS=$CPUS" "CPUS is a number from 1 on."
	[[ $TIMEOUT =~ ^[1-9][0-9]*$ ]] || die "TIMEOUT=$TIMEOUT" "TIMEOUT is a number of seconds."
	[[ $PAGING =~ ^[45]$ ]] || die "PAGING=$PAGING" "PAGING is 4 or 5."
	[[ $CLOCK =~ ^(host|instructions)$ ]] || die "CLOCK=$CLOCK" "CLOCK is host or instructions."
	[[ $NAME =~ ^[a-zA-Z0-9_-]+$ ]] || die "NAME=$NAME" "NAME becomes part of a file's name."
	[[ $SYSTEM =~ ^(|real|kselftest)$ ]] || die "SYSTEM=$SYSTEM" "SYSTEM is real, kselftest, or nothing."
	[[ $ARGS$APPEND != *$'\n'* ]] || die "ARGS and APPEND are one line each"
	if [ -n "$IVSHMEM" ] && ! is_power_of_two "$IVSHMEM"; then
		die "IVSHMEM=$IVSHMEM" "IVSHMEM is a power of two with its unit, such as 64M."
	fi
	[ -z "$HOST_CMD" ] || [ "$INTERACTIVE" = 0 ] || die "HOST_CMD with INTERACTIVE=1" "There is no CMD to take turns with."
	[ "$MODULE" != none ] || [ -z "$ARGS" ] || die "ARGS='$ARGS' with MODULE=none" "There is no module to give them to."
	[ "$KERNEL" != kdir ] || "$SCRIPTS/build/preflight.sh" --guest "$KDIR" || die "KDIR=$KDIR"
	[ "$INTERACTIVE" = 1 ] || [ -n "$CMD" ] || die "no CMD was given" "Example: make guest CMD='ls /dev/hmm_dmirror*'"
	# shellcheck disable=SC2086 # several files
	check_files $FILES
}

# prepare: sets image, and fills $tmp/root with everything but the tools.
prepare() {
	local dir modules=() module program
	# A guest without our module shall start even when that does not build.
	if [ "$BUILT" = 1 ]; then
		:
	elif [ "$MODULE" = dmirror ]; then
		"$SCRIPTS/build/modules.sh" "$KERNEL" >/dev/null || die "the modules were not built"
	elif [ -e "$TOP/Kbuild" ]; then
		"$SCRIPTS/build/modules.sh" "$KERNEL" >/dev/null || note "going on without our modules"
	fi
	dir=$BUILD/$(built_for "$KERNEL")
	for module in "$dir"/*.ko "$dir"/samples/*/*.ko; do
		[ ! -e "$module" ] || modules+=("$module")
	done
	case $KERNEL in
	stock)
		dir=$("$SCRIPTS/build/stock-kernel.sh")/stock
		image=$(find "$dir" -name 'vmlinuz*' | head -n1)
		modules+=("$("$SCRIPTS/build/ram-disk.sh")")
		release=$(cat "${dir%/*}/build/include/config/kernel.release")
		;;
	debug | patched)
		if [ "$KERNEL" = debug ]; then set --; else set -- --patched; fi
		dir=$("$SCRIPTS/build/debug-kernel.sh" "$@")
		image=$dir/$BOOT_IMAGE
		release=$(cat "$dir/include/config/kernel.release")
		;;
	kdir)
		dir=$KDIR image=$KDIR/$BOOT_IMAGE
		release=$(kdir_release)
		[ ! -e "$KDIR/drivers/block/brd.ko" ] || modules+=("$KDIR/drivers/block/brd.ko")
		;;
	esac
	[ -r "$image" ] || die "there is no image of the $KERNEL kernel in $dir"
	[ "$MODULE" != test_hmm ] || modules+=("$("$SCRIPTS/build/test-hmm.sh" "$KERNEL")")

	mkdir -p "$tmp/root"/{bin,dev,etc,files,guest,proc,root,sys,tmp,"lib/modules/$release/extra"}
	[ "${#modules[@]}" -eq 0 ] || cp "${modules[@]}" "$tmp/root/lib/modules/$release/extra"
	if ! dir=$("$SCRIPTS/build/samples.sh"); then
		note "going on without the programs of samples/"
	else
		# dmirror is all of its subcommands' programs, so that there is less to unpack.
		find "$dir" -maxdepth 1 -type f -perm -u+x ! -name '*.so' ! -name 'dmirror-*' -exec cp -t "$tmp/root/bin" {} +
		for program in "$dir"/dmirror-*; do
			[ ! -x "$program" ] || ln -s dmirror "$tmp/root/bin/${program##*/}"
		done
	fi
	cp "$SCRIPTS/guest/inside/init" "$tmp/root/init"
	cp "$SCRIPTS/guest/inside/load-module" "$tmp/root/bin"
	printf '%s\n' 'root:x:0:0:root:/root:/bin/sh' 'user:x:1000:1000:user:/tmp:/bin/sh' >"$tmp/root/etc/passwd"
	printf '%s\n' 'root:x:0:' 'user:x:1000:' >"$tmp/root/etc/group"
	# shellcheck disable=SC2086 # several files
	[ -z "$FILES" ] || cp -rL $FILES "$tmp/root/files"
	printf '%s\n' "$CMD" >"$tmp/root/guest/command"
	{
		# The guest speaks up a little before it is stopped.
		local deadline=$((TIMEOUT > 40 ? TIMEOUT - 20 : TIMEOUT / 2))
		[ "$INTERACTIVE" = 0 ] || deadline=0
		printf '%s=%q\n' SERIAL "$SERIAL" MODULE "$MODULE" INTERACTIVE "$INTERACTIVE" DEADLINE "$deadline" LEAKS "$LEAKS"
		printf "SIZE='%s'\n" "$GUEST_SIZE"
		printf 'INPUT=%s\n' "${HOST_CMD:+/dev/${SERIAL}1}"
		# shellcheck disable=SC1003 # a quote within quotes
		printf "ARGS='%s'\n" "${ARGS//\'/\'\\\'\'}"
		if [ -n "$GUEST_TERM" ]; then
			printf 'export TERM=%q NO_COLOR=%q ' "$GUEST_TERM" "${NO_COLOR:-}"
			printf 'LANG=%q\n' "${LC_ALL:-${LC_CTYPE:-${LANG:-C}}}"
		else
			echo 'export TERM=dumb NO_COLOR=1'
		fi
	} >"$tmp/root/guest/settings"
}

# pack: makes $tmp/initrd of $tmp/root, in the build root. Busybox is the
# build root's; so is depmod. Modules go without debug information, which is
# most of them, and which the guest would have to unpack.
pack() {
	# shellcheck disable=SC2016 # expanded by the inner shell
	in_root bash -euc '
		cp "$3/bin/busybox" "$1/root/bin"
		ln -s busybox "$1/root/bin/sh"
		find "$1/root/lib/modules" -name "*.ko" -exec "${4}strip" --strip-debug {} +
		touch "$1/root/lib/modules/$2"/modules.{order,builtin,builtin.modinfo}
		depmod -b "$1/root" "$2"
		cd "$1/root"
		find . | cpio --quiet -o -H newc -R 0:0 >"$1/initrd"
	' pack "$tmp" "$release" "${CROSS:+/guest/usr}" "$CROSS"
	# The kernel unpacks archives that follow one another.
	[ -z "$SYSTEM" ] || cat "$("$SCRIPTS/build/real-root.sh" "$SYSTEM")" >>"$tmp/initrd"
}

paging=$FOUR_LEVELS
[ "$PAGING" != 5 ] || paging=

# add_devices: what the machine has besides, in extra. What is in the slot of a
# port can be unplugged. The port itself sees to that, whatever ACPI says, which
# is the other way: the debug kernel does not have that, nor what ACPI wants of
# whoever goes the first one.
add_devices() {
	extra=
	[ -z "$IVSHMEM" ] || APPEND="pcie_ports=native $APPEND"
	[ -z "$IVSHMEM" ] || [ "$ARCH" != x86_64 ] ||
		extra+=" -global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"
	[ -z "$IVSHMEM" ] || extra+=" -object memory-backend-file,id=memory,mem-path=$tmp/ivshmem,size=$IVSHMEM,share=on
		-device pcie-root-port,id=ivshmem-port,chassis=1 -device pcie-root-port,id=second-port,chassis=2
		-device ivshmem-plain,id=ivshmem,memdev=memory,bus=ivshmem-port"
	[ -z "$HOST_CMD" ] || extra+=" -qmp unix:$tmp/monitor,server=on,wait=off"
}

# qemu ARGUMENT... : the machine.
qemu() {
	# shellcheck disable=SC2086 # options and their arguments, or nothing
	exec "$SCRIPTS/build/in-root.sh" "qemu-system-$GNU_ARCH" $clock -machine $MACHINE -accel "$accel" -cpu "$cpu" -smp "$CPUS" -m "$MEM" \
		-nodefaults -display none -no-reboot -kernel "$image" -initrd "$tmp/initrd" \
		-append "console=${SERIAL}0 ignore_loglevel printk.devkmsg=on oops=panic panic=-1 $paging $APPEND" \
		-chardev "file,id=log,path=$tmp/log" -serial chardev:log $extra "$@"
}

run_interactive() {
	note "Ctrl-A X stops the guest; so do exit and poweroff. Kernel log: $log"
	(qemu -chardev stdio,id=io,mux=on,signal=off -serial chardev:io -mon chardev=io) || true
}

# run_command: QEMU gets a pipe, since it makes its standard output
# non-blocking, which our caller's shall not become.
run_command() {
	local reader input=/dev/null
	mkfifo "$tmp/pipe"
	if [ -z "$HOST_CMD" ]; then
		cat "$tmp/pipe" &
	else
		input=$tmp/input
		run_beside
		tee -p "$tmp/heard" <"$tmp/pipe" &
	fi
	reader=$!
	(
		export -f qemu
		export SCRIPTS ARCH GNU_ARCH SERIAL MACHINE accel cpu clock extra paging CPUS MEM image tmp APPEND
		exec timeout -k 5 "$TIMEOUT" bash -c 'qemu -chardev stdio,id=io,signal=off -serial chardev:io'
	) >"$tmp/pipe" <"$input" 2>"$tmp/errors" &
	runner=$!
	wait "$runner" || qemu_status=$?
	runner=
	wait "$reader" || true
	[ -z "$beside" ] || wait "$beside" || beside_status=$?
	beside=
}

# run_beside: starts HOST_CMD. Whoever opens a pipe waits for its other end; what
# QEMU prints, what is heard and what is said in return are opened in this order
# by all.
run_beside() {
	mkfifo "$tmp/heard" "$tmp/input"
	IVSHMEM_FILE=$tmp/ivshmem MONITOR=$tmp/monitor bash -c "$HOST_CMD" <"$tmp/heard" >"$tmp/input" &
	beside=$!
}

# judge: the exit status, from what the guest said in its log.
judge() {
	local status
	if ! "$SCRIPTS/guest/complaints.sh" "$log" >"$tmp/complaints"; then
		note "the $KERNEL kernel complained (all of its log: $log)"
		cat "$tmp/complaints" >&2
		status=$(said 'command exit')
		[ -z "$status" ] || note "the command itself exited with $status"
		return 120
	fi
	[ "$INTERACTIVE" = 0 ] || return 0
	if [ "$qemu_status" -eq 124 ] || [ "$qemu_status" -eq 137 ]; then
		explain "the guest hung: it was stopped after $TIMEOUT s (TIMEOUT)"
		return 124
	elif [ -n "$(said 'module did not')" ]; then
		note "MODULE=$MODULE did not load (kernel log: $log)"
		return 122
	elif [ -z "$(said 'command')" ]; then
		explain "the guest did not get as far as the command"
		return 122
	elif [ -z "$(said 'end')" ]; then
		explain "the guest ended before it had finished"
		return 121
	fi
	status=$(said 'command exit')
	if [ "$status" -eq 0 ] && [ "$beside_status" -ne 0 ]; then
		note "HOST_CMD exited with $beside_status"
		return 123
	fi
	return "$status"
}

# said WORDS: what follows them in the guest's last such line, or a dot.
said() {
	local line
	line=$(grep -a "dmirror-guest: $1" "$log" | tail -n1)
	line=${line##*"dmirror-guest: $1"}
	[ -z "$line" ] && grep -qa "dmirror-guest: $1" "$log" && line=.
	printf '%s' "${line# }"
}

explain() {
	note "$1"
	[ ! -s "$tmp/errors" ] || sed 's/^/    /' "$tmp/errors" >&2
	printf '    The end of the kernel log (all of it: %s):\n' "$log" >&2
	tail -n 40 "$log" | sed 's/^/    /' >&2
}

clean_up() {
	[ -z "${runner:-}" ] || kill "$runner" 2>/dev/null || true
	[ -z "$beside" ] || kill "$beside" 2>/dev/null || true
	rm -rf -- "$tmp"
}

check_settings
# The kind of the terminal and its size, where the guest's command is on one.
if [ -t 1 ]; then
	GUEST_TERM=${TERM:-dumb}
	exec {terminal}>&1
	[ "$GUEST_TERM" = dumb ] || GUEST_SIZE=$(stty size <&"$terminal" 2>/dev/null || true)
	exec {terminal}>&-
fi
choose_accel "$ACCEL" "$CLOCK"
mkdir -p "$BUILD/log" "$BUILD/tmp"
tmp=$(mktemp -d "$BUILD/tmp/guest.XXXXXX")
# While a guest runs its log is a link; another guest takes the next name.
log=$BUILD/log/$NAME-$(built_for "$KERNEL").log
for ((i = 2; i < 100; i++)); do
	if [ ! -L "$log" ] || [ ! -e "$log" ]; then break; fi
	log=$BUILD/log/$NAME-$(built_for "$KERNEL")-$i.log
done
: >"$tmp/log"
ln -sfn "$tmp/log" "$log"
beside='' beside_status=0
trap clean_up EXIT
trap 'exit 130' INT TERM HUP
prepare
pack
add_devices
qemu_status=0
if [ "$INTERACTIVE" = 1 ]; then run_interactive; else run_command; fi
tr -d '\r' <"$tmp/log" >"$tmp/log.clean"
mv -T "$tmp/log.clean" "$log"
judge
