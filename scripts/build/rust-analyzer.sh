#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Make rust-project.json for editors, from a build for the stock kernel.
. "$(dirname "$0")/../lib/lib.sh"

root=$("$SCRIPTS/build/root.sh")
# The bindings are built first: an editor reads them.
out=$("$SCRIPTS/build/modules.sh" stock)
"$SCRIPTS/build/modules.sh" stock rust-analyzer >/dev/null
in_root "$SCRIPTS/build/rust_project.py" "$out/rust-project.json" "$TOP/rust-project.json" "$root" "$TOP" "$out"
note "made rust-project.json"
