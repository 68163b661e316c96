// SPDX-License-Identifier: GPL-2.0
/*
 * C wrappers for `emu`, on top of those that helpers.c has: include/linux/highmem.h,
 * include/linux/io.h, include/linux/page-flags.h, and copying. The prefix is
 * emu_helper_.
 */
#include <linux/highmem.h>
#include <linux/io.h>
#include <linux/mm.h>

void *emu_helper_phys_to_virt(phys_addr_t addr)
{
	return phys_to_virt(addr);
}

void emu_helper_copy_page(void *to, void *from)
{
	copy_page(to, from);
}

void emu_helper_clear_page(void *page)
{
	clear_page(page);
}

/* What others may change at the same time; the compiler must not be told otherwise. */
void emu_helper_memcpy_racy(void *to, const void *from, size_t len)
{
	memcpy(to, from, len);
}

bool emu_helper_folio_test_swapbacked(const struct folio *folio)
{
	return folio_test_swapbacked(folio);
}

void emu_helper_memcpy_from_page(void *to, struct page *page, size_t offset, size_t len)
{
	memcpy_from_page(to, page, offset, len);
}

void emu_helper_memcpy_to_page(struct page *page, size_t offset, const void *from, size_t len)
{
	memcpy_to_page(page, offset, from, len);
}
