# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# Patches as people send them: mails, mailboxes, diffs. Sourced after lib.sh.

# unpack_patches FOLDER FILE... : the diffs in the files, decoded, as FOLDER/*.patch, in
# their order; and FOLDER/subjects, a line for each.
unpack_patches() {
	local folder=$1 file mail name count=0 found
	rm -rf -- "$folder"
	mkdir -p "$folder"
	for file in "${@:2}"; do
		[ -r "$file" ] || die "there is no patch $file"
		mkdir "$folder/mails"
		git mailsplit -b -o"$folder/mails" "$file" >/dev/null || die "$file holds neither a mail nor a patch"
		for mail in "$folder"/mails/*; do
			count=$((count + 1))
			name=$(printf '%s/%06d.patch' "$folder" "$count")
			found=$(git -C "$folder" mailinfo text "$name" <"$mail") || die "$file has a mail that cannot be read"
			# A cover letter has no diff.
			if ! grep -q '^diff --git \|^+++ ' "$name"; then
				rm "$name"
				continue
			fi
			found=$(sed -n 's/^Subject: //p' <<<"$found")
			printf '%s\n' "${found:-$(basename "$file")}" >>"$folder/subjects"
		done
		rm -rf "$folder/mails" "$folder/text"
	done
	[ -s "$folder/subjects" ] || die "there is no diff in: ${*:2}"
}
