/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The part of the ABI of /dev/hmm_dmirror* that lib/test_hmm does not have: engines that work on
 * their own, and advice for ranges. dmirror.h includes it.
 */
#ifndef _UAPI_DMIRROR_QUEUE_H
#define _UAPI_DMIRROR_QUEUE_H

#ifndef DMIRROR_IOC_MAGIC
#error "include dmirror.h"
#endif

/*
 * QUEUES. A device has engines, which work on their own: each is a kernel thread that fetches
 * packets from memory and executes them, through the page table of the device, in the address space
 * of the process that opened the device file. The engine faults in whatever that table lacks; so a
 * packet, and the memory that it refers to, may be anywhere, and may move while it is in use. No
 * engine runs until a queue has been created. test_hmm has none of these commands.
 * Each command takes a struct of its own, whose first members are
 *   size   in: the size of the struct, as the program knows it. A member that the program does not
 *          know is 0; one that the module does not know must be 0. This size counts, not the one in
 *          the number of the request
 *   flags  in: 0, or flags that the command defines
 * Errors that they share:
 *   EINVAL  size is below that of the first version; flags, or an unused member, is not 0; another
 *           value that the command does not allow
 *   E2BIG   a member that the module does not know is not 0, or size is above 4096
 *   EFAULT  the struct cannot be accessed
 *   ENOENT  the open file has no such queue
 *   ENOMEM
 * The number of a queue is valid for the open file that has created it.
 */

/**
 * struct dmirror_query - properties of the device: argument of QUERY
 * @size: see above
 * @flags: 0
 * @engines: out: number of engines, which are numbered from 0
 * @max_depth: out: the largest depth of a queue
 * @max_packets: out: the maximum number of packets per SUBMIT
 * @opcodes: out: bit n is set if opcode n is supported
 * @memory: out: memory of the device in bytes
 * @free_memory: out: how much of the memory is unused
 * @generation: out: how often the engines were reset, which fails their jobs
 */
struct dmirror_query {
	__u32 size;
	__u32 flags;
	__u32 engines;
	__u32 max_depth;
	__u32 max_packets;
	__u32 opcodes;
	__u64 memory;
	__u64 free_memory;
	__u64 generation;
};

#define DMIRROR_NR_QUERY		0x80
#define DMIRROR_QUERY \
	_IOWR(DMIRROR_IOC_MAGIC, DMIRROR_NR_QUERY, struct dmirror_query)

/**
 * struct dmirror_queue_create - argument of QUEUE_CREATE
 * @size: see above
 * @flags: 0
 * @engine: in: the engine that executes the queue; DMIRROR_ENGINE_ANY: the one with the fewest
 *	queues
 * @depth: in: number of jobs that the queue can hold, 1 to max_depth
 * @eventfd: in: descriptor of an eventfd, to which each job that ends adds 1; -1: none
 * @queue: in: 0; out: the number of the queue
 */
struct dmirror_queue_create {
	__u32 size;
	__u32 flags;
	__u32 engine;
	__u32 depth;
	__s32 eventfd;
	__u32 queue;
};

#define DMIRROR_ENGINE_ANY	0xffffffffU

/*
 * QUEUE_CREATE: create a queue of jobs. An engine serves its queues in turn, one job at a time; the
 * jobs of a queue run one after the other, in the order of SUBMIT.
 *   EINVAL  no such engine, or no such depth; eventfd is not an eventfd
 *   EBADF   eventfd is not an open descriptor
 *   EMFILE  the open file already has 64 queues
 */
#define DMIRROR_NR_QUEUE_CREATE		0x81
#define DMIRROR_QUEUE_CREATE \
	_IOWR(DMIRROR_IOC_MAGIC, DMIRROR_NR_QUEUE_CREATE, struct dmirror_queue_create)

/**
 * struct dmirror_queue_destroy - argument of QUEUE_DESTROY
 * @size: see above
 * @flags: 0
 * @queue: in: the number of the queue
 * @pad: 0
 */
struct dmirror_queue_destroy {
	__u32 size;
	__u32 flags;
	__u32 queue;
	__u32 pad;
};

/*
 * QUEUE_DESTROY: end a queue. Waiting jobs do not begin, the running one is cancelled, and when
 * this returns, the engine accesses no memory for the queue any more. A pending WAIT fails with
 * ENODEV, a later one with ENOENT. Closing the file ends its queues as well, without waiting for
 * the engine.
 *   EINTR   a fatal signal arrived; the queue ends nevertheless
 */
#define DMIRROR_NR_QUEUE_DESTROY	0x82
#define DMIRROR_QUEUE_DESTROY \
	_IOWR(DMIRROR_IOC_MAGIC, DMIRROR_NR_QUEUE_DESTROY, struct dmirror_queue_destroy)

/**
 * struct dmirror_submit - argument of SUBMIT
 * @size: see above
 * @flags: 0
 * @queue: in: the number of the queue
 * @npackets: in: number of packets that the job executes, 1 to max_packets
 * @packets: in: address of the first packet, a multiple of 64
 * @seqno: out: the number of the job: 1, 2, 3 … in each queue
 */
struct dmirror_submit {
	__u32 size;
	__u32 flags;
	__u32 queue;
	__u32 npackets;
	__u64 packets;
	__u64 seqno;
};

/*
 * SUBMIT: make an engine execute packets. The engine fetches each packet when its turn comes;
 * nothing checks the packets before.
 *   EINVAL  npackets is out of range; the address is not a multiple of 64
 *   EAGAIN  the queue is full: as many jobs as its depth have not ended
 */
#define DMIRROR_NR_SUBMIT		0x83
#define DMIRROR_SUBMIT \
	_IOWR(DMIRROR_IOC_MAGIC, DMIRROR_NR_SUBMIT, struct dmirror_submit)

/**
 * enum dmirror_access - what a failed packet tried to do
 * @DMIRROR_ACCESS_NONE: the failure is not a memory access
 * @DMIRROR_ACCESS_FETCH: to fetch a packet
 * @DMIRROR_ACCESS_READ: to read
 * @DMIRROR_ACCESS_WRITE: to write
 * @DMIRROR_ACCESS_ATOMIC: to perform an atomic operation
 */
enum dmirror_access {
	DMIRROR_ACCESS_NONE	= 0,
	DMIRROR_ACCESS_FETCH	= 1,
	DMIRROR_ACCESS_READ	= 2,
	DMIRROR_ACCESS_WRITE	= 3,
	DMIRROR_ACCESS_ATOMIC	= 4,
};

/**
 * struct dmirror_wait - argument of WAIT
 * @size: see above
 * @flags: 0
 * @queue: in: the number of the queue
 * @error: out: 0, or the errno that the job ended with
 * @seqno: in: the number of the job
 * @timeout_ns: in: maximum time to wait, in nanoseconds; 0: do not wait; negative: no limit
 * @executed: out: number of packets that were executed completely
 * @fault_addr: out: 0 if @error is 0; the address of the packet if @access is none; otherwise
 *	the first address, in execution order, that the packet could not access
 * @access: out: one of enum dmirror_access
 * @pad: 0
 */
struct dmirror_wait {
	__u32 size;
	__u32 flags;
	__u32 queue;
	__u32 error;
	__u64 seqno;
	__s64 timeout_ns;
	__u64 executed;
	__u64 fault_addr;
	__u32 access;
	__u32 pad;
};

/*
 * WAIT: wait until a job has ended, and return its outcome. The output members are set if WAIT
 * succeeds, which it also does for a job that failed. A job fails with
 *   EFAULT  an address is not mapped, or as for READ, even if the packet writes: so PROT_NONE
 *           causes EFAULT. Or the address space of the opener is gone (DMIRROR_ACCESS_FETCH)
 *   EPERM   an address is readable, but the packet may not write to it
 *   EACCES  engines must not access an address, because of DMIRROR_ADVICE_ACCESS_NONE
 *   EINVAL  the packet is malformed, see struct dmirror_packet
 *   EBUSY   a page kept changing for ten seconds
 *   EIO, ENOMEM  as for READ and WRITE
 *   EIO     the engines were reset; then @access is none
 * In that case, everything before the failed address was done, and nothing behind it.
 *
 * Errors of WAIT:
 *   EINVAL  seqno is 0, or that of a job that was not submitted
 *   ENOENT  the job has ended, and as many jobs as the depth were submitted after it: its outcome
 *           is no longer stored
 *   ETIME   the timeout has expired
 *   ENODEV  the queue was destroyed
 *   EINTR   a signal arrived
 */
#define DMIRROR_NR_WAIT			0x84
#define DMIRROR_WAIT \
	_IOWR(DMIRROR_IOC_MAGIC, DMIRROR_NR_WAIT, struct dmirror_wait)

/**
 * struct dmirror_reset - argument of RESET
 * @size: see above
 * @flags: 0
 * @pad: 0
 * @pad2: 0
 */
struct dmirror_reset {
	__u32 size;
	__u32 flags;
	__u32 pad;
	__u32 pad2;
};

/*
 * RESET: reset the engines of the device. All jobs that were submitted before, in all queues,
 * whoever owns them, fail with EIO wherever they are; the queues stay. Memory and mappings stay as
 * well.
 */
#define DMIRROR_NR_RESET		0x85
#define DMIRROR_RESET \
	_IOWR(DMIRROR_IOC_MAGIC, DMIRROR_NR_RESET, struct dmirror_reset)

/*
 * ADVICE. A program may advise, for ranges of its addresses, where memory should be, and how the
 * device accesses it. The open file keeps the advice as long as the memory is mapped; memory that
 * is unmapped, or moved by mremap(), loses its advice, and memory that is mapped there later has
 * none. Advice changes no content, and has no effect on the commands of test_hmm: it is for
 * engines.
 */

/* The attributes that ADVISE_SET sets: bits of @mask. */
#define DMIRROR_ADVISE_LOCATION		0x01
#define DMIRROR_ADVISE_ACCESS		0x02
#define DMIRROR_ADVISE_ATOMICS		0x04
#define DMIRROR_ADVISE_GRANULE		0x08

/**
 * enum dmirror_location - where memory should be
 * @DMIRROR_LOCATION_DEFAULT: according to the policy of the device
 * @DMIRROR_LOCATION_SYSTEM: in system memory
 * @DMIRROR_LOCATION_DEVICE: on this device
 * @DMIRROR_LOCATION_PEER: on another device. A device that this one cannot access counts as
 *	system memory
 */
enum dmirror_location {
	DMIRROR_LOCATION_DEFAULT	= 0,
	DMIRROR_LOCATION_SYSTEM		= 1,
	DMIRROR_LOCATION_DEVICE		= 2,
	DMIRROR_LOCATION_PEER		= 3,
};

/**
 * enum dmirror_advice_access - how the device accesses memory that it does not map
 * @DMIRROR_ADVICE_ACCESS_DEFAULT: according to the policy of the device
 * @DMIRROR_ADVICE_ACCESS_MIGRATE: it first moves the memory to its preferred location
 * @DMIRROR_ADVICE_ACCESS_IN_PLACE: it maps the memory where it is
 * @DMIRROR_ADVICE_ACCESS_NONE: not at all: a job that accesses it fails with EACCES, and
 *	PREFETCH skips it
 */
enum dmirror_advice_access {
	DMIRROR_ADVICE_ACCESS_DEFAULT	= 0,
	DMIRROR_ADVICE_ACCESS_MIGRATE	= 1,
	DMIRROR_ADVICE_ACCESS_IN_PLACE	= 2,
	DMIRROR_ADVICE_ACCESS_NONE	= 3,
};

/**
 * enum dmirror_advice_atomics - where the device performs atomic operations
 * @DMIRROR_ADVICE_ATOMICS_DEFAULT: according to the policy of the device
 * @DMIRROR_ADVICE_ATOMICS_DEVICE: in its own memory
 * @DMIRROR_ADVICE_ATOMICS_SYSTEM: in system memory, with exclusive access
 * @DMIRROR_ADVICE_ATOMICS_NONE: nowhere
 */
enum dmirror_advice_atomics {
	DMIRROR_ADVICE_ATOMICS_DEFAULT	= 0,
	DMIRROR_ADVICE_ATOMICS_DEVICE	= 1,
	DMIRROR_ADVICE_ATOMICS_SYSTEM	= 2,
	DMIRROR_ADVICE_ATOMICS_NONE	= 3,
};

/* The maximum number of ranges with advice per open file. */
#define DMIRROR_MAX_ADVICE		1024

/**
 * struct dmirror_advise_set - argument of ADVISE_SET
 * @size: see above
 * @flags: 0
 * @addr: in: first address of the range, page aligned
 * @len: in: its length in bytes, a multiple of PAGE_SIZE, not 0
 * @mask: in: attributes to set, DMIRROR_ADVISE_*; the others stay. Members of those are 0
 * @location: in: one of enum dmirror_location
 * @location_fd: in: for DMIRROR_LOCATION_PEER, a descriptor of an open file of that device,
 *	which need not stay open; a descriptor of this device means DMIRROR_LOCATION_DEVICE.
 *	Otherwise 0
 * @access: in: one of enum dmirror_advice_access
 * @atomics: in: one of enum dmirror_advice_atomics
 * @granule: in: how much moves at once, in bytes, a power of two from a page to a huge page; 0:
 *	according to the policy of the device
 */
struct dmirror_advise_set {
	__u32 size;
	__u32 flags;
	__u64 addr;
	__u64 len;
	__u32 mask;
	__u32 location;
	__s32 location_fd;
	__u32 access;
	__u32 atomics;
	__u32 granule;
};

/*
 * ADVISE_SET: set attributes of a range. The device drops its mappings there, so that its next
 * access follows the new attributes. When this returns, no engine accesses memory any more that it
 * must not access. The default values remove advice. If the command fails, nothing has changed.
 *   EINVAL  the range is empty, not page aligned, or wraps around; mask is 0 or has unknown bits; a
 *           value that is not listed; location_fd belongs to another driver
 *   EBADF   location_fd is not an open descriptor
 *   EFAULT  a part of the range is not mapped; the address space of the opener is gone
 *   ENOSPC  there would be advice for more than DMIRROR_MAX_ADVICE ranges. Adjacent ranges with the
 *           same attributes count as one
 *   EINTR   a fatal signal arrived
 */
#define DMIRROR_NR_ADVISE_SET		0x86
#define DMIRROR_ADVISE_SET \
	_IOWR(DMIRROR_IOC_MAGIC, DMIRROR_NR_ADVISE_SET, struct dmirror_advise_set)

/**
 * struct dmirror_advise_get - argument of ADVISE_GET
 * @size: see above
 * @flags: 0
 * @addr: in: an address, page aligned
 * @limit: in: end of the addresses to consider, exclusive, page aligned, above @addr
 * @end: out: end of the range with the same attributes, exclusive, at most @limit
 * @location: out: one of enum dmirror_location
 * @device: out: N of the device /dev/hmm_dmirrorN that @location refers to; 0 if it refers to none
 * @access: out: one of enum dmirror_advice_access
 * @atomics: out: one of enum dmirror_advice_atomics
 * @granule: out: in bytes, or 0
 * @pad: 0
 */
struct dmirror_advise_get {
	__u32 size;
	__u32 flags;
	__u64 addr;
	__u64 limit;
	__u64 end;
	__u32 location;
	__u32 device;
	__u32 access;
	__u32 atomics;
	__u32 granule;
	__u32 pad;
};

/*
 * ADVISE_GET: return the advice for an address. Where nothing is mapped, there is none.
 *   EINVAL  addr or limit is not page aligned, or limit is not above addr
 *   EFAULT  the address space of the opener is gone
 */
#define DMIRROR_NR_ADVISE_GET		0x87
#define DMIRROR_ADVISE_GET \
	_IOWR(DMIRROR_IOC_MAGIC, DMIRROR_NR_ADVISE_GET, struct dmirror_advise_get)

/**
 * struct dmirror_packet - one operation of an engine
 * @opcode: one of enum dmirror_opcode
 * @flags: flags that the opcode defines, otherwise 0
 * @dst: address to write to
 * @src: address to read from
 * @len: length or number, depending on the opcode
 * @value: a value, depending on the opcode
 * @value2: a value, depending on the opcode
 * @reserved: 0
 *
 * The address of a packet is a multiple of 64. Numbers are little endian. A member that an opcode
 * does not mention is 0. A packet with an opcode, flag or value that is not listed fails with
 * EINVAL before it does anything; so does one with a range (an address and a number of bytes) that
 * wraps around: their sum must be below 2^64. Ranges are processed in ascending order.
 *
 * Documentation/device.md has a table of what each packet does.
 */
struct dmirror_packet {
	__u32 opcode;
	__u32 flags;
	__u64 dst;
	__u64 src;
	__u64 len;
	__u64 value;
	__u64 value2;
	__u64 reserved[2];
};

/**
 * enum dmirror_opcode - what a packet does
 *
 * @DMIRROR_OP_FILL: writes len bytes at dst. Byte i is byte i % 8 of value.
 *
 * @DMIRROR_OP_COPY: copies len bytes from src to dst, in ascending order: of the part that lies
 *	in one page on both sides, it reads all and then writes all. The ranges must not overlap
 *	(EINVAL).
 *
 * @DMIRROR_OP_SUM: reads len bytes at src as words of 8 bytes, the last one padded with zeros,
 *	and writes their sum modulo 2^64 to dst, a multiple of 8.
 *
 * @DMIRROR_OP_CHASE: follows pointers. p starts as src. At most len times, and as long as p is
 *	not 0, p becomes the word of 8 bytes at p + value, modulo 2^64, which must be a multiple
 *	of 8 (EFAULT). Then p is written to dst, a multiple of 8, and the number of steps to
 *	dst + 8.
 *
 * @DMIRROR_OP_RANDOM: performs len accesses to words of 8 bytes in the value2 bytes at src,
 *	both multiples of 8, value2 not 0. s starts as value, a as 0. For each access, s becomes
 *	s * 6364136223846793005 + 1442695040888963407, modulo 2^64; w is the word with index
 *	(s >> 33) % (value2 / 8). If flags has DMIRROR_RANDOM_WRITE and bit 32 of s is set, w
 *	becomes w xor s; if this access fails, it counts as a write. Otherwise a becomes a rotated
 *	left by 1, xor w. Finally, a is written to dst, a multiple of 8.
 *
 * @DMIRROR_OP_ATOMIC: performs len atomic operations on the word at src, aligned to its size: 4
 *	bytes, or 8 if flags has DMIRROR_ATOMIC_64. Each adds value or, if flags has
 *	DMIRROR_ATOMIC_CAS, writes value if the word equals value2. The word that the last
 *	operation found is written to dst, a multiple of 8, as a word of 8 bytes, unless dst is
 *	0. Only the lowest bytes of value and value2 count; without DMIRROR_ATOMIC_CAS, value2
 *	does not count. The word must be writable, even if no operation changes it (EPERM). len
 *	is not 0.
 *
 * @DMIRROR_OP_PREFETCH: moves the pages of the len bytes at src to the device or, if flags has
 *	DMIRROR_PREFETCH_SYSTEM, to system memory. Pages that cannot move stay, and unmapped
 *	pages are skipped; neither is an error. Changes no content. src and len are multiples of
 *	the size of a page, len is not 0.
 *
 * @DMIRROR_OP_SPIN: does nothing for len nanoseconds, at most 10 seconds.
 *
 * @DMIRROR_OP_FENCE: writes value to the word of 8 bytes at dst, a multiple of 8, after all
 *	writes of the packets before it.
 *
 * @DMIRROR_OP_JUMP: the next packet is the one at src, a multiple of 64.
 */
enum dmirror_opcode {
	DMIRROR_OP_FILL		= 1,
	DMIRROR_OP_COPY		= 2,
	DMIRROR_OP_SUM		= 3,
	DMIRROR_OP_CHASE	= 4,
	DMIRROR_OP_RANDOM	= 5,
	DMIRROR_OP_ATOMIC	= 6,
	DMIRROR_OP_PREFETCH	= 7,
	DMIRROR_OP_SPIN		= 8,
	DMIRROR_OP_FENCE	= 9,
	DMIRROR_OP_JUMP		= 10,
};

#define DMIRROR_RANDOM_WRITE	0x01
#define DMIRROR_ATOMIC_64	0x01
#define DMIRROR_ATOMIC_CAS	0x02
#define DMIRROR_PREFETCH_SYSTEM	0x01

#endif /* _UAPI_DMIRROR_QUEUE_H */
