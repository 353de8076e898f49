/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * The contract between the module `fiber` and user space.
 *
 * A process opens /dev/fiber and drives its fibers with the requests below.
 * A descriptor serves only the process that opened it: in every other one
 * (inherited over fork(), kept over execve(), sent over a socket) each request
 * but FIBER_IOC_VERSION fails with EPERM.
 *
 * Every structure has the same size and layout for all callers. Padding and
 * unknown flags must be zero (EINVAL), so that they can get a meaning later.
 * Requests marked [register] take their argument by value, not by address.
 * A failed request changes nothing but, where stated, a counter.
 *
 * Errors of every request: EPERM (foreign descriptor, or a caller that is no
 * fiber where one is needed), EFAULT (an address that cannot be accessed),
 * ENOTTY (no such request, also each request of a 32-bit program).
 * All requests may be used by all threads of a process at once.
 *
 * Semantics follow Windows' fibers (ConvertThreadToFiber, CreateFiber,
 * SwitchToFiber, DeleteFiber, ConvertFiberToThread, FlsAlloc and the rest).
 */
#ifndef _UAPI_FIBER_H
#define _UAPI_FIBER_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Raised whenever a program built against an older header would misbehave. */
#define FIBER_ABI_VERSION	1

#define FIBER_DEVICE		"/dev/fiber"

/*
 * An id is unique in its process and never used again. Its low bits are the
 * slot, the others the generation; the first ids are 1, 2, 3.
 */
#define FIBER_SLOT_BITS		20

/* With the terminating zero; in bytes. */
#define FIBER_NAME_SIZE		64

/* Positions of one fiber's local storage: 0 to FIBER_FLS_MAX - 1. */
#define FIBER_FLS_MAX		1024

/* The smallest stack that FIBER_IOC_CREATE accepts, in bytes. */
#define FIBER_STACK_MIN		4096

/*
 * Flags of FIBER_IOC_CONVERT and FIBER_IOC_CREATE.
 *
 * FIBER_FLAG_FPU: the whole FPU, SSE and AVX state belongs to the fiber.
 * Without it only what a called function must preserve does: the x87 control
 * word and MXCSR (Windows: FIBER_FLAG_FLOAT_SWITCH).
 */
#define FIBER_FLAG_FPU		0x1

/**
 * struct fiber_convert - argument of FIBER_IOC_CONVERT
 * @flags: FIBER_FLAG_* (in)
 * @pad: 0 (in)
 * @id: the new fiber (out)
 */
struct fiber_convert {
	__u32 flags;
	__u32 pad;
	__u64 id;
};

/**
 * struct fiber_create - argument of FIBER_IOC_CREATE
 * @entry: address of the first instruction (in)
 * @arg: value of the first argument register, rdi, on entry (in)
 * @stack_start: lowest address of the stack (in)
 * @stack_size: its size in bytes, at least FIBER_STACK_MIN (in)
 * @flags: FIBER_FLAG_* (in)
 * @pad: 0 (in)
 * @name: zero-terminated, may be empty (in)
 * @id: the new fiber (out)
 *
 * The fiber starts with rsp = ((stack_start + stack_size) & ~15) - 8, as if it
 * had been called by the address stored there. The kernel does not write to
 * the stack: the creator puts an address there that ends the thread.
 * All other general registers that a function preserves are 0, MXCSR is
 * 0x1f80, the x87 control word 0x37f, the signal mask the creator's.
 */
struct fiber_create {
	__u64 entry;
	__u64 arg;
	__u64 stack_start;
	__u64 stack_size;
	__u32 flags;
	__u32 pad;
	char name[FIBER_NAME_SIZE];
	__u64 id;
};

/**
 * struct fiber_name - argument of FIBER_IOC_SET_NAME
 * @id: the fiber, 0 for the calling one (in)
 * @name: zero-terminated, may be empty (in)
 */
struct fiber_name {
	__u64 id;
	char name[FIBER_NAME_SIZE];
};

/**
 * struct fiber_fls - argument of FIBER_IOC_FLS_SET and FIBER_IOC_FLS_GET
 * @index: an allocated position of the calling fiber (in)
 * @value: its value (in for SET, out for GET)
 */
struct fiber_fls {
	__u64 index;
	__u64 value;
};

#define FIBER_IOC_MAGIC		0xFB

/* Returns FIBER_ABI_VERSION of the module. For every caller. */
#define FIBER_IOC_VERSION	_IO(FIBER_IOC_MAGIC, 0x00)

/*
 * The calling thread becomes a fiber, which is running (Windows:
 * ConvertThreadToFiberEx). EEXIST: it is one already. EAGAIN: the process has
 * as many fibers as the module's max_fibers allows. EOPNOTSUPP: the thread has
 * a shadow stack. EBUSY: the process has mapped a table (below).
 */
#define FIBER_IOC_CONVERT	_IOWR(FIBER_IOC_MAGIC, 0x01, struct fiber_convert)

/*
 * A new fiber of the process, suspended before its first instruction
 * (CreateFiberEx). EPERM: the caller is no fiber. EFAULT: the entry point or
 * the stack is not in user space. EINVAL: the stack is too small or wraps
 * around, or the name is not terminated. EAGAIN: as above.
 */
#define FIBER_IOC_CREATE	_IOWR(FIBER_IOC_MAGIC, 0x02, struct fiber_create)

/*
 * [register: id] Leaves the calling fiber and runs that one on this thread
 * (SwitchToFiber). Returns 0 to the fiber that runs next, which for a suspended
 * one is the return of its own request. Saved and restored: rbx, rbp, rsp, rip,
 * r12 to r15, MXCSR and the x87 control word or the state under FIBER_FLAG_FPU,
 * the signal mask. All other registers are lost: declare them clobbered.
 * EPERM: the caller is no fiber. ESRCH: no such fiber. EINVAL: the calling
 * fiber itself, or the caller is on its signal's alternate stack (which the
 * kernel cannot see where SS_AUTODISARM is set: do not switch there). A fiber
 * left inside a signal handler and resumed on another thread gives that thread,
 * when the handler returns, the alternate stack of the thread that the signal
 * came to (sigreturn restores it): set uc_stack before returning. EBUSY: that
 * fiber is running. EOWNERDEAD: it was a thread that has ended. EOPNOTSUPP: a
 * shadow stack. EBUSY, and EINVAL for the fiber itself, count as its failed
 * activations.
 */
#define FIBER_IOC_SWITCH	_IO(FIBER_IOC_MAGIC, 0x03)

/*
 * [register: id] Deletes a fiber that is not running (DeleteFiber); the caller
 * owns its stack again. May be used by threads that are no fibers. ESRCH: no
 * such fiber. EBUSY: it is running. EPERM: it is a living thread's own fiber.
 */
#define FIBER_IOC_DELETE	_IO(FIBER_IOC_MAGIC, 0x04)

/*
 * The calling fiber, which must be the thread's own, is deleted and the thread
 * goes on as a thread (ConvertFiberToThread). The other fibers stay. EPERM: the
 * caller is no fiber. EINVAL: it is not on its own fiber.
 */
#define FIBER_IOC_REVERT	_IO(FIBER_IOC_MAGIC, 0x05)

/*
 * Finishes the calling thread's own fiber, wherever it is parked, and waits
 * while another thread runs it: what a thread does that is about to end on a
 * created fiber, because its stack ends with it. The id gives EOWNERDEAD from
 * then on. EPERM: the caller is no fiber. EINVAL: it is on its own fiber.
 * EINTR: a signal came first; call again (the fiber is finished all the same as
 * soon as it is left). Two threads that run each other's own fibers and both
 * retire wait for ever.
 */
#define FIBER_IOC_RETIRE	_IO(FIBER_IOC_MAGIC, 0x06)

/* EINVAL: the name is not terminated. ESRCH: no such fiber. EPERM: id 0 and the
 * caller is no fiber.
 */
#define FIBER_IOC_SET_NAME	_IOW(FIBER_IOC_MAGIC, 0x07, struct fiber_name)

/* The calling fiber's id (GetCurrentFiber). EPERM: the caller is no fiber. */
#define FIBER_IOC_SELF		_IOR(FIBER_IOC_MAGIC, 0x08, __u64)

/*
 * Fiber-local storage of the calling fiber: positions are allocated per fiber
 * and say nothing about other fibers. EPERM: the caller is no fiber. EINVAL: an
 * index that is not allocated. EAGAIN: all FIBER_FLS_MAX are.
 */
/* Stores the lowest free position; its value is 0. */
#define FIBER_IOC_FLS_ALLOC	_IOR(FIBER_IOC_MAGIC, 0x10, __u64)
/* [register: index] */
#define FIBER_IOC_FLS_FREE	_IO(FIBER_IOC_MAGIC, 0x11)
#define FIBER_IOC_FLS_SET	_IOW(FIBER_IOC_MAGIC, 0x12, struct fiber_fls)
#define FIBER_IOC_FLS_GET	_IOWR(FIBER_IOC_MAGIC, 0x13, struct fiber_fls)

/*
 * The table of observations: what an engine that switches in user mode notes
 * about its fibers, for others to read. Zero where nothing was ever written.
 *
 *	struct fiber_table	the head
 *	struct fiber_area	in an array, by number of the thread, which begins at 1
 *	struct fiber_slot	in an array, by slot of the id
 *
 * Readers take no lock: each word is whole, and several words together may be
 * of two moments. Nothing in it is ever believed by who switches but
 * fiber_area.dead, which only ever makes a fiber free that is not.
 *
 * In private memory (engine `local`) the head is a page that is found by its name
 * in /proc/PID/maps: a memfd called FIBER_TABLE_NAME. Shared with the module
 * (engine `mapped`) it is what mmap() of /dev/fiber gives:
 *
 *	mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)
 *
 * with the head at 0, the areas at FIBER_TABLE_AREAS_AT and the slots at
 * FIBER_TABLE_SLOTS_AT. `length` goes up to FIBER_TABLE_SIZE(number of slots).
 * The head is there at once, an area from FIBER_IOC_ATTACH on, slots from
 * FIBER_IOC_COMMIT on; SIGBUS beyond. All mappings of a process show the same
 * table, until its image ends; a forked child has none. EINVAL: private,
 * executable, too long, or not from 0. EPERM: a foreign descriptor. EBUSY: the
 * process has had fibers that the module switches. ENOMEM. mprotect() cannot make it
 * executable, mremap() not longer.
 */
#define FIBER_TABLE_NAME	"kfiber-table"
#define FIBER_TABLE_MAGIC	0x72656269666bULL	/* "kfiber" */
#define FIBER_TABLE_VERSION	2

/* Areas there are: threads that are fibers at a time, and one more. */
#define FIBER_AREAS		4096

#define FIBER_TABLE_AREAS_AT	4096
#define FIBER_TABLE_SLOTS_AT	(FIBER_TABLE_AREAS_AT + FIBER_AREAS * 64)
#define FIBER_TABLE_SIZE(slots)	\
	((FIBER_TABLE_SLOTS_AT + (__u64)(slots) * 192 + 4095) & ~(__u64)4095)

/*
 * [register: number of slots] Makes room in the table for slots below that one;
 * less than there is does nothing. EINVAL: no table. EAGAIN: more than the
 * module's max_fibers (and slot 0). ENOMEM: RLIMIT_MEMLOCK, or no memory.
 */
#define FIBER_IOC_COMMIT	_IO(FIBER_IOC_MAGIC, 0x20)

/*
 * [register: number] The calling thread runs fibers of the table as that area,
 * until it ends or detaches. The kernel zeroes the area, sets its `tid`, and
 * from then on adds to `off`. EINVAL: no table, or no such area. EEXIST: the
 * thread is attached, or a fiber that the module switches. EBUSY: another
 * living thread has that area. EOPNOTSUPP: the thread has a shadow stack. ENOMEM.
 */
#define FIBER_IOC_ATTACH	_IO(FIBER_IOC_MAGIC, 0x21)

/* The kernel leaves the calling thread alone again. EPERM: it is not attached. */
#define FIBER_IOC_DETACH	_IO(FIBER_IOC_MAGIC, 0x22)

/**
 * struct fiber_table - the head of the table
 * @magic: FIBER_TABLE_MAGIC, stored last
 * @version: FIBER_TABLE_VERSION
 * @slots: how many there is room for
 * @slots_used: slots at and above this one were never used
 * @areas: how many there is room for
 * @areas_used: as @slots_used
 * @mult, @shift: nanoseconds are cycles * @mult >> @shift
 * @cycles, @clock: the cycle counter and CLOCK_MONOTONIC_RAW, in ns, at one moment
 * @slots_at, @areas_at: addresses in the process
 * @engine: its name, zero-terminated
 */
struct fiber_table {
	__u64 magic;
	__u32 version;
	__u32 slots;
	__u32 slots_used;
	__u32 areas;
	__u32 areas_used;
	__u32 shift;
	__u64 mult;
	__u64 cycles;
	__u64 clock;
	__u64 slots_at;
	__u64 areas_at;
	char engine[16];
};

/* Values of fiber_slot.state. */
#define FIBER_STATE_NEW		0
#define FIBER_STATE_RUNNING	1
#define FIBER_STATE_SUSPENDED	2
#define FIBER_STATE_FINISHED	3

/**
 * struct fiber_slot - what is to be seen of a fiber
 * @id: 0: none
 * @activations: how often it was switched to
 * @run_time: time on a thread without the current run, in cycles; with `mapped`
 *	without time off the CPU
 * @longest_run: the longest single one, in cycles
 * @last_switch: cycle counter when it was last switched to or from; 0: never
 * @sp, @ip: stack and instruction pointer while suspended
 * @state: FIBER_STATE_*
 * @area: number of the thread that runs it; else 0
 * @failed: failed activations
 * @entry, @stack_start, @stack_size: as created; 0 for a thread's own
 * @parent: pid of the thread that created it, as the process sees it
 * @pad: 0
 * @name: zero-terminated
 *
 * The first cache line is what a switch writes.
 */
struct fiber_slot {
	__u64 id;
	__u64 activations;
	__u64 run_time;
	__u64 longest_run;
	__u64 last_switch;
	__u64 sp;
	__u64 ip;
	__u32 state;
	__u32 area;

	__u64 failed;
	__u64 entry;
	__u64 stack_start;
	__u64 stack_size;
	__u32 parent;
	__u32 pad[7];

	char name[FIBER_NAME_SIZE];
};

/**
 * struct fiber_area - a thread that runs fibers
 * @tid: its pid, as the process sees it; 0: none
 * @dead: the thread has executed its last instruction in user mode (kernel)
 * @fiber: the id of the one that it runs
 * @since: cycle counter when that run began
 * @off: cycles off the CPU; only ever grows (kernel; 0 with `local`)
 * @off_since: @off when that run began
 * @reserved: 0
 */
struct fiber_area {
	__u32 tid;
	__u32 dead;
	__u64 fiber;
	__u64 since;
	__u64 off;
	__u64 off_since;
	__u64 reserved[3];
};

#endif /* _UAPI_FIBER_H */
