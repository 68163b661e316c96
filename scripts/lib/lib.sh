# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# Shared by all scripts: where things are, how progress and errors are said,
# and how a slow product is made once. Source it; it does nothing by itself.

set -euo pipefail

# Where Debian has chroot; the PATH of an ordinary user does not name it.
PATH=$PATH:/usr/sbin:/sbin

die() {
	printf '%s: error: %s\n' "${0##*/}" "$1" >&2
	shift
	local line
	for line; do printf '    %s\n' "$line" >&2; done
	exit "${DIE_STATUS:-1}"
}

note() { if [ -t 2 ]; then printf '\033[1m==>\033[0m %s\n' "$*"; else printf '==> %s\n' "$*"; fi >&2; }

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
SCRIPTS=$TOP/scripts

# check_path PATH WHAT ADVICE : the kernel's build system takes neither a space nor
# a colon in a path, and says so in words that nobody understands.
check_path() {
	[[ $1 != *[[:space:]:]* ]] || die "the path of $2 has a space or a colon: $1" \
		"The kernel's build system cannot work there. $3"
}
check_path "$TOP" "this checkout" "Move the checkout to another folder."

# shellcheck source=scripts/lib/config.sh
. "$SCRIPTS/lib/config.sh"

# KDIR is the build folder of a kernel of the user's own, and means that kernel to whatever
# takes a KERNEL. The functions for it are in kdir.sh.
if [ -n "${KDIR:-}" ]; then
	[ "${KERNEL:-kdir}" = kdir ] || die "KDIR together with KERNEL=$KERNEL" "KDIR is a kernel already: leave KERNEL out."
	[ -z "${SERIES:-}" ] || die "KDIR together with SERIES=$SERIES" "KDIR is a kernel already: leave SERIES out."
	[ -d "$KDIR" ] || die "KDIR=$KDIR is not a folder" "KDIR is the build folder of a kernel."
	check_path "$KDIR" KDIR "Build the kernel in another folder."
	KDIR=$(cd "$KDIR" && pwd -P)
	export KDIR KERNEL=kdir
elif [ "${KERNEL:-}" = kdir ]; then
	die "KERNEL=kdir without KDIR" "KDIR=/its/build/folder alone is enough."
fi

# default_kernels: those that a test runs on if none is chosen: KDIR's, or both of ours.
default_kernels() { if [ -n "${KDIR:-}" ]; then echo kdir; else echo stock debug; fi; }

# Slow products live here, outside the checkout: build root, kernels,
# downloads, the cargo registry. DMIRROR_CACHE overrides the place.
CACHE=${DMIRROR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dmirror}
check_path "$CACHE" "the cache" "DMIRROR_CACHE names another folder for it."
mkdir -p "$CACHE"
CACHE=$(cd "$CACHE" && pwd)
# A mark tells it from a folder of other people's, which clean.sh must not remove.
if [ ! -e "$CACHE/.dmirror-cache" ]; then
	[ -z "$(ls -A "$CACHE")" ] || die "$CACHE is not empty, and no cache of this project"
	: >"$CACHE/.dmirror-cache"
fi

# Quick products live in the checkout.
# shellcheck disable=SC2034 # used by the scripts
BUILD=$TOP/build
JOBS=${JOBS:-$(nproc)}

# run_step WHAT USUAL COMMAND... : run a slow command with its output in a log
# file, showing what is going on, for how long, and how long it tends to take.
run_step() {
	local what=$1 usual=$2 log pid start elapsed status=0 reported=0
	shift 2
	mkdir -p "$CACHE/log"
	log=$CACHE/log/$(printf '%s' "$what" | tr -cs 'a-zA-Z0-9' '-').log
	note "$what (usually $usual; log: $log)"
	start=$SECONDS
	# A process group of its own, so that all of a step can be stopped: what a
	# stopped script has started must not go on behind it.
	set -m
	"$@" >"$log" 2>&1 </dev/null &
	pid=$!
	set +m
	# shellcheck disable=SC2064
	trap "kill -- -$pid 2>/dev/null; wait $pid 2>/dev/null; exit 130" INT TERM HUP
	while kill -0 "$pid" 2>/dev/null; do
		sleep 1
		elapsed=$((SECONDS - start))
		if [ -t 2 ]; then
			printf '\r    %3d s  %-60.60s' "$elapsed" "$(tail -n1 "$log" | tr -d '\r' | tr -c '[:print:]' ' ')" >&2
		elif [ $((elapsed / 60)) -gt "$reported" ]; then
			reported=$((elapsed / 60))
			printf '    %d min: %s\n' "$reported" "$(tail -n1 "$log")" >&2
		fi
	done
	wait "$pid" || status=$?
	trap - INT TERM HUP
	[ -t 2 ] && printf '\r%72s\r' '' >&2
	if [ "$status" -ne 0 ]; then
		printf '%s failed (status %d). The end of its log:\n' "$what" "$status" >&2
		tail -n 25 "$log" | sed 's/^/    /' >&2
		exit 1
	fi
	printf '    done in %d s\n' "$((SECONDS - start))" >&2
}

# key_of FILE-OR-STRING... : a short key of the contents of files and of strings.
# The folders of scripts/ are left out of them: a script that moves to another
# folder makes the same product, and kernels need not be built again.
key_of() {
	local item
	for item; do
		if [ -f "$item" ]; then
			sed -E 's,(scripts|\$SCRIPTS)/(build|guest|lib|test)/([a-z]),\1/\3,g; s,/\.\./lib/lib\.sh,/lib.sh,' "$item" | sha256sum
		else
			printf '%s\n' "$item"
		fi
	done | sha256sum | cut -c1-16
}

# hold_lock NAME : one maker of a product at a time; held until the script ends.
hold_lock() {
	exec {LOCK_FD}>"$CACHE/$1.lock"
	flock -n "$LOCK_FD" && return
	note "waiting for another run that makes $1"
	flock "$LOCK_FD"
}

# is_made DIRECTORY : whether make_once has finished it.
is_made() { [ -e "$1/.complete" ]; }

# make_once DIRECTORY COMMAND... : call COMMAND with the empty directory as last
# argument, and mark the directory complete when it has succeeded. What an
# interrupted run left is removed first. The directory keeps its name from the
# start, because kernel build folders hold their own path.
make_once() {
	local dir=$1
	shift
	! is_made "$dir" || return 0
	rm -rf -- "$dir"
	mkdir -p "$dir"
	"$@" "$dir"
	: >"$dir/.complete"
}

# kernel_module NAME WHAT FILE... : print the path of NAME.ko, a module that is built
# in the cache from these files of the stock kernel's source. WHAT names it for the user.
kernel_module() {
	local name=$1 what=$2 stock folder
	shift 2
	stock=$("$SCRIPTS/build/stock-kernel.sh")
	folder=$CACHE/$name-$(key_of "$(basename "$stock")" "$name" "$@" "$(declare -f make_kernel_module)")
	if ! is_made "$folder"; then
		hold_lock "$name"
		make_once "$folder" run_step "Building $what" "10 seconds" make_kernel_module "$stock" "$name" "$@"
	fi
	printf '%s\n' "$folder/$name.ko"
}
make_kernel_module() {
	local stock=$1 name=$2 dir=${!#}
	(cd "$stock/linux" && cp "${@:3:$#-3}" "$dir")
	printf 'obj-m := %s.o\n' "$name" >"$dir/Kbuild"
	in_root make -C "$stock/build" M="$dir" modules
}

# in_root COMMAND... : run a command in the build root (made by root.sh).
in_root() { "$SCRIPTS/build/in-root.sh" "$@"; }

# choose_series OFFERED... : the newest series that this tree was tested on, or else the
# newest of all. Both lists have the newest last.
choose_series() {
	local series chosen=${!#}
	for series in "${KERNEL_SERIES[@]}"; do
		[[ " $* " != *" $series "* ]] || chosen=$series
	done
	printf '%s\n' "$chosen"
}

# built_for KERNEL : the name in build/ of what is made for a kernel, of another machine or
# of a chosen series.
BUILT_FOR=${CROSS:+-$ARCH}${SERIES:+-$SERIES}
[ "$PAGES" = 4K ] || BUILT_FOR+=-$PAGES
export BUILT_FOR
built_for() { printf '%s%s\n' "$1" "$BUILT_FOR"; }

# How the programs of samples/ are compiled: static, for the guest. With --target the
# flags are not applied to build scripts and macros, which could not be linked statically.
PROGRAM_TARGET=$GNU_ARCH-unknown-linux-gnu
# shellcheck disable=SC2034 # used by the scripts
PROGRAM=(env RUSTFLAGS="-C target-feature=+crt-static${CROSS:+ -C linker=${CROSS}gcc}" cargo build --release --target "$PROGRAM_TARGET")

# run_program PROGRAM ARGUMENT... : run a static program for the guest here.
run_program() { if [ -z "$CROSS" ]; then "$@"; else in_root "qemu-$GNU_ARCH" "$@"; fi; }

# with_crates release|dev COMMAND... : run cargo in the build root, in build/cargo-release
# or build/cargo-dev, where the crates of others are compiled already (see crates.sh).
with_crates() {
	local folder=$BUILD/cargo-$1${CROSS:+-$ARCH} kind=$1 compiled
	shift
	if [ ! -e "$folder" ]; then
		mkdir -p "$BUILD"
		(
			flock 9
			[ ! -e "$folder" ] || exit 0
			compiled=$("$SCRIPTS/build/crates.sh" "$kind") &&
				rm -rf "$folder.new" &&
				cp -a --reflink=auto "$compiled" "$folder.new" &&
				mv -T "$folder.new" "$folder"
		) 9>"$folder.lock" || return
	fi
	in_root env CARGO_TARGET_DIR="$folder" "$@"
}
