/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The ABI of /dev/hmm_dmirror*: numbers, layouts and errors, in one place. The kernel module and
 * the Rust client library are generated from this file, and C programs can include it.
 *
 * Numbers and layouts are the same as those of the kernel's own lib/test_hmm module, so a program
 * written for one runs on the other.
 *
 * hmm_dmirror0 and 1 have private memory, which CPUs cannot access: a page there moves back when a
 * CPU touches it. hmm_dmirror2 and 3 exist if the module was given addresses for them; they have
 * coherent memory, which CPUs access like any other memory.
 *
 * Every command works on the address space of the process that OPENED the device file, whoever
 * calls. The commands of test_hmm take a struct dmirror_cmd by reference; those of dmirror_queue.h
 * have structs of their own. Pages are PAGE_SIZE bytes; a range reaches from addr to
 * addr + npages * PAGE_SIZE, exclusive.
 *
 * Errors that all commands share:
 *   EINVAL  unknown command; addr is not page aligned; npages is 0, or the range wraps around (not
 *           for RELEASE and FLAGS, which have no range); the address space of the opener is gone
 *           (EFAULT for READ, READ_UNLOCKED and WRITE)
 *   EFAULT  the struct, or a buffer that it refers to, cannot be accessed
 *   ENOMEM  no system memory for bookkeeping, or for a page that a command faults in
 *   EINTR   a fatal signal arrived; what was done before stays done
 * The counts are written back, and valid, on success and on every error, except when the range is
 * unaligned, is empty or wraps around.
 */
#ifndef _UAPI_DMIRROR_H
#define _UAPI_DMIRROR_H

#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * struct dmirror_cmd - argument of every command
 * @addr: in: first virtual address of the range, page aligned
 * @ptr: in: user buffer, for commands that use one
 * @npages: in: length of the range in pages
 * @cpages: out: pages that the command moved, copied or looked at
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
 * READ: the device reads the range, through its own page table, and copies it to @ptr,
 * npages * PAGE_SIZE bytes. Pages that the table lacks are faulted in, as by a CPU access; pages on
 * this device are read there and stay there.
 * cpages: pages copied to @ptr. faults: rounds of faults.
 *   EFAULT  a part of the range is not mapped, not readable, mapped by a device, of
 *           memfd_secret(), or lost to a memory error
 *   EBUSY   pages of the range kept changing for a second, not counting the time of the faults
 *           themselves
 *
 * READ_UNLOCKED is the same without a time limit, for memory whose faults user space handles
 * (userfaultfd).
 */
#define DMIRROR_NR_READ			0x00
#define DMIRROR_READ \
	_IOWR(DMIRROR_IOC_MAGIC, DMIRROR_NR_READ, struct dmirror_cmd)
#define DMIRROR_NR_READ_UNLOCKED	0x09
#define DMIRROR_READ_UNLOCKED \
	_IOWR(DMIRROR_IOC_MAGIC, DMIRROR_NR_READ_UNLOCKED, struct dmirror_cmd)

/*
 * WRITE: the device writes npages * PAGE_SIZE bytes from @ptr to the range. A page that may be
 * shared with another process is copied first, in system memory, as for a CPU write.
 * cpages: pages written. faults: rounds of faults.
 *   EPERM   a part of the range is mapped, but not for writing
 *   EFAULT, EBUSY  as for READ
 *   EIO     the device cannot return the data of a page that must be copied
 */
#define DMIRROR_NR_WRITE		0x01
#define DMIRROR_WRITE \
	_IOWR(DMIRROR_IOC_MAGIC, DMIRROR_NR_WRITE, struct dmirror_cmd)

/*
 * MIGRATE_TO_DEV: move the pages of the range to the memory of the device, then copy the range, as
 * the device sees it, to @ptr, npages * PAGE_SIZE bytes. Holes and zero pages become zeroed device
 * pages; pages that are already on the device stay there. A huge page moves as a whole, unless the
 * device has no block for it.
 * cpages: pages of the range that are on the device and were copied to @ptr.
 *   EINVAL  a part of the range is not mapped, not readable, or of a kind that never migrates
 *           (hugetlb, device and DAX mappings)
 *   ENOENT  some page did not move: it belongs to a file, is pinned, swapped out, on another
 *           device, exclusive to a device, in memory that KSM may merge, or others kept it locked
 *           or referenced all the time; the other pages moved
 *   EBUSY   pages of the range kept changing for a second
 *   EIO     the device cannot take the data of a page, or cannot return that of a page that must be
 *           evicted
 *   EFAULT  a part of the range was unmapped by another thread meanwhile
 *   ENOMEM  the device has no room and nothing on it can be evicted, or there is no system memory
 *           for the pages to be evicted
 */
#define DMIRROR_NR_MIGRATE_TO_DEV	0x02
#define DMIRROR_MIGRATE_TO_DEV \
	_IOWR(DMIRROR_IOC_MAGIC, DMIRROR_NR_MIGRATE_TO_DEV, struct dmirror_cmd)

/*
 * MIGRATE_TO_SYS: move those pages of the range that are on this device back to system memory. @ptr
 * is not used. Pages that are elsewhere stay there.
 * cpages: pages that moved back: all of a huge page.
 *   EINVAL  a part of the range is not mapped, not readable, or of a kind that never migrates
 *   EBUSY   some page stayed on the device, because others kept it locked or referenced all the
 *           time; the other pages moved back. Or pages of the range kept changing for a second
 *   ENOMEM  no system memory for a page
 *   EIO     the device cannot return the data of a page
 */
#define DMIRROR_NR_MIGRATE_TO_SYS	0x03
#define DMIRROR_MIGRATE_TO_SYS \
	_IOWR(DMIRROR_IOC_MAGIC, DMIRROR_NR_MIGRATE_TO_SYS, struct dmirror_cmd)

/*
 * SNAPSHOT: write one byte for each page to @ptr, which tells how the process maps the page and
 * where it is, without changing either: values of enum dmirror_prot.
 * cpages: bytes written.
 *   EBUSY   pages of the range kept changing for a second
 */
#define DMIRROR_NR_SNAPSHOT		0x04
#define DMIRROR_SNAPSHOT \
	_IOWR(DMIRROR_IOC_MAGIC, DMIRROR_NR_SNAPSHOT, struct dmirror_cmd)

/*
 * EXCLUSIVE: give the device exclusive access to the pages of the range, which it needs for atomic
 * operations, and copy them, as the device sees them, to @ptr, npages * PAGE_SIZE bytes. The
 * device's own READ and WRITE work on such pages and keep them exclusive; a CPU that touches one
 * ends the exclusive access. Pages on a private device move back to system memory first.
 * cpages: pages that became exclusive and were copied.
 *   EFAULT  a part of the range is not mapped, not writable, or a hole that only userfaultfd could
 *           fill
 *   EOPNOTSUPP  a page belongs to a file or to hugetlb
 *   EBUSY   a page kept changing for a second
 */
#define DMIRROR_NR_EXCLUSIVE		0x05
#define DMIRROR_EXCLUSIVE \
	_IOWR(DMIRROR_IOC_MAGIC, DMIRROR_NR_EXCLUSIVE, struct dmirror_cmd)

/*
 * CHECK_EXCLUSIVE: fail if the device has exclusive access to any page of the range through this
 * open file. @ptr is not used.
 *   EPERM   the device has exclusive access to a page
 */
#define DMIRROR_NR_CHECK_EXCLUSIVE	0x06
#define DMIRROR_CHECK_EXCLUSIVE \
	_IOWR(DMIRROR_IOC_MAGIC, DMIRROR_NR_CHECK_EXCLUSIVE, struct dmirror_cmd)

/*
 * RELEASE: move every page on the device back to system memory, whoever owns it. The device stays
 * usable. @addr, @ptr and @npages are not used.
 * cpages: pages that moved back.
 *   EBUSY   some page stayed on the device, because others kept it locked or referenced all the
 *           time; the other pages moved back
 *   ENOMEM  no system memory for a page
 *   EIO     the device cannot return the data of a page
 */
#define DMIRROR_NR_RELEASE		0x07
#define DMIRROR_RELEASE \
	_IOWR(DMIRROR_IOC_MAGIC, DMIRROR_NR_RELEASE, struct dmirror_cmd)

/*
 * FLAGS: set the flags of the device to @npages, 0 to clear them. @addr and @ptr are not used.
 *   EINVAL  an undefined bit is set
 */
#define DMIRROR_NR_FLAGS		0x08
#define DMIRROR_FLAGS \
	_IOWR(DMIRROR_IOC_MAGIC, DMIRROR_NR_FLAGS, struct dmirror_cmd)

/*
 * The next allocation of pages fails, once: that of device pages in MIGRATE_TO_DEV, or of system
 * pages in MIGRATE_TO_SYS, in a CPU fault, in a WRITE to a device page that may be shared, or in an
 * eviction. The operation is retried: for a huge page with small pages, for a small page in another
 * pass, and a CPU faults again. So the failure affects how pages move, not whether they move.
 */
#define DMIRROR_FLAG_FAIL_ALLOC		0x01

/**
 * enum dmirror_prot - how SNAPSHOT describes a page
 * @DMIRROR_PROT_NONE: nothing is mapped there, or something that this device cannot use as it
 *	is: swapped out, being migrated, exclusive to a device, or on another private device
 * @DMIRROR_PROT_READ: mapped for reading; in system memory, unless a place is given
 * @DMIRROR_PROT_WRITE: mapped for reading and writing, likewise
 * @DMIRROR_PROT_PMD: flag: mapped by one PMD entry
 * @DMIRROR_PROT_PUD: flag: mapped by one 1 GiB entry
 * @DMIRROR_PROT_ZERO: flag: the zero page
 * @DMIRROR_PROT_DEV_PRIVATE_LOCAL: place: private memory of this device
 * @DMIRROR_PROT_DEV_PRIVATE_REMOTE: place: private memory of another device
 * @DMIRROR_PROT_DEV_COHERENT_LOCAL: place: coherent memory of this device
 * @DMIRROR_PROT_DEV_COHERENT_REMOTE: place: coherent memory of another device
 * @DMIRROR_PROT_ERROR: no mapping, or one that no device may use; also a huge page on another
 *	private device
 *
 * READ or WRITE, a place, and flags are combined with bitwise or.
 */
enum dmirror_prot {
	DMIRROR_PROT_NONE			= 0x00,
	DMIRROR_PROT_READ			= 0x01,
	DMIRROR_PROT_WRITE			= 0x02,
	DMIRROR_PROT_PMD			= 0x04,
	DMIRROR_PROT_PUD			= 0x08,
	DMIRROR_PROT_ZERO			= 0x10,
	DMIRROR_PROT_DEV_PRIVATE_LOCAL		= 0x20,
	DMIRROR_PROT_DEV_PRIVATE_REMOTE		= 0x30,
	DMIRROR_PROT_DEV_COHERENT_LOCAL		= 0x40,
	DMIRROR_PROT_DEV_COHERENT_REMOTE	= 0x50,
	DMIRROR_PROT_ERROR			= 0xff,
};

/*
 * mmap() of the device file returns new zeroed kernel pages, mapped at once (a mixed map). They are
 * ordinary memory, which the device can read and write, and which never migrates.
 */

#include "dmirror_queue.h"

#endif /* _UAPI_DMIRROR_H */
