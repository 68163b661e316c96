# SPDX-License-Identifier: GPL-2.0
#
# The targets. Each is one line to a script, and every script can be called by
# hand. How the modules are built is in Kbuild, which the kernel's build system
# reads instead of this file.

# For its build system would speak of "multiple external modules" instead.
ifneq ($(words $(subst :, ,$(CURDIR))),1)
$(error the path of this checkout has a space or a colon: $(CURDIR). The kernel's \
	build system cannot work there; move the checkout to another folder)
endif

# What the scripts take from here, with its `$` as it was typed. `make help` has
# the usual ones, and Documentation/using.md all.
settings := ARCH PAGES SERIES CMD FILES KERNEL MODULE MEM CPUS ARGS APPEND TIMEOUT ACCEL CLOCK NAME LEAKS PAGING \
	KDIR LLVM IVSHMEM HOST_CMD DURATION SEED PROCS OPS PATCHES TREE RANGE PARTS VNG GUEST
$(foreach name,$(settings),$(if $(filter undefined,$(origin $(name))),,\
	$(eval override export $(name) := $$(value $(name)))))

.PHONY: all help run shell guest vng modules selftest conformance compare stress fuzz matrix real bench report
.PHONY: test soak kunit ivshmem planted lint deb doc editors clean distclean
.NOTPARALLEL:

all: modules

help: ## this list
	@sed -nE -e 's/^##   /  /p' -e 's/^## /\n/p' -e 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' Makefile | expand -t 17

## Trying it:

run: ## boot a guest, show pages moving, run a few cases of each theme of the selftest
	@scripts/guest/run.sh

shell: ## a guest with the module loaded and the programs on PATH, interactive
	@scripts/guest/shell.sh

guest: ## run one command in a guest: CMD='dmirror-demo'
	@scripts/guest/guest.sh

## Testing your mm code, or your driver, with it:

report: ## test PATCHES='file…' for mm, or the kernel in KDIR; prints a report for a mail
	@scripts/test/report.sh

vng: ## one command in a guest of virtme-ng: KDIR=… CMD='dmirror-selftest --quick'
	@scripts/guest/vng.sh

modules: ## build dmirror.ko and the drivers in samples/ (what `make` alone does)
	@scripts/build/modules.sh

selftest: ## the bundled selftest, on the stock and on the debug kernel
	@scripts/test/selftest.sh

conformance: ## upstream's hmm-tests, unmodified
	@scripts/test/conformance.sh

compare: ## upstream's hmm-tests on our module and on upstream's, case by case
	@scripts/build/host.sh && scripts/test/compare.py

stress: ## random programs against an oracle that knows what must be true
	@scripts/test/stress.sh

fuzz: ## random requests
	@scripts/test/fuzz.sh

matrix: ## the selftest with each preemption mode, each huge page setting, 1 and 2 CPUs; takes hours
	@scripts/test/matrix.sh

real: ## real programs, and the kernel's tests of mm, with their memory on the device
	@scripts/test/real.sh

bench: ## measure our module and upstream's: a table of ratios, pictures in build/bench
	@scripts/test/bench.sh

## Working on dmirror:

test: ## all of the tests; ends with "N passed, N failed, N skipped"
	@scripts/test/test.sh

soak: ## hours of stress and fuzz, the whole matrix, a thousand loads; ends like test
	@scripts/test/test.sh --soak

kunit: ## the KUnit suites of the kernel crates
	@scripts/build/host.sh && scripts/test/kunit.py

ivshmem: ## test the driver samples/ivshmem, in the guest and from the host
	@scripts/test/ivshmem.sh

planted: ## plant bugs in a copy of the module, one at a time, and see that tests find each
	@scripts/build/host.sh && scripts/test/planted.py

lint: ## rustfmt, clippy, shellcheck, SPDX, and rules of this project
	@scripts/test/lint.sh

deb: ## Debian packages of the newest commit: the module by DKMS, and the programs; in build/deb
	@scripts/package/deb.sh

doc: ## rustdoc of the kernel crates and of the client library, in build/doc
	@scripts/build/doc.sh

editors: ## what rust-analyzer and clangd read; make modules makes it the first time
	@scripts/build/host.sh && scripts/build/editors.py

## Cleaning up:

clean: ## remove build/
	@scripts/build/clean.sh

distclean: ## remove build/ and the cache (build root, kernels, downloads)
	@scripts/build/clean.sh --cache

## Settings, as in `make shell KERNEL=debug MEM=8G`; Documentation/using.md has all:
##   KERNEL=	stock, debug (KASAN, lockdep, kmemleak and more), or patched
##   MODULE=dmirror	or test_hmm, which is upstream's, or none
##   CMD= FILES=	what to run in the guest, and programs and data for it
##   ARGS= APPEND=	parameters of the module, and of the kernel
##   MEM=4G CPUS=2	the size of the guest
##   DURATION=60	seconds of stress and fuzz; SEED= PROCS=3 OPS=200
##   KDIR=	the build folder of your own kernel, in place of KERNEL=
##   SERIES=7.2	the kernel series; without it the newest that is tested and offered
##   ARCH=arm64	the guest's machine; PAGES=16K or 64K for its pages
