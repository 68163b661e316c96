# SPDX-License-Identifier: GPL-2.0
#
# What a person types. Each target is one line to a script, and every script
# can be called by hand. How the modules are built stands in Kbuild, which the
# kernel's build system reads instead of this file.

# What the scripts take from here, with its `$` as it was typed. scripts/guest.sh
# says what each one means.
settings := CMD FILES KERNEL MODULE MEM CPUS ARGS APPEND TIMEOUT ACCEL CLOCK NAME LEAKS PAGING KDIR \
	IVSHMEM HOST_CMD DURATION SEED PROCS OPS
$(foreach name,$(settings),$(if $(filter undefined,$(origin $(name))),,\
	$(eval override export $(name) := $$(value $(name)))))

.PHONY: all modules run shell guest kunit selftest conformance compare bench ivshmem real stress fuzz matrix planted lint doc test
.PHONY: soak rust-analyzer clean distclean help
.NOTPARALLEL:

all: modules

modules: ## build dmirror.ko and the drivers in samples for the stock kernel (KERNEL=debug, or KDIR=/a/kernel/build)
	@scripts/modules.sh

run: ## boot the stock kernel in QEMU, show the demo and a few cases of each theme of the selftest
	@scripts/run.sh

shell: ## a guest with the module loaded and the programs on PATH, interactive
	@scripts/shell.sh

guest: ## run CMD='…' in a guest; FILES='a b' KERNEL=stock|debug|patched MODULE=dmirror|test_hmm|none MEM=4G CPUS=2 ARGS='…' APPEND='…'
	@scripts/guest.sh

kunit: ## KUnit suites of the kernel crates, on the debug kernel
	@scripts/kunit.sh

selftest: ## the bundled selftest, on the stock and the debug kernel; MODULE=test_hmm: on upstream's module
	@scripts/selftest.sh

conformance: ## upstream's hmm-tests on the debug kernel (KERNEL=stock); MODULE=test_hmm: on upstream's module
	@scripts/conformance.sh

compare: ## upstream's hmm-tests on our module and on upstream's, case by case
	@scripts/compare.sh

bench: ## our module and upstream's measured, in instructions and by the clock: a table of ratios, pictures in build/bench
	@scripts/bench.sh

ivshmem: ## the driver samples/ivshmem and its device, looked at from both sides, on the stock and the debug kernel
	@scripts/ivshmem.sh

real: ## sqlite, python, redis and others, and the kernel's tests of mm, with their memory on the device: the same output
	@scripts/real.sh

stress: ## random programs against an oracle, on the debug kernel; DURATION=60 SEED= PROCS=3 OPS=200
	@scripts/stress.sh

fuzz: ## random requests, on the debug kernel; DURATION=60 SEED= PROCS=3
	@scripts/fuzz.sh

matrix: ## the selftest on the debug kernel with each preemption, setting of huge pages, 1 and 2 CPUs; hours
	@scripts/matrix.sh

planted: ## plant bugs in a copy of the module, one at a time, and see that the tests find each
	@scripts/planted.sh

lint: ## rustfmt, clippy, shellcheck, SPDX, and rules of this project
	@scripts/lint.sh

doc: ## rustdoc of the kernel crates and of the client library, in build/doc
	@scripts/doc.sh

test: ## all of the tests; ends with "N passed, N failed, N skipped"
	@scripts/test.sh

soak: ## hours of stress and fuzz (DURATION=3600 each), the whole matrix, a thousand loads; ends like test
	@scripts/test.sh --soak

rust-analyzer: ## rust-project.json for editors
	@scripts/rust-analyzer.sh

clean: ## remove build/
	@scripts/clean.sh

distclean: ## remove build/ and the cache (build root, kernels, downloads)
	@scripts/clean.sh --cache

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18
