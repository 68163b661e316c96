/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The trace events of engines: the faults that they post, how these are handled, and their jobs. A
 * part of dmirror_events.h: the headers are read several times.
 *
 * A thread of the device emits them. pid is the process that opened the device file for which the
 * thread works, and whose addresses it uses; client is drm-client-id in the fdinfo of that file.
 */

TRACE_EVENT(fault_post,

	TP_PROTO(unsigned int device, int pid, unsigned int engine, u64 client,
		 unsigned long address, unsigned int reason, bool overflow),

	TP_ARGS(device, pid, engine, client, address, reason, overflow),

	TP_STRUCT__entry(
		__field(unsigned int,	device)
		__field(pid_t,		pid)
		__field(unsigned int,	engine)
		__field(u64,		client)
		__field(unsigned long,	address)
		__field(unsigned int,	reason)
		__field(bool,		overflow)
	),

	TP_fast_assign(
		__entry->device		= device;
		__entry->pid		= pid;
		__entry->engine		= engine;
		__entry->client		= client;
		__entry->address	= address;
		__entry->reason		= reason;
		__entry->overflow	= overflow;
	),

	TP_printk("device=%u pid=%d engine=%u client=%llu address=%#lx reason=%s overflow=%d",
		  __entry->device, __entry->pid, __entry->engine, __entry->client,
		  __entry->address, __print_symbolic(__entry->reason, DMIRROR_REASONS),
		  __entry->overflow)
);

/* A batch contains faults of all engines and processes. */
TRACE_EVENT(fault_batch,

	TP_PROTO(unsigned int device, unsigned long entries, unsigned long groups,
		 unsigned long merged),

	TP_ARGS(device, entries, groups, merged),

	TP_STRUCT__entry(
		__field(unsigned int,	device)
		__field(unsigned long,	entries)
		__field(unsigned long,	groups)
		__field(unsigned long,	merged)
	),

	TP_fast_assign(
		__entry->device		= device;
		__entry->entries	= entries;
		__entry->groups		= groups;
		__entry->merged		= merged;
	),

	TP_printk("device=%u entries=%lu groups=%lu merged=%lu",
		  __entry->device, __entry->entries, __entry->groups, __entry->merged)
);

TRACE_EVENT(fault_service,

	TP_PROTO(unsigned int device, int pid, unsigned int engine, u64 client,
		 unsigned long address, unsigned long pages, unsigned long granule,
		 unsigned int decision, unsigned long moved),

	TP_ARGS(device, pid, engine, client, address, pages, granule, decision, moved),

	TP_STRUCT__entry(
		__field(unsigned int,	device)
		__field(pid_t,		pid)
		__field(unsigned int,	engine)
		__field(u64,		client)
		__field(unsigned long,	address)
		__field(unsigned long,	pages)
		__field(unsigned long,	granule)
		__field(unsigned int,	decision)
		__field(unsigned long,	moved)
	),

	TP_fast_assign(
		__entry->device		= device;
		__entry->pid		= pid;
		__entry->engine		= engine;
		__entry->client		= client;
		__entry->address	= address;
		__entry->pages		= pages;
		__entry->granule	= granule;
		__entry->decision	= decision;
		__entry->moved		= moved;
	),

	TP_printk("device=%u pid=%d engine=%u client=%llu address=%#lx pages=%lu granule=%lu decision=%s moved=%lu",
		  __entry->device, __entry->pid, __entry->engine, __entry->client,
		  __entry->address, __entry->pages, __entry->granule,
		  __print_symbolic(__entry->decision, DMIRROR_DECISIONS), __entry->moved)
);

TRACE_EVENT(job_begin,

	TP_PROTO(unsigned int device, int pid, unsigned int engine, u64 client,
		 unsigned int queue, u64 seqno, u64 address, u64 packets),

	TP_ARGS(device, pid, engine, client, queue, seqno, address, packets),

	TP_STRUCT__entry(
		__field(unsigned int,	device)
		__field(pid_t,		pid)
		__field(unsigned int,	engine)
		__field(u64,		client)
		__field(unsigned int,	queue)
		__field(u64,		seqno)
		__field(u64,		address)
		__field(u64,		packets)
	),

	TP_fast_assign(
		__entry->device		= device;
		__entry->pid		= pid;
		__entry->engine		= engine;
		__entry->client		= client;
		__entry->queue		= queue;
		__entry->seqno		= seqno;
		__entry->address	= address;
		__entry->packets	= packets;
	),

	TP_printk("device=%u pid=%d engine=%u client=%llu queue=%u seqno=%llu address=%#llx packets=%llu",
		  __entry->device, __entry->pid, __entry->engine, __entry->client,
		  __entry->queue, __entry->seqno, __entry->address, __entry->packets)
);

TRACE_EVENT(job_end,

	TP_PROTO(unsigned int device, int pid, unsigned int engine, u64 client,
		 unsigned int queue, u64 seqno, u64 executed, int error, u64 address),

	TP_ARGS(device, pid, engine, client, queue, seqno, executed, error, address),

	TP_STRUCT__entry(
		__field(unsigned int,	device)
		__field(pid_t,		pid)
		__field(unsigned int,	engine)
		__field(u64,		client)
		__field(unsigned int,	queue)
		__field(u64,		seqno)
		__field(u64,		executed)
		__field(int,		error)
		__field(u64,		address)
	),

	TP_fast_assign(
		__entry->device		= device;
		__entry->pid		= pid;
		__entry->engine		= engine;
		__entry->client		= client;
		__entry->queue		= queue;
		__entry->seqno		= seqno;
		__entry->executed	= executed;
		__entry->error		= error;
		__entry->address	= address;
	),

	TP_printk("device=%u pid=%d engine=%u client=%llu queue=%u seqno=%llu executed=%llu error=%d address=%#llx",
		  __entry->device, __entry->pid, __entry->engine, __entry->client,
		  __entry->queue, __entry->seqno, __entry->executed, __entry->error,
		  __entry->address)
);
