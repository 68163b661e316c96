#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Compare a kernel's configuration with a fragment of one, by default the debug kernel's.
# Names each line of the fragment that is not in effect: Kconfig drops what it does not
# know, and what other options hinder, without a word. Exits with 1 if there is any.
#
#   scripts/build/check-config.sh KDIR [FRAGMENT]
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/kdir.sh"

[ $# -gt 0 ] || die "no folder was given" "Usage: scripts/build/check-config.sh KDIR [FRAGMENT]"
KDIR=$1 fragment=${2:-the debug kernel}
[ -e "$KDIR/.config" ] || die "$KDIR/.config is not there: no kernel was configured in it"
source=$(kdir_source)
missing=0

# What the source can be configured with.
known=$(find "$source" -name 'Kconfig*' -exec sed -nE 's/^\s*(menu)?config\s+(\w+)\s*$/\2/p' {} + | sort -u)
[ -n "$known" ] || die "there is no Kconfig in $source"

while read -r line; do
	case $line in
	CONFIG_*=*) name=${line%%=*} value=${line#*=} ;;
	'# CONFIG_'*' is not set') name=${line#\# } name=${name%% *} value= ;;
	*) continue ;;
	esac
	name=${name#CONFIG_}
	found=$(kdir_option "$name")
	[ "$found" != "$value" ] || continue
	missing=$((missing + 1))
	if ! grep -qx "$name" <<<"$known"; then
		printf '%s: this kernel has no such option\n' "$line"
	else
		printf '%s: it is %s\n' "$line" "${found:-not set}"
	fi
done < <(if [ $# -gt 1 ]; then cat "$2"; else "$SCRIPTS/build/debug-config.sh" "$source"; fi)
[ "$missing" -eq 0 ] || die "$missing line(s) of ${fragment#"$TOP/"} are not in effect, named above"
