// SPDX-License-Identifier: GPL-2.0
/*
 * C wrappers of inline functions and macros for `hmm`, which bindgen cannot see:
 * one file for each C header, no logic. The prefix hmm_helper_ is removed again
 * on the Rust side.
 */
#include "hmm.c"
#include "kunit.c"
#include "leafops.c"
#include "memremap.c"
#include "mm.c"
#include "mmu_notifier.c"
#include "rmap.c"
