// SPDX-License-Identifier: GPL-2.0
/* include/linux/hmm.h */
#include <linux/hmm.h>

unsigned int hmm_helper_hmm_pfn_to_map_order(unsigned long hmm_pfn)
{
	return hmm_pfn_to_map_order(hmm_pfn);
}
