// SPDX-License-Identifier: GPL-2.0
/* include/linux/mm.h, include/linux/pagemap.h, include/linux/highmem.h */
#include <linux/highmem.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/pagemap.h>

struct page *hmm_helper_pfn_to_page(unsigned long pfn)
{
	return pfn_to_page(pfn);
}

unsigned long hmm_helper_page_to_pfn(const struct page *page)
{
	return page_to_pfn(page);
}

struct folio *hmm_helper_page_folio(struct page *page)
{
	return page_folio(page);
}

unsigned long hmm_helper_folio_pfn(const struct folio *folio)
{
	return folio_pfn(folio);
}

unsigned int hmm_helper_folio_order(const struct folio *folio)
{
	return folio_order(folio);
}

bool hmm_helper_folio_test_anon(const struct folio *folio)
{
	return folio_test_anon(folio);
}

bool hmm_helper_folio_test_swapbacked(const struct folio *folio)
{
	return folio_test_swapbacked(folio);
}

bool hmm_helper_is_zero_pfn(unsigned long pfn)
{
	return is_zero_pfn(pfn);
}

void hmm_helper_folio_lock(struct folio *folio)
{
	folio_lock(folio);
}

void hmm_helper_folio_put(struct folio *folio)
{
	folio_put(folio);
}

void hmm_helper_memcpy_from_page(void *to, struct page *page, size_t offset, size_t len)
{
	memcpy_from_page(to, page, offset, len);
}

void hmm_helper_memcpy_to_page(struct page *page, size_t offset, const void *from, size_t len)
{
	memcpy_to_page(page, offset, from, len);
}

void *hmm_helper_phys_to_virt(phys_addr_t addr)
{
	return phys_to_virt(addr);
}

/* What others may change at the same time; the compiler must not be told otherwise. */
void hmm_helper_memcpy_racy(void *to, const void *from, size_t len)
{
	memcpy(to, from, len);
}
