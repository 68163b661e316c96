// SPDX-License-Identifier: GPL-2.0
/*
 * C functions that a supported kernel may lack, see lacks.mk. They have the names and the contracts
 * of the kernel's own; the Rust side cannot tell them apart.
 */

#ifdef LACKS_range_fault_unlocked
/* include/linux/hmm.h */
#include <linux/hmm.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/oom.h>
#include <linux/sched/signal.h>

/*
 * Faults in the pages that a look at the range has not found as they are required. Returns how many
 * that were, or an error. *locked is cleared when a fault has dropped the mmap_lock: what the look
 * has found may be wrong then, so the rest is left to the next one.
 */
static long compat_fault_in(struct hmm_range *range, bool *locked)
{
	unsigned long required = 0, addr = range->start, i;
	struct mm_struct *mm = range->notifier->mm;
	unsigned int flags = FAULT_FLAG_REMOTE | FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_KILLABLE;
	long nr_faults = 0;

	if (range->default_flags & HMM_PFN_REQ_FAULT)
		required |= HMM_PFN_VALID;
	if (range->default_flags & HMM_PFN_REQ_WRITE) {
		required |= HMM_PFN_WRITE;
		flags |= FAULT_FLAG_WRITE;
	}

	for (i = 0; addr < range->end; i++, addr += PAGE_SIZE) {
		unsigned long pfn = range->hmm_pfns[i];
		struct vm_area_struct *vma;
		vm_fault_t fault;

		if ((pfn & required) == required)
			continue;
		/* A page of the device itself is reported as it is. */
		if ((pfn & HMM_PFN_VALID) && is_device_private_page(hmm_pfn_to_page(pfn)))
			continue;
		vma = vma_lookup(mm, addr);
		if (!vma || !(vma->vm_flags & VM_READ))
			return -EFAULT;
		/*
		 * What has no struct page is an error, and a fault would change nothing. Otherwise the
		 * error is that of a fault, or stands for a huge page on another device.
		 */
		if ((pfn & HMM_PFN_ERROR) && (vma->vm_flags & (VM_IO | VM_PFNMAP | VM_MIXEDMAP)))
			return -EFAULT;
		if ((flags & FAULT_FLAG_WRITE) && !(vma->vm_flags & VM_WRITE))
			return -EPERM;
		fault = handle_mm_fault(vma, addr, flags, NULL);
		if (fault & (VM_FAULT_COMPLETED | VM_FAULT_RETRY)) {
			*locked = false;
			return 1;
		}
		if (fault & VM_FAULT_ERROR)
			return vm_fault_to_errno(fault, 0) ?: -EFAULT;
		nr_faults++;
	}
	return nr_faults;
}

/*
 * hmm_range_fault() keeps the mmap_lock over a fault, so a fault that user space handles fails in
 * it. Here it only looks; faults are handled between the looks.
 */
int hmm_helper_hmm_range_fault_unlocked_timeout(struct hmm_range *range, unsigned long timeout)
{
	struct mm_struct *mm = range->notifier->mm;
	unsigned long deadline = jiffies + timeout;
	struct hmm_range look = *range;
	bool locked;
	long ret;

	/* hmm asks for the same of all pages. */
	if (WARN_ON_ONCE(range->pfn_flags_mask))
		return -EINVAL;
	look.default_flags = 0;
	do {
		if (fatal_signal_pending(current))
			return -EINTR;
		locked = true;
		look.notifier_seq = mmu_interval_read_begin(range->notifier);
		ret = mmap_read_lock_killable(mm);
		if (ret)
			return ret;
		if (check_stable_address_space(mm))
			ret = -EFAULT;
		else if (timeout && time_after(jiffies, deadline))
			ret = -ETIME;
		else
			ret = hmm_range_fault(&look);
		if (!ret)
			ret = compat_fault_in(range, &locked);
		if (locked)
			mmap_read_unlock(mm);
		/* Faults took their time, and are progress. */
		if (!locked || ret > 0)
			deadline = jiffies + timeout;
	} while (ret > 0 || ret == -EBUSY);

	range->notifier_seq = look.notifier_seq;
	return ret == -ETIME ? -EBUSY : ret;
}
#endif

#ifdef LACKS_spinlock_irq
/* include/linux/spinlock.h */
#include <linux/spinlock.h>

unsigned long hmm_helper_spin_lock_irqsave(spinlock_t *lock)
{
	unsigned long flags;

	spin_lock_irqsave(lock, flags);
	return flags;
}

bool hmm_helper_spin_trylock_irqsave(spinlock_t *lock, unsigned long *flags)
{
	return spin_trylock_irqsave(lock, *flags);
}

void hmm_helper_spin_unlock_irqrestore(spinlock_t *lock, unsigned long flags)
{
	spin_unlock_irqrestore(lock, flags);
}
#endif

#ifdef LACKS_anon_pgoff
/* include/linux/mm.h: the pages of a private mapping of a file had no offset of their own yet */
#include <linux/mm.h>

static inline pgoff_t vma_start_anon_pgoff(const struct vm_area_struct *vma)
{
	return vma->vm_pgoff;
}

static inline pgoff_t vma_last_anon_pgoff(const struct vm_area_struct *vma)
{
	return vma->vm_pgoff + vma_pages(vma) - 1;
}
#endif

#ifdef LACKS_init_fs
/* Kernel threads have the root of all programs there. */
#define scoped_with_init_fs()
#endif
