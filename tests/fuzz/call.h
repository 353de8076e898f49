/* SPDX-License-Identifier: MIT */
/* System calls, not by libc: errno is a thread's, and who returns may be on another one. */
#ifndef CALL_H
#define CALL_H

#include <sys/syscall.h>

/* Registers a called function may change are lost at a switch. */
#define LOST "rcx", "r11", "cc", "memory", \
	"xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", \
	"xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"

static inline __attribute__((always_inline)) long
call(long number, unsigned long a, unsigned long b, unsigned long c, unsigned long d)
{
	register unsigned long rdi __asm__("rdi") = a;
	register unsigned long rsi __asm__("rsi") = b;
	register unsigned long rdx __asm__("rdx") = c;
	register unsigned long r10 __asm__("r10") = d;
	register unsigned long r8 __asm__("r8") = 0;
	register unsigned long r9 __asm__("r9") = 0;

	__asm__ volatile("syscall"
			 : "+a" (number), "+r" (rdi), "+r" (rsi), "+r" (rdx), "+r" (r10),
			   "+r" (r8), "+r" (r9)
			 :
			 : LOST);
	return number;
}

#define CALL(number, a, b, c, d) \
	call(number, (unsigned long)(a), (unsigned long)(b), (unsigned long)(c), (unsigned long)(d))

#endif /* CALL_H */
