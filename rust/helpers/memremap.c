// SPDX-License-Identifier: GPL-2.0
/* include/linux/memremap.h */
#include <linux/memremap.h>

void hmm_helper_zone_device_folio_init(struct folio *folio, struct dev_pagemap *pgmap,
				       unsigned int order)
{
	zone_device_folio_init(folio, pgmap, order);
}

bool hmm_helper_is_device_private_page(const struct page *page)
{
	return is_device_private_page(page);
}

bool hmm_helper_is_device_coherent_page(const struct page *page)
{
	return is_device_coherent_page(page);
}

bool hmm_helper_is_zone_device_page(const struct page *page)
{
	return is_zone_device_page(page);
}

struct dev_pagemap *hmm_helper_page_pgmap(const struct page *page)
{
	return page_pgmap(page);
}

void *hmm_helper_folio_zone_device_data(const struct folio *folio)
{
	return folio->page.zone_device_data;
}

void hmm_helper_folio_set_zone_device_data(struct folio *folio, void *data)
{
	folio->page.zone_device_data = data;
}

/* Does what zone_device_private_split_cb() does for a driver without folio_split. */
void hmm_helper_folio_split_default(struct folio *head, struct folio *tail)
{
	tail->pgmap = head->pgmap;
	tail->page.mapping = head->page.mapping;
}

/* Does what zone_device_page_init() does to each page of a folio, but leaves the pages unused. */
void hmm_helper_zone_device_folio_dissolve(struct folio *folio, unsigned int order)
{
	struct dev_pagemap *pgmap = folio->pgmap;
	struct page *page = &folio->page;
	unsigned long i;

	for (i = 0; i < 1UL << order; i++) {
		struct folio *small = (struct folio *)(page + i);

		page[i].flags.f &= ~0xffUL;
		small->mapping = NULL;
		small->pgmap = pgmap;
	}
	ClearPageHead(page);
}
