/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The part of the ABI of /dev/hmm_dmirror* that lib/test_hmm does not have: engines
 * that work by themselves, and advice for ranges. dmirror.h includes it.
 */
#ifndef _UAPI_DMIRROR_QUEUE_H
#define _UAPI_DMIRROR_QUEUE_H

#ifndef DMIRROR_IOC_MAGIC
#error "include dmirror.h"
#endif

/*
 * QUEUES. A device has engines, which work by themselves: each of them is a thread
 * of the kernel that fetches packets from memory and does what they say, through
 * the page table of the device, in the address space of the process that opened the
 * device file. What that table lacks the engine faults in; so a packet, and what it
 * names, may be anywhere, and may move while it is used. No engine runs until a
 * queue was made. test_hmm has none of these commands.
 *
 * Each command takes a struct of its own, whose first members are
 *   size   in: the size of the struct, as the program knows it. A member that the
 *          program does not know is 0; one that the module does not know must be 0.
 *          This size counts, not the one in the number of the request
 *   flags  in: 0, or what the command says
 * Errors that they share:
 *   EINVAL  size is below that of the first version; flags, or a member that is not
 *           used, is not 0; another value that the command does not allow
 *   E2BIG   a member that the module does not know is not 0, or size is above 4096
 *   EFAULT  the struct cannot be accessed
 *   ENOENT  the open file has no such queue
 *   ENOMEM
 * The number of a queue is good for the open file that has made it.
 */

/**
 * struct dmirror_query - what the device has: argument of QUERY
 * @size: see above
 * @flags: 0
 * @engines: out: engines, numbered from 0
 * @max_depth: out: the largest depth of a queue
 * @max_packets: out: the most packets of one SUBMIT
 * @opcodes: out: bit n is set if opcode n is known
 * @memory: out: memory of the device in bytes
 * @free_memory: out: how much of it nobody uses
 * @generation: out: how often the engines were reset, which fails what they have
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
 * @engine: in: the engine that works on the queue; DMIRROR_ENGINE_ANY: the one with the
 *	fewest queues
 * @depth: in: jobs that the queue can hold, 1 to max_depth
 * @eventfd: in: descriptor of an eventfd, which gets 1 added for each job that ends; -1: none
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
 * QUEUE_CREATE: make a queue of jobs. An engine takes its queues by turns, a job at a
 * time; the jobs of one queue run one after the other, in the order of SUBMIT.
 *   EINVAL  no such engine, or no such depth; eventfd is no eventfd
 *   EBADF   eventfd is no open file
 *   EMFILE  the open file has 64 queues
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
 * QUEUE_DESTROY: end a queue. Jobs that wait do not begin, the one that runs is cancelled, and
 * when this returns the engine touches no memory for the queue any more. Who waits for a job gets
 * ENODEV, who comes later ENOENT. Closing the file ends its queues as well, without waiting for the
 * engine.
 *   EINTR   a signal arrived; the queue ends all the same
 */
#define DMIRROR_NR_QUEUE_DESTROY	0x82
#define DMIRROR_QUEUE_DESTROY \
	_IOWR(DMIRROR_IOC_MAGIC, DMIRROR_NR_QUEUE_DESTROY, struct dmirror_queue_destroy)

/**
 * struct dmirror_submit - argument of SUBMIT
 * @size: see above
 * @flags: 0
 * @queue: in: the number of the queue
 * @npackets: in: how many packets the job executes, 1 to max_packets
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
 * SUBMIT: have an engine execute packets. It fetches each when its turn comes; the packets are not
 * looked at before.
 *   EINVAL  no such number of packets; the address is no multiple of 64
 *   EAGAIN  the queue is full: as many jobs as its depth have not ended
 */
#define DMIRROR_NR_SUBMIT		0x83
#define DMIRROR_SUBMIT \
	_IOWR(DMIRROR_IOC_MAGIC, DMIRROR_NR_SUBMIT, struct dmirror_submit)

/**
 * enum dmirror_access - what a packet wanted to do where it failed
 * @DMIRROR_ACCESS_NONE: no memory is the reason
 * @DMIRROR_ACCESS_FETCH: to fetch a packet
 * @DMIRROR_ACCESS_READ: to read
 * @DMIRROR_ACCESS_WRITE: to write
 * @DMIRROR_ACCESS_ATOMIC: an atomic operation
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
 * @timeout_ns: in: how long to wait at most, in nanoseconds; 0: not at all; below 0: for ever
 * @executed: out: packets that were executed whole
 * @fault_addr: out: 0 where @error is 0; the address of the packet where @access says none; else the
 *	first address, in the order of its work, that the packet could not access
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
 * WAIT: wait until a job has ended, and say what became of it. The members that go out are set if
 * WAIT succeeds, which it does for a job that failed as well. A job fails with
 *   EFAULT  an address is not mapped, or as for READ, also where the packet writes: so PROT_NONE is
 *           EFAULT. And the address space of the opener is gone (DMIRROR_ACCESS_FETCH)
 *   EPERM   an address may be read, but not written as the packet does
 *   EACCES  engines must not access an address, by DMIRROR_ADVICE_ACCESS_NONE
 *   EINVAL  the packet is malformed, see struct dmirror_packet
 *   EBUSY   a page did not hold still for ten seconds
 *   EIO, ENOMEM  as for READ and WRITE
 *   EIO     the engines were reset; then @access says none
 * and then what lies before the address that failed was done, and nothing behind it.
 *
 * Errors of WAIT:
 *   EINVAL  seqno is 0, or of a job that was not submitted
 *   ENOENT  the job has ended, and as many as the depth were submitted after it: what became of it is
 *           forgotten
 *   ETIME   the time is over
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
 * RESET: reset the engines of the device. All jobs of all queues, whoever has made them, that were
 * submitted before fail with EIO, where they are; the queues stay. Memory, and what is mapped, stay
 * as well.
 */
#define DMIRROR_NR_RESET		0x85
#define DMIRROR_RESET \
	_IOWR(DMIRROR_IOC_MAGIC, DMIRROR_NR_RESET, struct dmirror_reset)

/*
 * ADVICE. A program may say for ranges of its addresses where memory should be, and how the device
 * gets at it. The open file keeps that as long as the memory is mapped; what is unmapped, or moved
 * away by mremap(), has none any more, and what is mapped there later has none yet. It changes no
 * content, and nothing of what the commands of test_hmm do: it is for engines.
 */

/* What ADVISE_SET sets: bits of @mask. */
#define DMIRROR_ADVISE_LOCATION		0x01
#define DMIRROR_ADVISE_ACCESS		0x02
#define DMIRROR_ADVISE_ATOMICS		0x04
#define DMIRROR_ADVISE_GRANULE		0x08

/**
 * enum dmirror_location - where memory should be
 * @DMIRROR_LOCATION_DEFAULT: as the policy of the device says
 * @DMIRROR_LOCATION_SYSTEM: in the memory of the system
 * @DMIRROR_LOCATION_DEVICE: on this device
 * @DMIRROR_LOCATION_PEER: on another device. A device that this one cannot reach counts as
 *	the system
 */
enum dmirror_location {
	DMIRROR_LOCATION_DEFAULT	= 0,
	DMIRROR_LOCATION_SYSTEM		= 1,
	DMIRROR_LOCATION_DEVICE		= 2,
	DMIRROR_LOCATION_PEER		= 3,
};

/**
 * enum dmirror_advice_access - what the device does to access memory that it has not mapped
 * @DMIRROR_ADVICE_ACCESS_DEFAULT: as the policy of the device says
 * @DMIRROR_ADVICE_ACCESS_MIGRATE: it moves it to where it should be first
 * @DMIRROR_ADVICE_ACCESS_IN_PLACE: it maps it where it is
 * @DMIRROR_ADVICE_ACCESS_NONE: nothing: a job that accesses it fails with EACCES, and PREFETCH
 *	passes it over
 */
enum dmirror_advice_access {
	DMIRROR_ADVICE_ACCESS_DEFAULT	= 0,
	DMIRROR_ADVICE_ACCESS_MIGRATE	= 1,
	DMIRROR_ADVICE_ACCESS_IN_PLACE	= 2,
	DMIRROR_ADVICE_ACCESS_NONE	= 3,
};

/**
 * enum dmirror_advice_atomics - where the device makes atomic operations
 * @DMIRROR_ADVICE_ATOMICS_DEFAULT: as the policy of the device says
 * @DMIRROR_ADVICE_ATOMICS_DEVICE: in its own memory
 * @DMIRROR_ADVICE_ATOMICS_SYSTEM: in that of the system, with exclusive access
 * @DMIRROR_ADVICE_ATOMICS_NONE: nowhere
 */
enum dmirror_advice_atomics {
	DMIRROR_ADVICE_ATOMICS_DEFAULT	= 0,
	DMIRROR_ADVICE_ATOMICS_DEVICE	= 1,
	DMIRROR_ADVICE_ATOMICS_SYSTEM	= 2,
	DMIRROR_ADVICE_ATOMICS_NONE	= 3,
};

/* The most ranges of an open file that advice can be set for. */
#define DMIRROR_MAX_ADVICE		1024

/**
 * struct dmirror_advise_set - argument of ADVISE_SET
 * @size: see above
 * @flags: 0
 * @addr: in: first address of the range, page aligned
 * @len: in: its length in bytes, a multiple of PAGE_SIZE, not 0
 * @mask: in: which attributes are set, DMIRROR_ADVISE_*; the others stay. Members for those are 0
 * @location: in: one of enum dmirror_location
 * @location_fd: in: for DMIRROR_LOCATION_PEER a descriptor of an open file of that device, which
 *	need not stay open; of this device, it is DMIRROR_LOCATION_DEVICE. Else 0
 * @access: in: one of enum dmirror_advice_access
 * @atomics: in: one of enum dmirror_advice_atomics
 * @granule: in: how much moves at once, in bytes, a power of two from 4096 to 2097152; 0: as the
 *	policy of the device says
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
 * ADVISE_SET: set attributes of a range. The device forgets what it has mapped there, so that its
 * next access is according to that; an engine accesses nothing any more that it must not when this
 * returns. The defaults take back what was set. Where it fails nothing has changed.
 *   EINVAL  the range is empty, not page aligned, or wraps around; mask is 0 or has unknown bits; a
 *           value that is not listed; location_fd is an open file of others
 *   EBADF   location_fd is no open file
 *   EFAULT  a part of the range is not mapped; the address space of the opener is gone
 *   ENOSPC  there would be advice for more than DMIRROR_MAX_ADVICE ranges. Neighbours with the same
 *           attributes are one
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
 * @limit: in: up to where to look, exclusive, page aligned, above @addr
 * @end: out: up to where the attributes are the same, exclusive, at most @limit
 * @location: out: one of enum dmirror_location
 * @device: out: N of the device /dev/hmm_dmirrorN that @location names; 0 where it names none
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
 * ADVISE_GET: say what was advised for an address. Where nothing is mapped that is nothing.
 *   EINVAL  addr or limit is not page aligned, or limit not above addr
 *   EFAULT  the address space of the opener is gone
 */
#define DMIRROR_NR_ADVISE_GET		0x87
#define DMIRROR_ADVISE_GET \
	_IOWR(DMIRROR_IOC_MAGIC, DMIRROR_NR_ADVISE_GET, struct dmirror_advise_get)

/**
 * struct dmirror_packet - what an engine does
 * @opcode: one of enum dmirror_opcode
 * @flags: what the opcode says, else 0
 * @dst: address that is written to
 * @src: address that is read from
 * @len: length or number, as the opcode says
 * @value: a value, as the opcode says
 * @value2: a value, as the opcode says
 * @reserved: 0
 *
 * A packet lies at a multiple of 64. Numbers are little endian. A member that an opcode does not
 * name is 0. A packet with another opcode, flag or value than those listed fails with EINVAL before
 * it does anything; so does one whose range (an address, and so many bytes from it on) wraps around:
 * the sum of both is below 2^64. Ranges are worked on in ascending order.
 *
 * Documentation/device.md says in a table what each of them does.
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
 * @DMIRROR_OP_FILL: writes len bytes from dst on. Byte i is byte i % 8 of value.
 *
 * @DMIRROR_OP_COPY: copies len bytes from src to dst, in ascending order: of what lies in one page
 *	on either side it reads all and then writes all. The ranges do not overlap (EINVAL).
 *
 * @DMIRROR_OP_SUM: reads len bytes from src on, as words of 8 bytes, the last filled up with 0,
 *	and writes their sum modulo 2^64 to dst, a multiple of 8.
 *
 * @DMIRROR_OP_CHASE: follows pointers. p is src. As often as len says, and as long as p is not 0: p
 *	becomes the word of 8 bytes at p + value, modulo 2^64, which must be a multiple of 8 (EFAULT).
 *	Then p is written to dst, a multiple of 8, and then the number of times to dst + 8.
 *
 * @DMIRROR_OP_RANDOM: makes len accesses to words of 8 bytes in value2 bytes from src on, both
 *	multiples of 8, value2 not 0. s is value, a is 0. Each time
 *	s becomes s * 6364136223846793005 + 1442695040888963407, modulo 2^64; w is word
 *	(s >> 33) % (value2 / 8). Where flags has DMIRROR_RANDOM_WRITE and bit 32 of s is set,
 *	the word becomes itself xor s, and all of that is a write where it fails. Else a becomes a
 *	rotated left by 1, xor the word. Last, a is written to dst, a multiple of 8.
 *
 * @DMIRROR_OP_ATOMIC: makes len atomic operations on the word at src, aligned to its size: of 4
 *	bytes, or 8 where flags has DMIRROR_ATOMIC_64. It adds value, or where flags has
 *	DMIRROR_ATOMIC_CAS writes value if the word is value2. The word that the last of them found,
 *	as one of 8 bytes, is written to dst, a multiple of 8, unless dst is 0. Of value and
 *	value2 the lowest bytes count; without DMIRROR_ATOMIC_CAS value2 does not count. The word
 *	must be one that may be written, whatever becomes of it (EPERM). len is not 0.
 *
 * @DMIRROR_OP_PREFETCH: moves the pages of len bytes from src on to the device, or where flags
 *	has DMIRROR_PREFETCH_SYSTEM to system memory. What cannot be moved stays, and what is not
 *	mapped is passed over; neither is an error. Changes no content. src and len are multiples of
 *	the size of a page, len not 0.
 *
 * @DMIRROR_OP_SPIN: does nothing for len nanoseconds, at most 10 seconds.
 *
 * @DMIRROR_OP_FENCE: writes value to the word of 8 bytes at dst, a multiple of 8, after all that
 *	the packets before it have written.
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
