// SPDX-License-Identifier: GPL-2.0
/* include/kunit/test.h, lib/kunit/user_alloc.c; only for the tests of `hmm` */
#include <kunit/test-bug.h>
#include <kunit/test.h>
#include <linux/cpumask.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/fs_struct.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/smp.h>
#include <linux/swap.h>

#if IS_BUILTIN(CONFIG_KUNIT)
MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");

int hmm_helper_kunit_attach_mm(void)
{
	return kunit_attach_mm();
}

unsigned long hmm_helper_kunit_mmap_anonymous(unsigned long len)
{
	return kunit_vm_mmap(kunit_get_current_test(), NULL, 0, len, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, 0);
}

unsigned long hmm_helper_kunit_mmap_over(unsigned long addr, unsigned long len, bool writable,
					 bool shared)
{
	return vm_mmap(NULL, addr, len, PROT_READ | (writable ? PROT_WRITE : 0),
		       (shared ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS | MAP_FIXED, 0);
}

int hmm_helper_kunit_munmap(unsigned long addr, unsigned long len)
{
	return vm_munmap(addr, len);
}

/* Changes VM_WRITE like mprotect(), which is not exported; page table entries stay as they are. */
int hmm_helper_kunit_mod_vm_flags(unsigned long addr, unsigned long set, unsigned long clear)
{
	struct vm_area_struct *vma;

	mmap_write_lock(current->mm);
	vma = vma_lookup(current->mm, addr);
	if (vma) {
		vm_flags_mod(vma, set, clear);
		vma->vm_page_prot = vm_get_page_prot(vma->vm_flags);
	}
	mmap_write_unlock(current->mm);
	return vma ? 0 : -EFAULT;
}

void hmm_helper_kunit_mmap_write_lock(void)
{
	mmap_write_lock(current->mm);
}

void hmm_helper_kunit_mmap_write_unlock(void)
{
	mmap_write_unlock(current->mm);
}

struct mm_struct *hmm_helper_kunit_other_mm(void)
{
	return mm_alloc();
}

/* Accesses the page as a debugger does. */
int hmm_helper_kunit_touch(struct mm_struct *mm, unsigned long addr)
{
	struct page *page;
	long ret;

	mmap_read_lock(mm);
	ret = get_user_pages_remote(mm, addr, 1, 0, &page, NULL);
	mmap_read_unlock(mm);
	if (ret == 1)
		put_page(page);
	return ret == 1 ? 0 : -EFAULT;
}

/* The thread of a test ignores all signals except those that it has allowed. */
void hmm_helper_kunit_kill(void)
{
	allow_signal(SIGKILL);
	send_sig(SIGKILL, current, 1);
}

void hmm_helper_kunit_revive(void)
{
	flush_signals(current);
	disallow_signal(SIGKILL);
}

static int hmm_kunit_mark_accessed(void *folio)
{
	folio_mark_accessed(folio);
	folio_mark_accessed(folio);
	return 0;
}

/* The page must be on an LRU list. The caller stays on its CPU from now on. */
int hmm_helper_kunit_use_on_another_cpu(unsigned long addr)
{
	unsigned int here = raw_smp_processor_id();
	unsigned int there = cpumask_any_but(cpu_online_mask, here);
	struct page *page;
	int ret;

	if (there >= nr_cpu_ids)
		return -ENODEV;
	ret = set_cpus_allowed_ptr(current, cpumask_of(here));
	if (ret)
		return ret;
	if (get_user_pages_fast(addr, 1, 0, &page) != 1)
		return -EFAULT;
	ret = smp_call_on_cpu(there, hmm_kunit_mark_accessed, page_folio(page), false);
	put_page(page);
	return ret;
}

/* Resolves the path as programs do: kernel threads have a root of their own, which is empty. */
struct file *hmm_helper_kunit_open(const char *path)
{
	scoped_with_init_fs()
		return filp_open(path, O_RDWR, 0);
}

void hmm_helper_kunit_close(struct file *file)
{
	__fput_sync(file);
}

long hmm_helper_kunit_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	return file->f_op->unlocked_ioctl(file, cmd, arg);
}

unsigned long hmm_helper_kunit_mmap_file(struct file *file, unsigned long len)
{
	return vm_mmap(file, 0, len, PROT_READ, MAP_SHARED, 0);
}

size_t hmm_helper_kunit_show_fdinfo(struct file *file, char *buf, size_t size)
{
	struct seq_file m = { .buf = buf, .size = size };

	file->f_op->show_fdinfo(&m, file);
	return m.count;
}
#endif
