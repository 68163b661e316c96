// SPDX-License-Identifier: GPL-2.0
/* include/linux/leafops.h */
#include <linux/leafops.h>

softleaf_t hmm_helper_softleaf_from_pmd(pmd_t pmd)
{
	return softleaf_from_pmd(pmd);
}

bool hmm_helper_softleaf_is_device_private_write(softleaf_t entry)
{
	return softleaf_is_device_private_write(entry);
}
