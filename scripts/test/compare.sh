#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Run upstream's suite on our module and on upstream's own, on the debug kernel
# or another KERNEL, and print the results side by side. Fails if our module does not pass.
#
#   scripts/test/compare.sh [--reuse] [--markdown]
#
# --reuse takes the results of the last runs where there are any; --markdown
# prints a table for a document.
. "$(dirname "$0")/../lib/lib.sh"

reuse=0 form=() results=() status=0
for argument; do
	case $argument in
	--reuse) reuse=1 ;;
	--markdown) form=(--markdown) ;;
	*) die "there is no option '$argument'" "Usage: scripts/test/compare.sh [--reuse] [--markdown]" ;;
	esac
done

export KERNEL=${KERNEL:-debug}
tests=$("$SCRIPTS/build/hmm-tests.sh")
for module in dmirror test_hmm; do
	result=$BUILD/log/conformance-$module-$KERNEL
	if [ "$reuse" -eq 0 ] || [ ! -s "$result.complaints" ]; then
		note "conformance of $module"
		MODULE=$module "$SCRIPTS/test/conformance.sh" >&2 || true
		[ -s "$result.complaints" ] || die "there are no results of $module"
	fi
	results+=("$module=$result")
done
in_root "$SCRIPTS/test/compare.py" "${form[@]}" --list "$tests/cases" "${results[@]}" || status=$?
exit "$status"
