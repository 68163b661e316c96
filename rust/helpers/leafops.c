// SPDX-License-Identifier: GPL-2.0
/* include/linux/leafops.h, pgtable.h */
#include <linux/leafops.h>
#include <linux/pgtable.h>
#include <linux/rcupdate.h>

softleaf_t hmm_helper_softleaf_from_pmd(pmd_t pmd)
{
	return softleaf_from_pmd(pmd);
}

bool hmm_helper_softleaf_is_device_private_write(softleaf_t entry)
{
	return softleaf_is_device_private_write(entry);
}

/*
 * Returns whether a huge device page is mapped at an address of a VMA now. The caller holds the
 * mmap_lock, so in a VMA of anonymous memory, no page table above the PTE level is freed.
 */
bool hmm_helper_maps_huge_device_page(struct vm_area_struct *vma, unsigned long address)
{
	pgd_t *pgd = pgd_offset(vma->vm_mm, address);
	p4d_t *p4d;
	pud_t *pud, value;

	if (!vma_is_anonymous(vma) || pgd_none(*pgd))
		return false;
	p4d = p4d_offset(pgd, address);
	if (p4d_none(*p4d))
		return false;
	pud = pud_offset(p4d, address);
	value = READ_ONCE(*pud);
	if (!pud_present(value) || pud_leaf(value))
		return false;
	return pmd_is_device_private_entry(pmdp_get_lockless(pmd_offset(&value, address)));
}

static bool hmm_maps_private_page(pte_t *pte, unsigned long first, unsigned long nr)
{
	softleaf_t entry = softleaf_from_pte(ptep_get_lockless(pte));

	return softleaf_is_device_private(entry) && softleaf_to_pfn(entry) - first < nr &&
	       !PageCompound(pfn_to_page(softleaf_to_pfn(entry)));
}

/*
 * Narrows *start and *end, which lie below the PMD entry, to the consecutive pages around an
 * address that are mapped, are among the nr pages from page frame first on, and do not belong to a
 * large folio. The page at the address counts as such a page. The caller holds the mmap_lock.
 */
void hmm_helper_private_run(pmd_t *pmd, unsigned long address, unsigned long first,
			    unsigned long nr, unsigned long *start, unsigned long *end)
{
	unsigned long from = address, to = address + PAGE_SIZE;

	/* A table that is emptied meanwhile is not freed before this ends. */
	rcu_read_lock();
	if (!IS_ENABLED(CONFIG_HIGHPTE)) {
		pmd_t table = pmdp_get_lockless(pmd);

		if (pmd_present(table) && !pmd_leaf(table)) {
			pte_t *pte = pte_offset_kernel(&table, address);

			for (; from > *start; from -= PAGE_SIZE)
				if (!hmm_maps_private_page(pte - (address - from) / PAGE_SIZE - 1, first, nr))
					break;
			for (; to < *end; to += PAGE_SIZE)
				if (!hmm_maps_private_page(pte + (to - address) / PAGE_SIZE, first, nr))
					break;
		}
	}
	rcu_read_unlock();
	*start = from;
	*end = to;
}
