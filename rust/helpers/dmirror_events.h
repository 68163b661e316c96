/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The trace events of a driver on `emu`, and the meaning of the numbers in them. The Rust side,
 * rust/emu/trace.rs, gets its values from here, through bindgen.
 *
 * The events of engines are in dmirror_engine_events.h.
 *
 * A module defines the events with an object that includes trace.c. They are in the trace system
 * that the module names in DMIRROR_TRACE_SYSTEM, so two modules that are loaded at the same time do
 * not conflict.
 */
#ifndef DMIRROR_TRACE_SYSTEM
#define DMIRROR_TRACE_SYSTEM dmirror
#endif
#undef TRACE_SYSTEM
#define TRACE_SYSTEM DMIRROR_TRACE_SYSTEM
#undef TRACE_SYSTEM_VAR
#define TRACE_SYSTEM_VAR DMIRROR_TRACE_SYSTEM

#if !defined(_DMIRROR_EVENTS_VALUES_H)
#define _DMIRROR_EVENTS_VALUES_H

/* Why pages move. */
#define DMIRROR_CAUSES						\
	EM( DMIRROR_CAUSE_REQUEST,	"request")		\
	EM( DMIRROR_CAUSE_DEVICE_FAULT,	"device_fault")		\
	EM( DMIRROR_CAUSE_CPU_FAULT,	"cpu_fault")		\
	EM( DMIRROR_CAUSE_EVICTION,	"eviction")		\
	EM( DMIRROR_CAUSE_RELEASE,	"release")		\
	EMe(DMIRROR_CAUSE_UNLOAD,	"unload")

/* Where pages are. */
#define DMIRROR_PLACES						\
	EM( DMIRROR_PLACE_SYSTEM,	"system")		\
	EMe(DMIRROR_PLACE_DEVICE,	"device")

/* How a device accesses pages. */
#define DMIRROR_ACCESSES					\
	EM( DMIRROR_ACCESS_READ,	"read")			\
	EM( DMIRROR_ACCESS_WRITE,	"write")		\
	EMe(DMIRROR_ACCESS_EXCLUSIVE,	"exclusive")

/* A driver's answer to a CPU that touched a page of the device. */
#define DMIRROR_ANSWERS						\
	EM( DMIRROR_ANSWER_RETRY,	"retry")		\
	EM( DMIRROR_ANSWER_OUT_OF_MEMORY, "out_of_memory")	\
	EMe(DMIRROR_ANSWER_BUS_ERROR,	"bus_error")

/* Why an engine posts a page to the fault buffer. */
#define DMIRROR_REASONS						\
	EM( DMIRROR_REASON_READ,	"read")			\
	EM( DMIRROR_REASON_WRITE,	"write")		\
	EM( DMIRROR_REASON_ATOMIC,	"atomic")		\
	EMe(DMIRROR_REASON_HOT,		"hot")

/* How the page is handled. */
#define DMIRROR_DECISIONS					\
	EM( DMIRROR_DECISION_MAP,	"map")			\
	EM( DMIRROR_DECISION_MOVE,	"move")			\
	EM( DMIRROR_DECISION_NAP,	"nap")			\
	EM( DMIRROR_DECISION_PIN,	"pin")			\
	EMe(DMIRROR_DECISION_PRESENT,	"present")

#define EM(value, name)		value,
#define EMe(value, name)	value
enum dmirror_trace_cause { DMIRROR_CAUSES };
enum dmirror_trace_place { DMIRROR_PLACES };
enum dmirror_trace_access { DMIRROR_ACCESSES };
enum dmirror_trace_answer { DMIRROR_ANSWERS };
enum dmirror_trace_reason { DMIRROR_REASONS };
enum dmirror_trace_decision { DMIRROR_DECISIONS };
#undef EM
#undef EMe

#endif

#if !defined(_DMIRROR_EVENTS_H) || defined(TRACE_HEADER_MULTI_READ)
#define _DMIRROR_EVENTS_H

#include <linux/mmu_notifier.h>
#include <linux/sched.h>
#include <linux/tracepoint.h>

/* enum mmu_notifier_event. */
#define DMIRROR_CHANGES						\
	EM( MMU_NOTIFY_UNMAP,		"unmap")		\
	EM( MMU_NOTIFY_CLEAR,		"clear")		\
	EM( MMU_NOTIFY_PROTECTION_VMA,	"protection_vma")	\
	EM( MMU_NOTIFY_PROTECTION_PAGE,	"protection_page")	\
	EM( MMU_NOTIFY_SOFT_DIRTY,	"soft_dirty")		\
	EM( MMU_NOTIFY_RELEASE,		"release")		\
	EM( MMU_NOTIFY_MIGRATE,		"migrate")		\
	EMe(MMU_NOTIFY_EXCLUSIVE,	"exclusive")

/* For tools that read the format of an event but do not know the enums. */
#undef EM
#undef EMe
#define EM(value, name)		TRACE_DEFINE_ENUM(value);
#define EMe(value, name)	TRACE_DEFINE_ENUM(value);

DMIRROR_CAUSES
DMIRROR_PLACES
DMIRROR_ACCESSES
DMIRROR_ANSWERS
DMIRROR_CHANGES
DMIRROR_REASONS
DMIRROR_DECISIONS

#undef EM
#undef EMe
#define EM(value, name)		{ value, name },
#define EMe(value, name)	{ value, name }

/*
 * pid is the current process; common_pid is the current thread. Addresses and page numbers refer to
 * user memory; the ends of ranges are exclusive.
 */
TRACE_EVENT(migrate_begin,

	TP_PROTO(unsigned int device, unsigned long address, unsigned long pages,
		 unsigned int order, unsigned int from, unsigned int to, unsigned int cause),

	TP_ARGS(device, address, pages, order, from, to, cause),

	TP_STRUCT__entry(
		__field(unsigned int,	device)
		__field(pid_t,		pid)
		__field(unsigned long,	address)
		__field(unsigned long,	pages)
		__field(unsigned int,	order)
		__field(unsigned int,	from)
		__field(unsigned int,	to)
		__field(unsigned int,	cause)
	),

	TP_fast_assign(
		__entry->device		= device;
		__entry->pid		= current->tgid;
		__entry->address	= address;
		__entry->pages		= pages;
		__entry->order		= order;
		__entry->from		= from;
		__entry->to		= to;
		__entry->cause		= cause;
	),

	TP_printk("device=%u pid=%d address=%#lx pages=%lu order=%u from=%s to=%s cause=%s",
		  __entry->device, __entry->pid, __entry->address, __entry->pages,
		  __entry->order, __print_symbolic(__entry->from, DMIRROR_PLACES),
		  __print_symbolic(__entry->to, DMIRROR_PLACES),
		  __print_symbolic(__entry->cause, DMIRROR_CAUSES))
);

TRACE_EVENT(migrate_end,

	TP_PROTO(unsigned int device, unsigned long address, unsigned long pages,
		 unsigned int order, unsigned int from, unsigned int to, unsigned int cause,
		 unsigned long moved, int error),

	TP_ARGS(device, address, pages, order, from, to, cause, moved, error),

	TP_STRUCT__entry(
		__field(unsigned int,	device)
		__field(pid_t,		pid)
		__field(unsigned long,	address)
		__field(unsigned long,	pages)
		__field(unsigned int,	order)
		__field(unsigned int,	from)
		__field(unsigned int,	to)
		__field(unsigned int,	cause)
		__field(unsigned long,	moved)
		__field(int,		error)
	),

	TP_fast_assign(
		__entry->device		= device;
		__entry->pid		= current->tgid;
		__entry->address	= address;
		__entry->pages		= pages;
		__entry->order		= order;
		__entry->from		= from;
		__entry->to		= to;
		__entry->cause		= cause;
		__entry->moved		= moved;
		__entry->error		= error;
	),

	TP_printk("device=%u pid=%d address=%#lx pages=%lu order=%u from=%s to=%s cause=%s moved=%lu error=%d",
		  __entry->device, __entry->pid, __entry->address, __entry->pages,
		  __entry->order, __print_symbolic(__entry->from, DMIRROR_PLACES),
		  __print_symbolic(__entry->to, DMIRROR_PLACES),
		  __print_symbolic(__entry->cause, DMIRROR_CAUSES),
		  __entry->moved, __entry->error)
);

TRACE_EVENT(device_fault,

	TP_PROTO(unsigned int device, unsigned long address, unsigned long pages,
		 unsigned int access, int error),

	TP_ARGS(device, address, pages, access, error),

	TP_STRUCT__entry(
		__field(unsigned int,	device)
		__field(pid_t,		pid)
		__field(unsigned long,	address)
		__field(unsigned long,	pages)
		__field(unsigned int,	access)
		__field(int,		error)
	),

	TP_fast_assign(
		__entry->device		= device;
		__entry->pid		= current->tgid;
		__entry->address	= address;
		__entry->pages		= pages;
		__entry->access		= access;
		__entry->error		= error;
	),

	TP_printk("device=%u pid=%d address=%#lx pages=%lu access=%s error=%d",
		  __entry->device, __entry->pid, __entry->address, __entry->pages,
		  __print_symbolic(__entry->access, DMIRROR_ACCESSES), __entry->error)
);

TRACE_EVENT(cpu_fault,

	TP_PROTO(unsigned int device, unsigned long address, unsigned long start,
		 unsigned long pages, unsigned long moved, unsigned int answer),

	TP_ARGS(device, address, start, pages, moved, answer),

	TP_STRUCT__entry(
		__field(unsigned int,	device)
		__field(pid_t,		pid)
		__field(unsigned long,	address)
		__field(unsigned long,	start)
		__field(unsigned long,	pages)
		__field(unsigned long,	moved)
		__field(unsigned int,	answer)
	),

	TP_fast_assign(
		__entry->device		= device;
		__entry->pid		= current->tgid;
		__entry->address	= address;
		__entry->start		= start;
		__entry->pages		= pages;
		__entry->moved		= moved;
		__entry->answer		= answer;
	),

	TP_printk("device=%u pid=%d address=%#lx start=%#lx pages=%lu moved=%lu answer=%s",
		  __entry->device, __entry->pid, __entry->address, __entry->start,
		  __entry->pages, __entry->moved,
		  __print_symbolic(__entry->answer, DMIRROR_ANSWERS))
);

/* The pid is that of the task that changes the page tables, which may be another process. */
TRACE_EVENT(invalidate,

	TP_PROTO(unsigned int device, unsigned long address, unsigned long pages, int event,
		 bool own, unsigned long cleared),

	TP_ARGS(device, address, pages, event, own, cleared),

	TP_STRUCT__entry(
		__field(unsigned int,	device)
		__field(pid_t,		pid)
		__field(unsigned long,	address)
		__field(unsigned long,	pages)
		__field(int,		event)
		__field(bool,		own)
		__field(unsigned long,	cleared)
	),

	TP_fast_assign(
		__entry->device		= device;
		__entry->pid		= current->tgid;
		__entry->address	= address;
		__entry->pages		= pages;
		__entry->event		= event;
		__entry->own		= own;
		__entry->cleared	= cleared;
	),

	TP_printk("device=%u pid=%d address=%#lx pages=%lu event=%s own=%d cleared=%lu",
		  __entry->device, __entry->pid, __entry->address, __entry->pages,
		  __print_symbolic(__entry->event, DMIRROR_CHANGES), __entry->own,
		  __entry->cleared)
);

/* The pages are those of a block of the device, whoever maps them. */
TRACE_EVENT(evict,

	TP_PROTO(unsigned int device, unsigned long block, unsigned int cause,
		 unsigned long moved, unsigned long left, int error, u64 ns),

	TP_ARGS(device, block, cause, moved, left, error, ns),

	TP_STRUCT__entry(
		__field(unsigned int,	device)
		__field(pid_t,		pid)
		__field(unsigned long,	block)
		__field(unsigned int,	cause)
		__field(unsigned long,	moved)
		__field(unsigned long,	left)
		__field(int,		error)
		__field(u64,		ns)
	),

	TP_fast_assign(
		__entry->device		= device;
		__entry->pid		= current->tgid;
		__entry->block		= block;
		__entry->cause		= cause;
		__entry->moved		= moved;
		__entry->left		= left;
		__entry->error		= error;
		__entry->ns		= ns;
	),

	TP_printk("device=%u pid=%d block=%lu cause=%s moved=%lu left=%lu error=%d ns=%llu",
		  __entry->device, __entry->pid, __entry->block,
		  __print_symbolic(__entry->cause, DMIRROR_CAUSES), __entry->moved,
		  __entry->left, __entry->error, __entry->ns)
);

TRACE_EVENT(exclusive,

	TP_PROTO(unsigned int device, unsigned long address, unsigned long pages,
		 unsigned long made, int error),

	TP_ARGS(device, address, pages, made, error),

	TP_STRUCT__entry(
		__field(unsigned int,	device)
		__field(pid_t,		pid)
		__field(unsigned long,	address)
		__field(unsigned long,	pages)
		__field(unsigned long,	made)
		__field(int,		error)
	),

	TP_fast_assign(
		__entry->device		= device;
		__entry->pid		= current->tgid;
		__entry->address	= address;
		__entry->pages		= pages;
		__entry->made		= made;
		__entry->error		= error;
	),

	TP_printk("device=%u pid=%d address=%#lx pages=%lu made=%lu error=%d",
		  __entry->device, __entry->pid, __entry->address, __entry->pages,
		  __entry->made, __entry->error)
);

TRACE_EVENT(reserve,

	TP_PROTO(unsigned int device, bool block, unsigned long pages, bool evict,
		 unsigned long got, int error),

	TP_ARGS(device, block, pages, evict, got, error),

	TP_STRUCT__entry(
		__field(unsigned int,	device)
		__field(pid_t,		pid)
		__field(bool,		block)
		__field(unsigned long,	pages)
		__field(bool,		evict)
		__field(unsigned long,	got)
		__field(int,		error)
	),

	TP_fast_assign(
		__entry->device		= device;
		__entry->pid		= current->tgid;
		__entry->block		= block;
		__entry->pages		= pages;
		__entry->evict		= evict;
		__entry->got		= got;
		__entry->error		= error;
	),

	TP_printk("device=%u pid=%d block=%d pages=%lu evict=%d got=%lu error=%d",
		  __entry->device, __entry->pid, __entry->block, __entry->pages,
		  __entry->evict, __entry->got, __entry->error)
);

#include "dmirror_engine_events.h"

#endif

/* Outside the kernel tree, so found through a path that Kbuild sets. */
#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE dmirror_events
#include <trace/define_trace.h>
