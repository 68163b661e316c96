#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Run a command in a guest that virtme-ng makes, on the kernel in KDIR, with the module
# loaded: what guest.sh does, for those who have `vng` and boot their kernels with it. The
# guest's files are this host's, copied on write. Takes KDIR, CMD, FILES, MODULE, ARGS, APPEND,
# MEM, CPUS, TIMEOUT, NAME and ACCEL as guest.sh does, and exits like that; VNG has options of vng
# besides. The kernel log is build/log/NAME-kdir.log.
#
#   KDIR=/its/build/folder CMD='dmirror-selftest --quick' scripts/guest/vng.sh
DIE_STATUS=125
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/host.sh"

MODULE=${MODULE:-dmirror} MEM=${MEM:-4G} CPUS=${CPUS:-2} TIMEOUT=${TIMEOUT:-900} NAME=${NAME:-guest} FILES=${FILES:-}
[ -n "${KDIR:-}" ] || die "KDIR is not set" "KDIR is the build folder of the kernel to boot."
[ -n "${CMD:-}" ] || die "no CMD was given" "Example: CMD='dmirror-selftest --quick'"
[[ $MODULE =~ ^(dmirror|none)$ ]] || die "MODULE=$MODULE" "MODULE is dmirror or none."
command -v vng >/dev/null || die "there is no vng here" \
	"Install virtme-ng (Debian: apt-get install virtme-ng), or use make guest, which needs nothing."

# BUILT=1: the modules and programs were built just now.
[ "${BUILT:-0}" = 1 ] || "$SCRIPTS/build/modules.sh" kdir >/dev/null || die "the modules were not built"
[ "${BUILT:-0}" = 1 ] || "$SCRIPTS/build/samples.sh" >/dev/null || die "the programs were not built"
programs=$BUILD/cargo-release/$PROGRAM_TARGET/release

# shellcheck disable=SC2086 # several files
check_files $FILES

# quoted WORD... : as words of a shell's command.
quoted() { printf '%q ' "$@"; }

options=(--run "$KDIR/$BOOT_IMAGE" --user root --memory "$MEM" --cpus "$CPUS" --verbose)
# The machine of guest.sh, where memory for coherent devices is at the same place.
options+=(--disable-microvm --append "ignore_loglevel printk.devkmsg=on oops=panic panic=-1 ${APPEND:-}")
if [ "${ACCEL:-}" = tcg ] || ! kvm_works; then options+=(--disable-kvm); fi
[ "$MODULE" != none ] || MODULE=
# shellcheck disable=SC2206 # several words
options+=(${VNG:-})
log=$BUILD/log/$NAME-$(built_for kdir).log status=0
mkdir -p "$BUILD/log"
# What --exec names goes to the kernel's command line, which has room for 2 KiB in all.
# shellcheck disable=SC2086 # several parameters
quoted "$BUILD/$(built_for kdir)" "$programs" "$FILES" "$CMD" ${MODULE:+$MODULE ${ARGS:-}} >"$log.settings"
options+=(--exec "$(quoted "$SCRIPTS/guest/inside/vng" "$log.settings")")
timeout -k 5 "$TIMEOUT" vng "${options[@]}" 2>"$log.raw" </dev/null || status=$?
tr -d '\r' <"$log.raw" >"$log"
rm "$log.raw" "$log.settings"

if ! "$SCRIPTS/guest/complaints.sh" "$log" >&2; then
	note "the kernel complained (all of its log: $log)"
	exit 120
elif [ "$status" -eq 124 ]; then
	note "the guest hung: it was stopped after $TIMEOUT s (TIMEOUT; log: $log)"
	exit 124
elif ! grep -q 'dmirror-guest: command starts' "$log"; then
	tail -n 20 "$log" >&2
	note "the guest did not get as far as the command (log: $log)"
	exit 122
elif ! grep -q 'dmirror-guest: end' "$log"; then
	tail -n 20 "$log" >&2
	note "the guest ended before it had finished (log: $log)"
	exit 121
fi
exit "$status"
