// SPDX-License-Identifier: GPL-2.0
/* include/kunit/test.h, lib/kunit/user_alloc.c; only for the tests of `hmm` */
#include <kunit/test-bug.h>
#include <kunit/test.h>
#include <linux/mm.h>
#include <linux/mman.h>

#if IS_BUILTIN(CONFIG_KUNIT)
int hmm_helper_kunit_attach_mm(void)
{
	return kunit_attach_mm();
}

unsigned long hmm_helper_kunit_mmap_anonymous(unsigned long len)
{
	return kunit_vm_mmap(kunit_get_current_test(), NULL, 0, len, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, 0);
}

unsigned long hmm_helper_kunit_mmap_over(unsigned long addr, unsigned long len, bool writable)
{
	return vm_mmap(NULL, addr, len, PROT_READ | (writable ? PROT_WRITE : 0),
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, 0);
}

int hmm_helper_kunit_munmap(unsigned long addr, unsigned long len)
{
	return vm_munmap(addr, len);
}

/* As mprotect(), which is not exported; it leaves the page table entries as they are. */
int hmm_helper_kunit_allow_writing(unsigned long addr)
{
	struct vm_area_struct *vma;

	mmap_write_lock(current->mm);
	vma = vma_lookup(current->mm, addr);
	if (vma) {
		vm_flags_set(vma, VM_WRITE);
		vma->vm_page_prot = vm_get_page_prot(vma->vm_flags);
	}
	mmap_write_unlock(current->mm);
	return vma ? 0 : -EFAULT;
}
#endif
