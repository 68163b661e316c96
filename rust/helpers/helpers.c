// SPDX-License-Identifier: GPL-2.0
/*
 * C wrappers for `hmm`, of inline functions and macros, which bindgen cannot see: one file for each
 * C header, no logic. The Rust side strips the prefix hmm_helper_.
 */
#include "../compat/compat.c"
#include "clock.c"
#include "hmm.c"
#include "kunit.c"
#include "leafops.c"
#include "memremap.c"
#include "mm.c"
#include "mmu_notifier.c"
#include "rmap.c"
