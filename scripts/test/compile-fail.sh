#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What the types of `hmm` forbid must not compile. Each file of
# rust/compile-fail is compiled as the driver is, against the crate as it was
# built for the stock kernel. A line that ends with `//~ CODE` is one that the
# compiler must reject, with this code (ERROR where it has none), and no other
# line may be. Each such line is one case, and control.rs, which must compile,
# is one as well: it shows that what fails does not fail for another reason.
#
# The examples in the documentation of `hmm` and `emu` are compiled in the same
# way, each of them a case. They are made of items, as a driver is.
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/cases.sh"

out=$("$SCRIPTS/build/modules.sh" stock)
log=$BUILD/log/compile-fail
rm -rf "$log"
mkdir -p "$log"

# The command that compiled the driver, from what kbuild noted, without what
# concerns its source and output.
command=$(sed -n 's|^savedcmd_rust/dmirror/dmirror.o := ||p' "$out/rust/dmirror/.dmirror.o.cmd")
eval "set -- ${command%%;*}"
words=() environment=()
for word; do
	case $word in
	rustc | --emit=* | --out-dir | rust/dmirror/ | */dmirror.rs) ;;
	[A-Z_]*=*) environment+=("$word") ;;
	*) words+=("$word") ;;
	esac
done

# expected FILE : LINE:CODE of each line that is marked.
expected() { sed -n 's|.*//~ \([A-Z0-9]*\)$|\1|p;' "$1" | paste -d: <(grep -n '//~ ' "$1" | cut -d: -f1) -; }

# found FILE NAME : LINE:CODE of each line that the compiler rejects.
found() {
	in_root env -C "$out" RUSTC_BOOTSTRAP=1 "${environment[@]}" rustc "${words[@]}" -Adead_code -Aunused -Wmissing_docs \
		--error-format=short --crate-name "$2" --emit=metadata="$log/$2.rmeta" "$1" >"$log/$2.log" 2>&1 || true
	sed -En 's/^[^:]*:([0-9]+):[0-9]+: error(\[(E[0-9]+)\])?:.*/\1:\3/p' "$log/$2.log" | sed 's/:$/:ERROR/'
}

control=$TOP/rust/compile-fail/control.rs
if [ -z "$(found "$control" control)" ] && [ -s "$log/control.rmeta" ]; then
	passed "control.rs compiles"
else
	failed "control.rs compiles"
	sed 's/^/        /' "$log/control.log"
fi

for file in "$TOP"/rust/compile-fail/*.rs; do
	name=$(basename "$file" .rs)
	[ "$name" != control ] || continue
	expected "$file" | sort >"$log/$name.expected"
	found "$file" "$name" | sort >"$log/$name.found"
	[ -s "$log/$name.expected" ] || failed "$name.rs marks no line"
	while read -r case; do
		# What a line is about stands above its function.
		line=$(sed -n "1,${case%:*}s|^/// ||p" "$file" | tail -n1)
		if grep -qx "$case" "$log/$name.found"; then
			passed "$name.rs:$case: ${line%.}"
		else
			failed "$name.rs:$case: ${line%.}"
		fi
	done <"$log/$name.expected"
	while read -r case; do
		failed "$name.rs:$case is not marked"
		sed 's/^/        /' "$log/$name.log"
	done < <(comm -13 "$log/$name.expected" "$log/$name.found")
done

# examples FILE PREFIX : writes each block of code in the comments of FILE to
# PREFIX_N.rs, with the lines that rustdoc hides.
examples() {
	awk -v prefix="$2" '
		{ is_doc = sub("^ *//[/!] ?", "") }
		!is_doc { inside = 0; next }
		/^```/ {
			code = !inside && /^```(rust)?$/
			inside = !inside
			if (code) out = prefix "_" ++count ".rs"
			next
		}
		inside && code { sub("^# ", ""); print >out }
	' "$1"
}

mkdir "$log/examples"
while read -r file; do
	prefix=${file#"$TOP"/rust/}
	examples "$file" "$log/examples/$(sed 's|/|_|g; s|\.rs$||' <<<"$prefix")"
done < <(find "$TOP"/rust/{hmm,emu} -name '*.rs')
shopt -s nullglob
for file in "$log"/examples/*.rs; do
	name=$(basename "$file" .rs)
	if [ -z "$(found "$file" "example_$name")" ] && [ -s "$log/example_$name.rmeta" ]; then
		passed "example ${name//_/ } compiles"
	else
		failed "example ${name//_/ } compiles"
		sed 's/^/        /' "$log/example_$name.log"
	fi
done
[ -e "$log/examples/hmm_range_1.rs" ] || failed "no example was found in hmm/range.rs"
totals
