#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Check that the host has what the build root is made with. As root on Debian
# missing packages are installed; otherwise they are named.
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/host.sh"

missing=()
for need in "${HOST_NEEDS[@]}"; do
	command -v "${need%%:*}" >/dev/null || missing+=("${need#*:}")
done
if [ "$(id -u)" -ne 0 ]; then
	# An ordinary user unpacks Debian packages with a range of user ids.
	command -v newuidmap >/dev/null || missing+=(uidmap)
fi
# What Debian signs its archive with; Debian itself has it always.
compgen -G '/usr/share/keyrings/debian-archive-keyring.*' >/dev/null || missing+=(debian-archive-keyring)
if [ "${#missing[@]}" -gt 0 ]; then
	distribution=$(distribution /etc/os-release)
	if [ "$(id -u)" -eq 0 ] && [ "$distribution" = debian ]; then
		note "installing on this host: ${missing[*]}"
		apt-get update -q >/dev/null || die "apt-get update failed on this host" "Check its package sources and network."
		DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}" >/dev/null ||
			die "could not install: ${missing[*]}"
	else
		die "this host lacks: ${missing[*]}" "$(install_advice "$distribution" "${missing[@]}")"
	fi
fi

if [ "$(id -u)" -ne 0 ]; then
	unshare --user --map-root-user --mount true 2>/dev/null ||
		die "user namespaces are not allowed here, and this is not root" \
			"Allow them (kernel.unprivileged_userns_clone=1 or, on Ubuntu, kernel.apparmor_restrict_unprivileged_userns=0; by sysctl), or run as root."
	{ grep -q "^$(id -un):" /etc/subuid && grep -q "^$(id -un):" /etc/subgid; } 2>/dev/null ||
		die "user $(id -un) has no range of subordinate ids in /etc/subuid and /etc/subgid" \
			"Add one with: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $(id -un)"
fi
