#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Build a Debian source package of the newest commit, and from it the packages
# dmirror-dkms (the module) and dmirror-tools (the programs). Prints where they are.
. "$(dirname "$0")/../lib/lib.sh"

cd "$TOP"
git rev-parse -q --verify HEAD >/dev/null || die "this checkout has no commit" "Packages are made of a commit: clone the repository with git."
[ -z "$(git status --porcelain)" ] || note "the packages have the newest commit, without the changes that are not committed"
root=$("$SCRIPTS/package/build-root.sh")
crates=$("$SCRIPTS/package/crates.sh")

# The newest release that CHANGELOG.md names; of later commits, the time and the name too.
version=$(git show HEAD:CHANGELOG.md | sed -n 's/^## \([0-9.]*\) - .*$/\1/p' | head -n1)
[ -n "$version" ] || die "CHANGELOG.md names no release" "It has a line such as: ## 0.4.0 - 2026-12-01"
if git show HEAD:CHANGELOG.md | grep -q '^## Unreleased'; then
	version+=+git$(TZ=UTC git log -1 --format=%cd --date=format-local:%Y%m%d%H%M).$(git rev-parse --short=8 HEAD)
fi
maintainer="dmirror maintainers <$(git log -1 --format=%ce)>"

work=$BUILD/deb.new
source=$work/dmirror-$version
rm -rf "$work"
mkdir -p "$source"
git archive --format=tar --prefix="dmirror-$version/" HEAD | tee >(tar -x -C "$work") | in_root xz -6 -T0 >"$work/dmirror_$version.orig.tar.xz"
cp "$crates/vendor.tar.xz" "$work/dmirror_$version.orig-vendor.tar.xz"
tar -x -C "$source" -f "$crates/vendor.tar.xz"

# What of debian/ depends on the commit and on the crates.
cp -r "$source/scripts/package/debian" "$source/debian"
sed -i "s/@MAINTAINER@/$maintainer/" "$source/debian/control"
mkdir "$source/debian/source"
echo '3.0 (quilt)' >"$source/debian/source/format"
cat "$source/scripts/package/debian/copyright" "$crates/copyright" >"$source/debian/copyright"
cat >"$source/debian/changelog" <<EOF
dmirror ($version-1) $DEBIAN_SUITE; urgency=medium

  * CHANGELOG.md says what has changed.

 -- $maintainer  $(git log -1 --format=%cD)
EOF

DMIRROR_ROOT=$root run_step "Building the packages $version" "5 to 15 minutes" "$SCRIPTS/build/in-root.sh" \
	env -C "$source" DEB_BUILD_OPTIONS="parallel=$JOBS" dpkg-buildpackage --unsigned-source --unsigned-changes
rm -rf "$source" "$BUILD/deb"
mv "$work" "$BUILD/deb"
printf '%s\n' "$BUILD"/deb/*.{dsc,deb}
