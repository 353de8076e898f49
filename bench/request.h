/* SPDX-License-Identifier: MIT */
/* A request of the module without a library, since a switch changes more than ioctl() says. */
#ifndef BENCH_REQUEST_H
#define BENCH_REQUEST_H

#include <stdio.h>
#include <stdlib.h>

/* The kernel keeps rbx, rbp, rsp and r12 to r15 over a switch; the rest is lost. */
static inline long request(int fd, unsigned long command, unsigned long argument)
{
	register long rdi __asm__("rdi") = fd;
	register unsigned long rsi __asm__("rsi") = command;
	register unsigned long rdx __asm__("rdx") = argument;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result), "+r"(rdi), "+r"(rsi), "+r"(rdx)
			 : "0"(16L)
			 : "rcx", "r8", "r9", "r10", "r11", "memory");
	return result;
}

static inline _Noreturn void fail(const char *what)
{
	perror(what);
	exit(1);
}

#endif /* BENCH_REQUEST_H */
