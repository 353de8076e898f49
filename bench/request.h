/* SPDX-License-Identifier: MIT */
/*
 * The module's requests without a library. The only file of bench/ that knows the structures of
 * uapi/fiber.h: programs prepare an argument here and then measure send() alone.
 */
#ifndef BENCH_REQUEST_H
#define BENCH_REQUEST_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "uapi/fiber.h"

static inline _Noreturn void fail(const char *what)
{
	perror(what);
	exit(1);
}

/*
 * A system call of three arguments. The kernel keeps rbx, rbp, rsp and r12 to r15 over a switch;
 * the rest is lost, more than ioctl() says. Returns the result, or minus the error number.
 */
static inline long system_call(long number, long first, unsigned long second, unsigned long third)
{
	register long rdi __asm__("rdi") = first;
	register unsigned long rsi __asm__("rsi") = second;
	register unsigned long rdx __asm__("rdx") = third;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result), "+r"(rdi), "+r"(rsi), "+r"(rdx)
			 : "0"(number)
			 : "rcx", "r8", "r9", "r10", "r11", "memory");
	return result;
}

/* A request that is ready to be sent. */
struct request {
	int fd;
	unsigned long command;
	unsigned long argument;
};

static inline long send(const struct request *request)
{
	return system_call(16, request->fd, request->command, request->argument);
}

static inline int device_open(void)
{
	int device = open(FIBER_DEVICE, O_RDWR | O_CLOEXEC);

	if (device < 0)
		fail(FIBER_DEVICE);
	return device;
}

/* The calling thread becomes a fiber; gives its id. */
static inline uint64_t convert(int device, unsigned int fpu)
{
	struct fiber_convert args = { .size = sizeof(args), .flags = fpu ? FIBER_FLAG_FPU : 0 };

	if (ioctl(device, FIBER_IOC_CONVERT, &args))
		fail("FIBER_IOC_CONVERT");
	return args.id;
}

/* For measuring it. */
static inline struct request convert_request(int device)
{
	static struct fiber_convert args = { .size = sizeof(args) };

	return (struct request){ device, FIBER_IOC_CONVERT, (uintptr_t)&args };
}

/* The argument stays the caller's. */
static inline void create_prepare(struct fiber_create *args, void (*entry)(void *), uint64_t arg,
				  void *stack, size_t stack_size, unsigned int fpu)
{
	*args = (struct fiber_create){
		.size = sizeof(*args),
		.entry = (uintptr_t)entry,
		.arg = arg,
		.stack_start = (uintptr_t)stack,
		.stack_size = stack_size,
		.flags = fpu ? FIBER_FLAG_FPU : 0,
	};
}

static inline struct request create_request(int device, struct fiber_create *args)
{
	return (struct request){ device, FIBER_IOC_CREATE, (uintptr_t)args };
}

/* Creates a fiber on a new stack; gives its id. */
static inline uint64_t create(int device, void (*entry)(void *), uint64_t arg, size_t stack_size,
			      unsigned int fpu)
{
	void *stack = mmap(NULL, stack_size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct fiber_create args;

	if (stack == MAP_FAILED)
		fail("mmap");
	create_prepare(&args, entry, arg, stack, stack_size, fpu);
	if (ioctl(device, FIBER_IOC_CREATE, &args))
		fail("FIBER_IOC_CREATE");
	return args.id;
}

static inline struct request revert_request(int device)
{
	return (struct request){ device, FIBER_IOC_REVERT, 0 };
}

static inline struct request switch_request(int device, uint64_t id)
{
	return (struct request){ device, FIBER_IOC_SWITCH, id };
}

static inline struct request delete_request(int device, uint64_t id)
{
	return (struct request){ device, FIBER_IOC_DELETE, id };
}

static inline struct request version_request(int device)
{
	return (struct request){ device, FIBER_IOC_VERSION, 0 };
}

/* Positions of local storage. */
static inline struct request fls_alloc_request(int device, uint64_t *index)
{
	return (struct request){ device, FIBER_IOC_FLS_ALLOC, (uintptr_t)index };
}

static inline struct request fls_free_request(int device, uint64_t index)
{
	return (struct request){ device, FIBER_IOC_FLS_FREE, index };
}

static inline uint64_t fls_alloc(int device)
{
	uint64_t index = 0;
	struct request request = fls_alloc_request(device, &index);

	errno = (int)-send(&request);
	if (errno)
		fail("FIBER_IOC_FLS_ALLOC");
	return index;
}

static inline void fls_prepare(struct fiber_fls *args, uint64_t index, uint64_t value)
{
	*args = (struct fiber_fls){ .size = sizeof(*args), .index = index, .value = value };
}

static inline struct request fls_get_request(int device, struct fiber_fls *args)
{
	return (struct request){ device, FIBER_IOC_FLS_GET, (uintptr_t)args };
}

static inline struct request fls_set_request(int device, struct fiber_fls *args)
{
	return (struct request){ device, FIBER_IOC_FLS_SET, (uintptr_t)args };
}

/* Maps a status table for one fiber, as engine `mapped` does. */
static inline void table_map(int device)
{
	if (mmap(NULL, FIBER_TABLE_SIZE(1), PROT_READ | PROT_WRITE, MAP_SHARED, device, 0) ==
	    MAP_FAILED)
		fail("mmap of the table");
}

/* The calling thread runs fibers of the table under that number. */
static inline void attach(int device, unsigned long number)
{
	struct request request = { device, FIBER_IOC_ATTACH, number };

	errno = (int)-send(&request);
	if (errno)
		fail("FIBER_IOC_ATTACH");
}

#endif /* BENCH_REQUEST_H */
