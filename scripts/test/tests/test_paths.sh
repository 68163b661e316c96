#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Tests of what make and scripts say of a path that the kernel's build system
# cannot work with: no more than that, and before they do anything.
set -euo pipefail

top=$(cd "$(dirname "$0")/../../.." && pwd)
tmp=$(mktemp -d)
trap 'rm -rf -- "$tmp"' EXIT
failures=0

# Whoever runs the tests has flags of a make of their own: with "make -C" each
# make below would say first which folder it enters.
unset MAKEFLAGS MAKELEVEL MFLAGS

# refuses WORDS COMMAND... : it fails, and says the words in its first line.
refuses() {
	local words=$1 said status=0
	shift
	said=$(DMIRROR_CACHE=${cache:-$tmp/cache} "$@" 2>&1) || status=$?
	[ "$status" -ne 0 ] && [[ ${said%%$'\n'*} == *"$words"* ]] && return
	printf 'status %d of %s:\n%s\n' "$status" "$*" "$said"
	failures=$((failures + 1))
}

# absent PATH : nothing has made it.
absent() {
	[ -e "$1" ] || return 0
	printf '%s was made\n' "$1"
	failures=$((failures + 1))
}

for name in 'with space' 'with:colon'; do
	mkdir "$tmp/$name"
	cp -r "$top/Makefile" "$top/scripts" "$tmp/$name"
	words="the path of this checkout has a space or a colon: $tmp/$name"
	for target in '' modules run test clean help; do
		# shellcheck disable=SC2086 # a target or none
		refuses "$words" make -s -C "$tmp/$name" $target
	done
	for script in build/root.sh guest/guest.sh guest/shell.sh test/test.sh; do
		refuses "$words" "$tmp/$name/scripts/$script"
	done
	cache="$tmp/a cache $name" refuses "the path of the cache has a space or a colon" "$top/scripts/build/root.sh"
	absent "$tmp/a cache $name"
	absent "$tmp/$name/build"
done
absent "$tmp/cache"
[ "$failures" -eq 0 ]
