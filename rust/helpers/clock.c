// SPDX-License-Identifier: GPL-2.0
/* include/linux/sched/clock.h */
#include <linux/sched/clock.h>

unsigned long long hmm_helper_local_clock(void)
{
	return local_clock();
}
