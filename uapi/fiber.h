/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * The interface between the module `fiber` and user space.
 *
 * A process opens /dev/fiber and drives its fibers with the requests below.
 * A descriptor serves only the process that opened it: in every other one
 * (inherited over fork(), kept over execve(), sent over a socket) each request
 * but FIBER_IOC_VERSION fails with EPERM.
 *
 * Semantics follow Windows' fibers (ConvertThreadToFiber, CreateFiber,
 * SwitchToFiber, DeleteFiber, ConvertFiberToThread, FlsAlloc and the rest) and
 * the reference report, which has seven of these requests under Windows' names.
 *
 * How the interface grows: every structure begins with its size, which the
 * caller sets to sizeof(struct ...), as in openat2(2). The kernel takes the
 * fields that a smaller structure lacks as 0, and refuses a larger one whose
 * additional bytes are not 0 (E2BIG). A size below that of the first version is
 * EINVAL, one above 4096 is E2BIG. Unknown flags and padding that is not 0 are
 * EINVAL. A request that the module does not know is ENOTTY, so a program that
 * needs a new one tries it; nothing compares version numbers.
 *
 * All structures have the same layout for all callers. Requests marked
 * [register] take their argument by value and not by address. A request that
 * fails changes nothing except, where it says so, a counter.
 *
 * Errors of every request: EPERM (foreign descriptor, or a caller that is not a
 * fiber where one is needed), EFAULT (an address that cannot be accessed),
 * ENOTTY (no such request; also each request of a 32-bit program), EINTR (a
 * fatal signal ended a wait). Requests that allocate also fail with ENOMEM (no
 * memory) and EDQUOT (the user has as much of the kernel's memory as the
 * module's parameter max_user_kib allows).
 *
 * Thread safety: all threads of a process may use all requests at once.
 */
#ifndef _UAPI_FIBER_H
#define _UAPI_FIBER_H

#include <linux/ioctl.h>
#include <linux/types.h>

/*
 * The value that FIBER_IOC_VERSION returns. It grows with every addition to this
 * file. It is for people and bug reports; see above.
 */
#define FIBER_ABI_VERSION	2

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
 * Without it only the part that a called function must preserve does: the x87
 * control word and MXCSR (Windows: FIBER_FLAG_FLOAT_SWITCH).
 */
#define FIBER_FLAG_FPU		0x1

/**
 * struct fiber_convert - argument of FIBER_IOC_CONVERT
 * @size: sizeof(struct fiber_convert) (in)
 * @flags: FIBER_FLAG_* (in)
 * @id: the new fiber (out)
 */
struct fiber_convert {
	__u32 size;
	__u32 flags;
	__u64 id;
};

/**
 * struct fiber_create - argument of FIBER_IOC_CREATE
 * @size: sizeof(struct fiber_create) (in)
 * @flags: FIBER_FLAG_* (in)
 * @entry: the address of its function, which is shown (in)
 * @arg: value of the first argument register, rdi, on entry (in)
 * @stack_start: lowest address of the stack (in)
 * @stack_size: its size in bytes, at least FIBER_STACK_MIN (in)
 * @name: zero-terminated, may be empty (in)
 * @id: the new fiber (out)
 * @start: address of the first instruction; 0: @entry (in)
 *
 * The fiber starts with rsp = ((stack_start + stack_size) & ~15) - 8, as if it
 * had been called by the address stored there. The kernel does not write to the
 * stack: the creator must store the address of code that ends the thread.
 * All other general registers that a function preserves are 0, MXCSR is
 * 0x1f80, the x87 control word 0x37f, the signal mask the creator's.
 */
struct fiber_create {
	__u32 size;
	__u32 flags;
	__u64 entry;
	__u64 arg;
	__u64 stack_start;
	__u64 stack_size;
	char name[FIBER_NAME_SIZE];
	__u64 id;
	__u64 start;
};

/**
 * struct fiber_name - argument of FIBER_IOC_SET_NAME
 * @size: sizeof(struct fiber_name) (in)
 * @pad: 0 (in)
 * @id: the fiber, 0 for the calling one (in)
 * @name: zero-terminated, may be empty (in)
 */
struct fiber_name {
	__u32 size;
	__u32 pad;
	__u64 id;
	char name[FIBER_NAME_SIZE];
};

/**
 * struct fiber_fls - argument of FIBER_IOC_FLS_SET and FIBER_IOC_FLS_GET
 * @size: sizeof(struct fiber_fls) (in)
 * @pad: 0 (in)
 * @index: an allocated position of the calling fiber (in)
 * @value: its value (in for SET, out for GET)
 */
struct fiber_fls {
	__u32 size;
	__u32 pad;
	__u64 index;
	__u64 value;
};

/* Values of fiber_slot.state and fiber_snapshot.state. */
#define FIBER_STATE_NEW		0
#define FIBER_STATE_RUNNING	1
#define FIBER_STATE_SUSPENDED	2
#define FIBER_STATE_FINISHED	3

/* Values of fiber_snapshot.engine. */
#define FIBER_ENGINE_KERNEL	1
#define FIBER_ENGINE_MAPPED	2

/**
 * struct fiber_snapshot - argument of FIBER_IOC_STAT
 * @size: sizeof(struct fiber_snapshot) (in)
 * @state: FIBER_STATE_*
 * @id: the fiber, 0 for the calling one (in and out)
 * @activations: how often it was switched to
 * @failed: how often a switch to it was refused: its failed activations
 * @cpu_time: CPU time, in ns, with the part of a fiber that is running
 * @longest_run: the longest single run, in ns of CPU time
 * @last_switch: when it was last switched to or from, in ns ago
 * @entry: the first instruction; of a root fiber, where its thread was converted
 * @ip, @sp: instruction and stack pointer while suspended; 0 while running
 * @stack_start, @stack_size: as created; 0 for a root fiber
 * @thread: pid of the thread that runs it, 0 for none
 * @parent: pid of the thread that created it
 * @engine: FIBER_ENGINE_*
 * @pad: 0
 * @name: zero-terminated
 *
 * All fields but @size and @id are outputs. Pids are as the caller's PID
 * namespace has them, 0 for a thread that it has not.
 */
struct fiber_snapshot {
	__u32 size;
	__u32 state;
	__u64 id;
	__u64 activations;
	__u64 failed;
	__u64 cpu_time;
	__u64 longest_run;
	__u64 last_switch;
	__u64 entry;
	__u64 ip;
	__u64 sp;
	__u64 stack_start;
	__u64 stack_size;
	__u32 thread;
	__u32 parent;
	__u32 engine;
	__u32 pad;
	char name[FIBER_NAME_SIZE];
};

#define FIBER_IOC_MAGIC		0xFB

/* Returns FIBER_ABI_VERSION of the module. For every caller. */
#define FIBER_IOC_VERSION	_IO(FIBER_IOC_MAGIC, 0x00)

/*
 * [struct fiber_convert] Converts the calling thread into a fiber, its root
 * fiber, which is running (the report: ConvertThreadToFiber(); Windows:
 * ConvertThreadToFiberEx). EEXIST: it is a fiber already. EAGAIN: the process has
 * as many fibers as the module's max_fibers allows. EOPNOTSUPP: the thread has
 * a shadow stack. EBUSY: the process has mapped a status table (below).
 */
#define FIBER_IOC_CONVERT	_IO(FIBER_IOC_MAGIC, 0x01)

/*
 * [struct fiber_create] A new fiber of the process, suspended before its first
 * instruction (the report: CreateFiber(); Windows: CreateFiberEx). EPERM: the
 * caller is not a fiber. EFAULT: the entry point or the stack is not in user
 * space. EINVAL: the stack is too small or wraps around, or the name is not
 * terminated. EAGAIN: as above.
 */
#define FIBER_IOC_CREATE	_IO(FIBER_IOC_MAGIC, 0x02)

/*
 * [register: id] Suspends the calling fiber and resumes the other one on this
 * thread (the report and Windows: SwitchToFiber). Returns 0 in the resumed fiber,
 * as the result of the request by which it was suspended. Saved and restored:
 * rbx, rbp, rsp, rip, r12 to r15, MXCSR and the x87 control word or the state
 * under FIBER_FLAG_FPU, the signal mask. All other registers are lost: declare
 * them clobbered.
 * EPERM: the caller is not a fiber. ESRCH: no such fiber. EINVAL: the calling
 * fiber itself, or the caller is on its signal's alternate stack (which the
 * kernel cannot see where SS_AUTODISARM is set: do not switch there). A fiber
 * that was suspended inside a signal handler and is resumed on another thread
 * gives that thread, when the handler returns, the alternate stack of the
 * thread that received the signal (sigreturn restores it): set uc_stack before
 * returning. EBUSY: the fiber is running. EOWNERDEAD: it is the root fiber of a
 * thread that has ended. EOPNOTSUPP: a shadow stack. EBUSY, and EINVAL for the fiber itself,
 * count as its failed activations.
 */
#define FIBER_IOC_SWITCH	_IO(FIBER_IOC_MAGIC, 0x03)

/*
 * [register: id] Deletes a fiber that is not running (Windows: DeleteFiber); the
 * caller owns its stack again. Threads that are not fibers may use it. ESRCH: no
 * such fiber. EBUSY: it is running. EPERM: it is the root fiber of a living
 * thread.
 */
#define FIBER_IOC_DELETE	_IO(FIBER_IOC_MAGIC, 0x04)

/*
 * Deletes the calling fiber, which must be the thread's root fiber; the thread
 * is only a thread again (Windows: ConvertFiberToThread). The other fibers
 * stay. EPERM: the caller is not a fiber. EINVAL: it is not on its root fiber.
 */
#define FIBER_IOC_REVERT	_IO(FIBER_IOC_MAGIC, 0x05)

/*
 * Finishes the calling thread's root fiber, wherever it is suspended, and waits
 * while another thread runs it. A thread that is about to end on a created
 * fiber needs this, because its stack ends with it. The id gives EOWNERDEAD from
 * then on. EPERM: the caller is not a fiber. EINVAL: it is on its root fiber.
 * EINTR: a signal came first; call again (the fiber is finished all the same as
 * soon as it is suspended). Two threads that run each other's root fibers and
 * both retire wait for ever.
 */
#define FIBER_IOC_RETIRE	_IO(FIBER_IOC_MAGIC, 0x06)

/*
 * [struct fiber_name] Names a fiber. EINVAL: the name is not terminated. ESRCH:
 * no such fiber. EPERM: id 0 and the caller is not a fiber.
 */
#define FIBER_IOC_SET_NAME	_IO(FIBER_IOC_MAGIC, 0x07)

/*
 * [address of a __u64] Stores the calling fiber's id (Windows: GetCurrentFiber).
 * EPERM: the caller is not a fiber.
 */
#define FIBER_IOC_SELF		_IO(FIBER_IOC_MAGIC, 0x08)

/*
 * [struct fiber_snapshot] A consistent copy of a fiber's public state, also of a
 * fiber of the status table. Threads that are not fibers may use it. EPERM: id 0
 * and the caller is not a fiber that the module switches. ESRCH: no such fiber.
 */
#define FIBER_IOC_STAT		_IO(FIBER_IOC_MAGIC, 0x09)

/*
 * Fiber-local storage of the calling fiber: positions are allocated per fiber
 * and say nothing about other fibers. EPERM: the caller is not a fiber. EINVAL: an
 * index that is not allocated. EAGAIN: all FIBER_FLS_MAX are.
 */
/*
 * [address of a __u64] Stores the lowest free position; its value is 0 (the
 * report and Windows: FlsAlloc).
 */
#define FIBER_IOC_FLS_ALLOC	_IO(FIBER_IOC_MAGIC, 0x10)
/* [register: index] Frees a position (the report and Windows: FlsFree). */
#define FIBER_IOC_FLS_FREE	_IO(FIBER_IOC_MAGIC, 0x11)
/* [struct fiber_fls] The report: FlsSet(); Windows: FlsSetValue. */
#define FIBER_IOC_FLS_SET	_IO(FIBER_IOC_MAGIC, 0x12)
/* [struct fiber_fls] The report: FlsGet(); Windows: FlsGetValue. */
#define FIBER_IOC_FLS_GET	_IO(FIBER_IOC_MAGIC, 0x13)

/*
 * The status table: the shared memory in which an engine that switches in user
 * mode publishes its fibers, for others to read. It is zero where nothing was
 * ever written.
 *
 *	struct fiber_table		the head
 *	struct fiber_thread_area	in an array, by number, which begins at 1
 *	struct fiber_slot		in an array, by slot of the id
 *
 * Readers take no lock: each word is whole, and several words together may be
 * of two moments. The switch path trusts no field of the table except
 * fiber_thread_area.dead, which can only make a fiber free that is not.
 *
 * In private memory (engine `local`) the head is a page that is found by its name
 * in /proc/PID/maps: a memfd called FIBER_TABLE_NAME. Shared with the module
 * (engine `mapped`) the table is what mmap() of /dev/fiber gives:
 *
 *	mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)
 *
 * with the head at 0, the thread areas at FIBER_TABLE_AREAS_AT and the slots at
 * FIBER_TABLE_SLOTS_AT. A process may map it in parts, each from any page on, up to
 * FIBER_TABLE_SIZE(1 << FIBER_SLOT_BITS), and may map a part before its pages exist.
 * The head is there at once, a thread area from FIBER_IOC_ATTACH on, slots from
 * FIBER_IOC_COMMIT on; SIGBUS beyond. All mappings of a process show the same
 * table, until its image ends, and nothing (SIGBUS) from then on; a forked child
 * has none, whatever it asks of madvise(2). EINVAL: private, executable, beyond the
 * largest size, or of another device node than the first. EPERM: a foreign descriptor. EBUSY: the
 * process has had fibers that the module switches. ENOMEM, EDQUOT. mprotect()
 * cannot make it executable, mremap() not longer.
 */
#define FIBER_TABLE_NAME	"kfiber-table"
#define FIBER_TABLE_MAGIC	0x72656269666bULL	/* "kfiber" */

/*
 * Version of the table's layout: the major number times 65536, and the minor
 * one. A reader accepts every minor version of a major one that it knows.
 */
#define FIBER_TABLE_VERSION	0x30000

/* How many thread areas there are: threads that are fibers at a time, and one more. */
#define FIBER_THREAD_AREAS	4096

#define FIBER_TABLE_AREAS_AT	4096
#define FIBER_TABLE_SLOTS_AT	(FIBER_TABLE_AREAS_AT + FIBER_THREAD_AREAS * 64)
#define FIBER_TABLE_SIZE(slots)	\
	((FIBER_TABLE_SLOTS_AT + (__u64)(slots) * 192 + 4095) & ~(__u64)4095)

/*
 * [register: number of slots] Makes room in the table for slots below that one;
 * a number below the present one does nothing. EINVAL: no table. EAGAIN: more
 * than the module's max_fibers (and slot 0). ENOMEM, EDQUOT: the number of slots
 * is what it was.
 */
#define FIBER_IOC_COMMIT	_IO(FIBER_IOC_MAGIC, 0x20)

/*
 * [register: number] The calling thread runs fibers of the table as that thread
 * area, until it ends or detaches. The kernel zeroes the area, sets its `tid`,
 * and from then on adds to `off`. EINVAL: no table, or no such area. EEXIST: the
 * thread is attached, or a fiber that the module switches. EBUSY: another
 * living thread has that area. EOPNOTSUPP: the thread has a shadow stack.
 * ENOMEM, EDQUOT.
 */
#define FIBER_IOC_ATTACH	_IO(FIBER_IOC_MAGIC, 0x21)

/* Ends what FIBER_IOC_ATTACH began. EPERM: the thread is not attached. */
#define FIBER_IOC_DETACH	_IO(FIBER_IOC_MAGIC, 0x22)

/**
 * struct fiber_table - the head of the table
 * @magic: FIBER_TABLE_MAGIC, stored last
 * @version: FIBER_TABLE_VERSION
 * @slots: how many there is room for
 * @slots_used: slots at and above this one were never used
 * @areas: how many thread areas there is room for
 * @areas_used: as @slots_used
 * @mult, @shift: nanoseconds are cycles * @mult >> @shift
 * @cycles, @clock: the cycle counter and CLOCK_MONOTONIC_RAW, in ns, at one moment
 * @slots_at, @areas_at: addresses in the process
 * @engine: its name, zero-terminated
 * @slot_size, @area_size: bytes from one slot or thread area to the next
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
	__u32 slot_size;
	__u32 area_size;
};

/**
 * struct fiber_slot - the public state of a fiber
 * @id: 0: none
 * @activations: how often it was switched to
 * @run_time: time on a thread without the current run, in cycles; with `mapped`
 *	without time off the CPU
 * @longest_run: the longest single one, in cycles
 * @last_switch: cycle counter when it was last switched to or from; 0: never
 * @sp, @ip: stack and instruction pointer while suspended
 * @state: FIBER_STATE_*
 * @area: number of the thread area of the thread that runs it; else 0
 * @failed: failed activations
 * @entry, @stack_start, @stack_size: as created; the stack's are 0 for a root fiber
 * @parent: pid of the thread that created it, as the process sees it
 * @pad: 0
 * @shown: the process's own
 * @name: zero-terminated
 *
 * The first cache line is what a switch writes. A run that ends stores @last_switch
 * before it adds to @run_time, so the two differ from the thread area's @since and each other
 * only until it is added.
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
	__u32 pad[3];
	__u64 shown[2];

	char name[FIBER_NAME_SIZE];
};

/**
 * struct fiber_thread_area - a thread that runs fibers
 * @tid: its pid, as the process sees it; 0: none
 * @dead: the thread has executed its last instruction in user mode (kernel)
 * @fiber: the id of the one that it runs
 * @since: cycle counter when that run began
 * @off: cycles off the CPU; only ever grows (kernel; 0 with `local`)
 * @off_since: @off when that run began
 * @target: the process's own
 * @reserved: 0
 */
struct fiber_thread_area {
	__u32 tid;
	__u32 dead;
	__u64 fiber;
	__u64 since;
	__u64 off;
	__u64 off_since;
	__u64 target;
	__u64 reserved[2];
};

#endif /* _UAPI_FIBER_H */
