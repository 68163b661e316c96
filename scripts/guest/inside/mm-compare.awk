# SPDX-License-Identifier: GPL-2.0
#
# Compares what one of the kernel's tests of mm says by itself with what it says
# with its memory on the device, result by result. Prints results of KTAP that have
# no number yet: one for the test, and one for each known difference of it.
#
#   awk -v test=TEST -v statuses='ALONE SEEN' [-v also=PROBLEM] -f mm-compare.awk KNOWN ALONE SEEN...
#
# KNOWN has a line for each known difference: test, name of the result, how it
# differs, reason, with tabs between them. A `*` in a name stands for anything. A
# test that stops itself has a result that is called so, with what it says. SEEN is
# given several times for one that ran again.
BEGIN { FS = "\t" }

# A file may be empty.
FNR == 1 { do file++; while (ARGV[file] != FILENAME) }
{ sub(/\r$/, "") }

file == 1 {
	if ($0 !~ /^#/ && $1 == test) {
		names[++known] = $2
		changes[known] = $3
		reasons[known] = $4
		if (NF != 4 || $2 == "" || $4 == "" || $2 ~ /#/ || $3 !~ /, then /)
			problem("a line of what is known is not as it should be")
	}
	next
}

/^ *(not )?ok [0-9]+/ {
	state = /^ *not / ? "failed" : "passed"
	name = $0
	sub(/^ *(not )?ok [0-9]+ *-? */, "", name)
	if (match(name, /# *(SKIP|XFAIL) */)) {
		state = substr(name, RSTART) ~ /^# *SKIP/ ? "skipped" : "expected to fail"
		# The name is before the word, or behind it, and then the reason is not.
		name = RSTART > 1 ? substr(name, 1, RSTART - 1) : substr(name, RLENGTH + 1)
	}
	sub(/ *#.*/, "", name)
	# What a test of pagemap_ioctl has counted, which is never the same.
	sub(/Extra pages [0-9].*/, "Extra pages", name)
	sub(/ +$/, "", name)
	if (name == "") name = "a result without a name"
	if (times[file, name]++) name = name " (" times[file, name] ")"
	states[file, name] = state
	results[file]++
	if (!(name in order)) {
		order[name] = ++total
		all[total] = name
	}
}

# All of it, for want of something.
/^1\.\.0 +# *SKIP/ {
	sub(/^1\.\.0 +# *SKIP */, "")
	skips[file] = $0 ? $0 : "it does not say why"
}

# It says how many have failed in the same way.
/^Bail out! / && !/^Bail out! [0-9]+ out of [0-9]+ tests failed/ { stop(substr($0, 11)) }
/^# ERROR: / { stop(substr($0, 10)) }

function stop(said) {
	sub(/ *# (Totals: |Planned tests ).*/, "", said)
	if (!(file in stops)) stops[file] = "stops itself: " said
}

# matches NAME PATTERN : `*` stands for anything.
function matches(name, pattern, parts, i, n, at) {
	n = split(pattern, parts, "*")
	if (n == 1) return name == pattern
	if (substr(name, 1, length(parts[1])) != parts[1]) return 0
	name = substr(name, length(parts[1]) + 1)
	for (i = 2; i < n; i++) {
		at = index(name, parts[i])
		if (!at) return 0
		name = substr(name, at + length(parts[i]))
	}
	return length(name) >= length(parts[n]) &&
		substr(name, length(name) - length(parts[n]) + 1) == parts[n]
}

# differs NAME CHANGE : a difference, which is known or not.
function differs(name, change, i, is_known) {
	for (i = 1; i <= known; i++)
		if (change == changes[i] && matches(name, names[i])) {
			is_known = 1
			met[i]++
			all_met++
		}
	printf "# %s: %s%s\n", name, change, is_known ? " (known)" : ""
	if (!is_known) problem("results differ")
}

function problem(what) { if (!(what in why)) { why[what]; whys = whys (whys ? ", " : "") what } }

END {
	last = ARGC - 1
	if (skips[2] && skips[2] == skips[last]) {
		printf "ok mm.%s # SKIP %s\n", test, skips[2]
		for (i = 1; i <= known; i++) printf "ok mm.%s: %s: %s # SKIP %s\n", test, names[i], changes[i], skips[2]
		exit 0
	}
	if (also) problem(also)
	if (!results[2] && !(2 in stops)) problem("it has no results")
	for (f = 3; f <= last; f++)
		if (stops[f] != stops[2]) {
			if (stops[2]) differs(stops[2], "so, then not")
			if (stops[f]) differs(stops[f], "not, then so")
		}
	missing = 0
	for (n = 1; n <= total; n++) {
		name = all[n]
		first = (2, name) in states ? states[2, name] : "nothing"
		ran = 0
		for (f = 3; f <= last; f++) {
			if (!((f, name) in states)) continue
			ran++
			if (states[f, name] != first && !(first == "nothing" && stops[2])) {
				differs(name, first ", then " states[f, name])
				break
			}
		}
		if (!ran && stops[last]) missing++
		else if (!ran) differs(name, first ", then nothing")
	}
	for (f = 3; f <= last; f++) compared += results[f]
	if (results[2] && !compared) problem("no result could be compared")
	if (missing) printf "# %d of %d results are missing: it stopped itself before\n", missing, results[2]
	split(statuses, status, " ")
	if (!all_met && !whys && status[1] != status[2]) problem("status " status[1] ", then " status[2])
	if (whys) printf "# %s\n", whys
	printf "%sok mm.%s\n", whys ? "not " : "", test
	for (i = 1; i <= known; i++) {
		found = names[i] ~ /^stops itself: / # which mm-tests looks for in the program
		for (n = 1; n <= total && !found; n++) found = matches(all[n], names[i])
		if (!found) {
			print "# the test has no such result"
			printf "not ok mm.%s: %s: %s\n", test, names[i], changes[i]
			bad = 1
		} else
			printf "ok mm.%s: %s: %s%s\n", test, names[i], changes[i], met[i] ? " # XFAIL " reasons[i] : ""
	}
	exit (whys || bad) ? 1 : 0
}
