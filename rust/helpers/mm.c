// SPDX-License-Identifier: GPL-2.0
/* include/linux/mm.h, pagemap.h, highmem.h, nodemask.h, sched.h */
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/nodemask.h>
#include <linux/pagemap.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>

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

bool hmm_helper_folio_try_get(struct folio *folio)
{
	return folio_try_get(folio);
}

void *hmm_helper_kmap_local_page(struct page *page)
{
	return kmap_local_page(page);
}

void hmm_helper_kunmap_local(const void *addr)
{
	kunmap_local(addr);
}

bool hmm_helper_node_online(unsigned int node)
{
	return node < MAX_NUMNODES && node_online(node);
}

void hmm_helper_cond_resched(void)
{
	cond_resched();
}

bool hmm_helper_fatal_signal_pending(void)
{
	return fatal_signal_pending(current);
}
