/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The ABI of /dev/hmm_dmirror*: numbers, layouts and errors, in one place. The
 * kernel module and the Rust client library are generated from this file, and
 * C programs can include it.
 *
 * Numbers and layouts are those of the kernel's own lib/test_hmm module, so
 * that a program written for the one runs on the other.
 *
 * Every command takes a struct dmirror_cmd by reference and works on the
 * address space of the process that OPENED the device file, whoever calls.
 * Pages are PAGE_SIZE bytes; a range is addr up to, not including,
 * addr + npages * PAGE_SIZE.
 *
 * Errors that all commands share:
 *   EINVAL  unknown command; addr is not page aligned; npages is 0, or the
 *           range wraps around or leaves the address space; the address space
 *           of the opener is gone
 *   EFAULT  the struct, or a buffer that it names, cannot be accessed
 *   EINTR   a fatal signal arrived; what was done until then stays done
 * The struct is written back, with true counts of what was done, on success and
 * on every error, except where the range is unaligned or empty or wraps around.
 */
#ifndef _UAPI_DMIRROR_H
#define _UAPI_DMIRROR_H

#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * struct dmirror_cmd - argument of every command
 * @addr: in: first virtual address of the range, page aligned
 * @ptr: in: user buffer of npages * PAGE_SIZE bytes, where a command has one
 * @npages: in: length of the range in pages
 * @cpages: out: pages that the command moved or copied
 * @faults: out: rounds of device faults that the command took
 */
struct dmirror_cmd {
	__u64 addr;
	__u64 ptr;
	__u64 npages;
	__u64 cpages;
	__u64 faults;
};

#define DMIRROR_IOC_MAGIC	'H'

/*
 * MIGRATE_TO_DEV: move the pages of the range to the memory of the device,
 * then copy the range, as the device sees it, to @ptr. Holes and zero pages
 * become zeroed device pages; pages that are on the device stay there.
 * cpages: pages of the range that the device sees and that were copied to @ptr.
 *   EINVAL  a part of the range is not mapped, not readable, or of a kind that
 *           never migrates (hugetlb, device and DAX mappings)
 *   ENOENT  some page was not moved: one of a file, pinned, swapped out, on
 *           another device, or locked or referenced by others all the while;
 *           the others were
 *   ENOMEM  the device has no room and nothing on it can be evicted, or no
 *           system memory is left for bookkeeping
 */
#define DMIRROR_NR_MIGRATE_TO_DEV	0x02
#define DMIRROR_MIGRATE_TO_DEV \
	_IOWR(DMIRROR_IOC_MAGIC, DMIRROR_NR_MIGRATE_TO_DEV, struct dmirror_cmd)

/*
 * MIGRATE_TO_SYS: move those pages of the range that are on this device back to
 * system memory. @ptr is not used. Pages that are elsewhere stay there, and so do
 * pages that others have locked or referenced all the while; that is no error.
 * cpages: pages that came back.
 *   EINVAL  a part of the range is not mapped, not readable, or of a kind that
 *           never migrates
 *   ENOMEM  no system memory for a page
 *   EIO     the device cannot give back the data of a page
 */
#define DMIRROR_NR_MIGRATE_TO_SYS	0x03
#define DMIRROR_MIGRATE_TO_SYS \
	_IOWR(DMIRROR_IOC_MAGIC, DMIRROR_NR_MIGRATE_TO_SYS, struct dmirror_cmd)

#endif /* _UAPI_DMIRROR_H */
