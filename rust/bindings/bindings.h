/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Input for bindgen: the C headers of the interfaces that `hmm` wraps and that kernel::bindings
 * lacks, and constants that bindgen cannot compute.
 */
#include <linux/folio_batch.h>
#include <linux/hmm.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/rmap.h>
#include <linux/smp.h>

const unsigned long HMM_CONST_MIGRATE_PFN_VALID = MIGRATE_PFN_VALID;
const unsigned long HMM_CONST_MIGRATE_PFN_MIGRATE = MIGRATE_PFN_MIGRATE;
const unsigned long HMM_CONST_MIGRATE_PFN_COMPOUND = MIGRATE_PFN_COMPOUND;
const unsigned long HMM_CONST_MIGRATE_PFN_SHIFT = MIGRATE_PFN_SHIFT;
const unsigned long HMM_CONST_MIGRATE_PFN_WRITE = MIGRATE_PFN_WRITE;

const gfp_t HMM_CONST_GFP_HIGHUSER_MOVABLE = GFP_HIGHUSER_MOVABLE;
const gfp_t HMM_CONST___GFP_NOWARN = __GFP_NOWARN;
const gfp_t HMM_CONST___GFP_NORETRY = __GFP_NORETRY;
const gfp_t HMM_CONST___GFP_RETRY_MAYFAIL = __GFP_RETRY_MAYFAIL;

const unsigned int HMM_CONST_HPAGE_PMD_ORDER = HPAGE_PMD_ORDER;
const unsigned int HMM_CONST_HPAGE_PUD_ORDER = PUD_SHIFT - PAGE_SHIFT;

/* Used by `emu`. */
const unsigned long HMM_CONST_IORESOURCE_SYSTEM_RAM = IORESOURCE_SYSTEM_RAM;
