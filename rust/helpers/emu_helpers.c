// SPDX-License-Identifier: GPL-2.0
/*
 * C wrappers for `emu`, in addition to those in helpers.c: for include/linux/eventfd.h,
 * include/linux/highmem.h, include/linux/io.h, include/linux/kthread.h, include/linux/memcontrol.h,
 * include/linux/page-flags.h, include/linux/sched/signal.h and include/linux/uaccess.h, and for
 * copying. The prefix is emu_helper_.
 */
#include <linux/eventfd.h>
#include <linux/highmem.h>
#include <linux/io.h>
#include <linux/kthread.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>

void *emu_helper_phys_to_virt(phys_addr_t addr)
{
	return phys_to_virt(addr);
}

/* Copies whole pages, which are consecutive on both sides. */
void emu_helper_copy_from_pages(void *to, struct page *from, unsigned long nr)
{
	for (unsigned long n = 0; n < nr; n++) {
		void *address = kmap_local_page(from + n);

		copy_page(to + n * PAGE_SIZE, address);
		kunmap_local(address);
	}
}

void emu_helper_copy_to_pages(struct page *to, void *from, unsigned long nr)
{
	for (unsigned long n = 0; n < nr; n++) {
		void *address = kmap_local_page(to + n);

		copy_page(address, from + n * PAGE_SIZE);
		kunmap_local(address);
	}
}

void emu_helper_clear_pages(void *to, unsigned long nr)
{
	for (unsigned long n = 0; n < nr; n++)
		clear_page(to + n * PAGE_SIZE);
}

/* Others may access the bytes concurrently, so the compiler must not assume otherwise. */
void emu_helper_memcpy_racy(void *to, const void *from, size_t len)
{
	memcpy(to, from, len);
}

/*
 * Keeps reclaim from taking the pages for unmodified ones: mm does not see the writes of a device.
 */
void emu_helper_mark_pages_dirty(struct page *page, unsigned long nr)
{
	struct folio *last = NULL;

	for (unsigned long n = 0; n < nr; n++) {
		struct folio *folio = page_folio(page + n);

		if (folio == last)
			continue;
		last = folio;
		/*
		 * A page of a file on a disk can be written to only through a page table entry that
		 * is already dirty, and its file system may need the folio lock when it is marked
		 * dirty. For other pages, this only sets flags.
		 */
		if (!folio_test_dirty(folio) && (folio_test_anon(folio) || folio_test_swapbacked(folio)))
			folio_mark_dirty(folio);
	}
}

void emu_helper_memcpy_from_page(void *to, struct page *page, size_t offset, size_t len)
{
	memcpy_from_page(to, page, offset, len);
}

void emu_helper_memcpy_to_page(struct page *page, size_t offset, const void *from, size_t len)
{
	memcpy_to_page(page, offset, from, len);
}

/*
 * Copy as far as user memory is present, whatever locks are held. The pages are consecutive on both
 * sides. These functions return the number of pages that were copied completely.
 */
unsigned long emu_helper_copy_to_user_present(void __user *to, const void *from, unsigned long nr)
{
	unsigned long left = nr * PAGE_SIZE;

	if (!access_ok(to, left))
		return 0;
	pagefault_disable();
	left = __copy_to_user_inatomic(to, from, left);
	pagefault_enable();
	return nr - DIV_ROUND_UP(left, PAGE_SIZE);
}

unsigned long emu_helper_copy_from_user_present(void *to, const void __user *from, unsigned long nr)
{
	unsigned long left = nr * PAGE_SIZE;

	if (!access_ok(from, left))
		return 0;
	pagefault_disable();
	/* Not the variant that zeroes the rest after a partial copy. */
	left = __copy_from_user_inatomic(to, from, left);
	pagefault_enable();
	return nr - DIV_ROUND_UP(left, PAGE_SIZE);
}

unsigned long emu_helper_copy_pages_to_user_present(void __user *to, struct page *from,
						    unsigned long nr)
{
	unsigned long n;

	if (!access_ok(to, nr * PAGE_SIZE))
		return 0;
	pagefault_disable();
	for (n = 0; n < nr; n++) {
		void *address = kmap_local_page(from + n);
		unsigned long left = __copy_to_user_inatomic(to + n * PAGE_SIZE, address, PAGE_SIZE);

		kunmap_local(address);
		if (left)
			break;
	}
	pagefault_enable();
	return n;
}

unsigned long emu_helper_copy_pages_from_user_present(struct page *to, const void __user *from,
						      unsigned long nr)
{
	unsigned long n;

	if (!access_ok(from, nr * PAGE_SIZE))
		return 0;
	pagefault_disable();
	for (n = 0; n < nr; n++) {
		void *address = kmap_local_page(to + n);
		unsigned long left = __copy_from_user_inatomic(address, from + n * PAGE_SIZE, PAGE_SIZE);

		kunmap_local(address);
		if (left)
			break;
	}
	pagefault_enable();
	return n;
}

/* Returns the number of bytes that are not present. */
unsigned long emu_helper_fault_in_readable(const char __user *from, unsigned long len)
{
	return fault_in_readable(from, len);
}

/* Starts a thread, and returns its task with a reference. */
struct task_struct *emu_helper_kthread_run(int (*body)(void *data), void *data, const char *name)
{
	struct task_struct *task = kthread_create(body, data, "%s", name);

	if (!IS_ERR(task)) {
		get_task_struct(task);
		wake_up_process(task);
	}
	return task;
}

int emu_helper_kthread_stop_put(struct task_struct *task)
{
	return kthread_stop_put(task);
}

/* A kernel thread ignores all signals except those that it has allowed. */
void emu_helper_allow_sigkill(void)
{
	allow_kernel_signal(SIGKILL);
}

void emu_helper_send_sigkill(struct task_struct *task)
{
	send_sig(SIGKILL, task, 1);
}

void emu_helper_flush_signals(void)
{
	if (current->flags & PF_KTHREAD)
		flush_signals(current);
}

struct eventfd_ctx *emu_helper_eventfd_ctx_fdget(int fd)
{
	return eventfd_ctx_fdget(fd);
}

void emu_helper_eventfd_ctx_put(struct eventfd_ctx *ctx)
{
	eventfd_ctx_put(ctx);
}

void emu_helper_eventfd_signal(struct eventfd_ctx *ctx)
{
	eventfd_signal(ctx);
}

/* These access an aligned word of 4 or 8 bytes in one piece. */
u64 emu_helper_read_sized(const void *from, size_t size)
{
	return size == sizeof(u64) ? READ_ONCE(*(const u64 *)from) : READ_ONCE(*(const u32 *)from);
}

void emu_helper_write_sized(void *to, u64 value, size_t size)
{
	if (size == sizeof(u64))
		WRITE_ONCE(*(u64 *)to, value);
	else
		WRITE_ONCE(*(u32 *)to, value);
}

u64 emu_helper_cmpxchg_sized(void *at, u64 old, u64 new, size_t size)
{
	return size == sizeof(u64) ? cmpxchg((u64 *)at, old, new) : cmpxchg((u32 *)at, old, new);
}

struct mem_cgroup *emu_helper_get_mem_cgroup_from_mm(struct mm_struct *mm)
{
	return get_mem_cgroup_from_mm(mm);
}

void emu_helper_mem_cgroup_put(struct mem_cgroup *memcg)
{
	mem_cgroup_put(memcg);
}

struct mem_cgroup *emu_helper_set_active_memcg(struct mem_cgroup *memcg)
{
	return set_active_memcg(memcg);
}
