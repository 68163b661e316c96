// SPDX-License-Identifier: GPL-2.0
/* include/linux/rmap.h, mm/interval_tree.c, mm/rmap.c */
#include <linux/interval_tree_generic.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/rmap.h>

static inline pgoff_t hmm_avc_first(struct anon_vma_chain *avc)
{
	return vma_start_anon_pgoff(avc->vma);
}

static inline pgoff_t hmm_avc_last(struct anon_vma_chain *avc)
{
	return vma_last_anon_pgoff(avc->vma);
}

/* Iterates over the tree that mm maintains: mm does not export its own iterators. */
INTERVAL_TREE_DEFINE(struct anon_vma_chain, rb, pgoff_t, rb_subtree_last,
		     hmm_avc_first, hmm_avc_last, static inline, hmm_avc_tree)

struct anon_vma_chain *hmm_helper_anon_vma_first(struct anon_vma *anon_vma, unsigned long pgoff)
{
	return hmm_avc_tree_iter_first(&anon_vma->rb_root, pgoff, pgoff);
}

struct anon_vma_chain *hmm_helper_anon_vma_next(struct anon_vma_chain *avc, unsigned long pgoff)
{
	return hmm_avc_tree_iter_next(avc, pgoff, pgoff);
}

struct vm_area_struct *hmm_helper_avc_vma(struct anon_vma_chain *avc)
{
	return avc->vma;
}

unsigned long hmm_helper_vma_start_anon_pgoff(const struct vm_area_struct *vma)
{
	return vma_start_anon_pgoff(vma);
}

/* Returns NULL unless the folio is anonymous memory and does not belong to KSM. */
struct anon_vma *hmm_helper_folio_anon_vma(const struct folio *folio)
{
	unsigned long mapping = (unsigned long)READ_ONCE(folio->mapping);

	if ((mapping & FOLIO_MAPPING_FLAGS) != FOLIO_MAPPING_ANON)
		return NULL;
	return (struct anon_vma *)(mapping - FOLIO_MAPPING_ANON);
}

bool hmm_helper_folio_mapped(const struct folio *folio)
{
	return folio_mapped(folio);
}

unsigned long hmm_helper_page_pgoff(const struct folio *folio, const struct page *page)
{
	return page_pgoff(folio, page);
}

/* Returns the locked root, or NULL. A freed anon_vma may have another root when it is unlocked. */
struct anon_vma *hmm_helper_anon_vma_trylock_root(struct anon_vma *anon_vma)
{
	struct anon_vma *root = READ_ONCE(anon_vma->root);

	return down_read_trylock(&root->rwsem) ? root : NULL;
}

struct anon_vma *hmm_helper_anon_vma_root(struct anon_vma *anon_vma)
{
	return READ_ONCE(anon_vma->root);
}

void hmm_helper_anon_vma_unlock_root(struct anon_vma *root)
{
	up_read(&root->rwsem);
}
