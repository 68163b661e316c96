// SPDX-License-Identifier: GPL-2.0
/* include/linux/memcontrol.h */
#include <linux/memcontrol.h>

bool hmm_helper_mem_cgroup_disabled(void)
{
	return mem_cgroup_disabled();
}

bool hmm_helper_folio_memcg_charged(struct folio *folio)
{
	return folio_memcg_charged(folio);
}
