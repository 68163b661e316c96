// SPDX-License-Identifier: GPL-2.0
/* include/kunit/test.h, lib/kunit/user_alloc.c; only for the tests of `hmm` */
#include <kunit/test-bug.h>
#include <kunit/test.h>
#include <linux/mman.h>

#if IS_BUILTIN(CONFIG_KUNIT)
unsigned long hmm_helper_kunit_mmap_anonymous(unsigned long len)
{
	return kunit_vm_mmap(kunit_get_current_test(), NULL, 0, len, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, 0);
}
#endif
