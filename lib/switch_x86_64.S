/* SPDX-License-Identifier: MIT */
/*
 * What a fiber keeps over a switch, and who keeps it:
 *
 *				engine `kernel`		engines `mapped`, `local`
 *	rbx rbp r12-r15 rsp rip	the module		this file, on its stack
 *	MXCSR, x87 control word	the module		this file, on its stack
 *	FPU, SSE, AVX state	the module, if FIBER_FPU	nobody: a call loses it
 *	signal mask		the module		nobody: it is the thread's
 *	C++ exception state	exception.c		exception.c
 *	rax			the result		the result
 *	rdi rsi rdx rcx r8-r11	nobody: a call loses them anyway
 *	fs, gs, errno, thread-locals	nobody: they are the thread's
 *
 * A created fiber's stack, when its function starts:
 *
 *	start + size -> +----------------+
 *	                | (alignment)    |
 *	                | SWITCH_RETURN  | <- rsp
 *	                | the function's |
 *	                | frames         |
 *	start        -> +----------------+
 *	                | guard page     |
 *
 * This file carries no note that says "made for shadow stacks" on purpose: the
 * program then runs without them, where fibers work, and not with them, where
 * fiber_convert() must refuse.
 */
#include "control.h"
#include "switch.h"
#include "table.h"
#include "thread.h"

	.text

/* long switch_ioctl(int file, unsigned long number, unsigned long argument) */
	.globl	switch_ioctl
	.hidden	switch_ioctl
	.type	switch_ioctl, @function
	.p2align 4
switch_ioctl:
	.cfi_startproc
	movl	$16, %eax		/* __NR_ioctl; the arguments are in place */
	syscall
	ret
	.cfi_endproc
	.size	switch_ioctl, . - switch_ioctl

/*
 * int fiber_switch(fiber_id_t id)
 *
 * The whole of a switch in user mode, but for what is rare: then it jumps to C,
 * before it has touched the stack. `busy` (thread.h) is tested and raised relative
 * to the thread pointer, since up to there a signal handler may move the fiber
 * to another thread; from there to its lowering the thread is the same, also over
 * the swap, and so are these:
 *
 *	r11 the thread		r10 its area
 *	rsi, r8 the fiber left and its slot	rdx, r9 the one taken and its slot
 *
 * A suspended fiber's stack, control.sp pointing at its end:
 *
 *	sp + 56 -> +--------------------+
 *	           | return address     |
 *	           | rbp rbx r12 .. r15 |
 *	           | MXCSR, x87 CW      |
 *	sp      -> +--------------------+
 *
 * Unwinding it begins at the return address with sp + 64, which slot.ip and slot.sp
 * show.
 */
	.globl	fiber_switch
	.type	fiber_switch, @function
	.globl	switch_user
	.hidden	switch_user
	.globl	switch_taken
	.hidden	switch_taken
	.p2align 6
fiber_switch:
	.cfi_startproc
	/* C++ exceptions being handled are rare. */
	movq	exception_offset(%rip), %rax
	movq	%fs:(%rax), %rcx
	orq	%fs:8(%rax), %rcx
	jnz	exception_switch

/* int switch_user(fiber_id_t id): the same for a thread without exception state. */
switch_user:
	movq	thread@gottpoff(%rip), %r11
	cmpq	$0, %fs:THREAD_BUSY(%r11)
	jne	user_nested
	movq	$1, %fs:THREAD_BUSY(%r11)
	addq	%fs:0, %r11

	/* A fiber, on its own stack, which no signal's alternate one is. */
	movq	THREAD_CURRENT(%r11), %rsi
	testq	%rsi, %rsi
	jz	user_refused
	movq	%rsp, %rax
	movl	CONTROL_PAGES(%rsi), %ecx
	subq	CONTROL_STACK(%rsi), %rax
	shlq	$12, %rcx
	cmpq	%rcx, %rax
	jae	user_refused

	/* Free, then this thread's. A slot is three times as long as the control words. */
	movl	%edi, %edx
	movq	%rdi, %rax
	movq	THREAD_TAKES(%r11), %rcx
	andl	$OWNER_MASK, %edx
	orq	$OWNER_MASK, %rax
	shlq	$CONTROL_SHIFT, %rdx
	addq	%rax, %rcx
	leaq	(%rdx,%rdx,2), %r9
	addq	controls(%rip), %rdx
	addq	table+TABLE_SLOTS(%rip), %r9
	/* What will be needed, while it waits for the owner word. */
	prefetchw	SLOT_ACTIVATIONS(%r9)
	movq	CONTROL_SP(%rdx), %r10
	prefetcht0	(%r10)
	lock cmpxchgq	%rcx, CONTROL_OWNER(%rdx)
	jne	user_refused

	/* Left before, and nobody's own one but maybe this thread's. */
	movl	CONTROL_HOME(%rdx), %eax
	testl	%eax, %eax
	jz	1f
	cmpl	%eax, THREAD_NUMBER(%r11)
	jne	.Ltaken_rarely
1:	cmpq	%rdx, CONTROL_SP(%rdx)
	je	.Ltaken_rarely

.Ltaken:
	.cfi_remember_state
	pushq	%rbp
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset rbp, 0
	pushq	%rbx
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset rbx, 0
	pushq	%r12
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset r12, 0
	pushq	%r13
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset r13, 0
	pushq	%r14
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset r14, 0
	pushq	%r15
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset r15, 0
	subq	$8, %rsp
	.cfi_adjust_cfa_offset 8
	stmxcsr	(%rsp)
	fnstcw	4(%rsp)

	movq	%rdx, %rbx
	movq	THREAD_AREA(%r11), %r10
	movq	THREAD_SLOT(%r11), %r8
	/* The clock at a moment that the thread was on the CPU: rcx that time, rax the clock. */
.Lclock:
	movq	AREA_OFF(%r10), %rcx
	rdtsc
	cmpq	AREA_OFF(%r10), %rcx
	jne	.Lclock
	shlq	$32, %rdx
	orq	%rdx, %rax

	movq	%rbx, %rdx

	/* Books the run that ends. */
	movq	%rax, %rbx
	subq	AREA_SINCE(%r10), %rbx
	addq	AREA_OFF_SINCE(%r10), %rbx
	subq	%rcx, %rbx
	js	.Lnegative
.Lrun:
	addq	%rbx, SLOT_RUN_TIME(%r8)
	cmpq	%rbx, SLOT_LONGEST_RUN(%r8)
	jb	.Llongest
.Lshown:
	movq	56(%rsp), %rbx
	movq	%rax, SLOT_LAST_SWITCH(%r8)
	movq	%rbx, SLOT_IP(%r8)
	leaq	64(%rsp), %rbx
	movq	%rbx, SLOT_SP(%r8)
	movq	$STATE_SUSPENDED, SLOT_STATE(%r8)

	/* The next one begins. */
	movq	THREAD_RUNS(%r11), %rbx
	incq	SLOT_ACTIVATIONS(%r9)
	movq	%rax, SLOT_LAST_SWITCH(%r9)
	movq	%rbx, SLOT_STATE(%r9)
	movq	%rax, AREA_SINCE(%r10)
	movq	%rcx, AREA_OFF_SINCE(%r10)
	movq	%rdi, AREA_FIBER(%r10)
	movq	THREAD_ID(%r11), %rax
	movq	%rdi, THREAD_ID(%r11)
	movq	%rdx, THREAD_CURRENT(%r11)
	movq	%r9, THREAD_SLOT(%r11)
	orq	$OWNER_FREE, %rax

	movq	%rsp, CONTROL_SP(%rsi)
	movq	CONTROL_SP(%rdx), %rsp

	/* On the other side: the one left is saved, and free. */
	movl	CONTROL_HOME(%rsi), %ecx
	testl	%ecx, %ecx
	jz	1f
	cmpl	%ecx, THREAD_NUMBER(%r11)
	jne	.Lrelease_rarely
1:	movq	%rax, CONTROL_OWNER(%rsi)
.Lreleased:
	.cfi_remember_state
	ldmxcsr	(%rsp)
	fldcw	4(%rsp)
	decq	THREAD_BUSY(%r11)
	addq	$8, %rsp
	.cfi_adjust_cfa_offset -8
	popq	%r15
	.cfi_adjust_cfa_offset -8
	.cfi_restore r15
	popq	%r14
	.cfi_adjust_cfa_offset -8
	.cfi_restore r14
	popq	%r13
	.cfi_adjust_cfa_offset -8
	.cfi_restore r13
	popq	%r12
	.cfi_adjust_cfa_offset -8
	.cfi_restore r12
	popq	%rbx
	.cfi_adjust_cfa_offset -8
	.cfi_restore rbx
	popq	%rbp
	.cfi_adjust_cfa_offset -8
	.cfi_restore rbp
	/* Not ret: the processor would expect the address of another call. */
	popq	%rcx
	.cfi_adjust_cfa_offset -8
	.cfi_register rip, rcx
	xorl	%eax, %eax
	jmp	*%rcx

	.cfi_restore_state
	/* Clocks of two CPUs differ a little. */
.Lnegative:
	xorl	%ebx, %ebx
	jmp	.Lrun
.Llongest:
	movq	%rbx, SLOT_LONGEST_RUN(%r8)
	jmp	.Lshown
	/* Somebody else's own one: that thread may wait for it. All that is needed later is on stacks. */
.Lrelease_rarely:
	movq	%rsi, %rdi
	movq	%r11, %rbx
	call	user_release
	movq	%rbx, %r11
	jmp	.Lreleased

	.cfi_restore_state
.Ltaken_rarely:
	movq	%rdi, %rsi
	movq	%rdx, %rdi
	jmp	user_taken

/* int switch_taken(struct control *to, fiber_id_t id): the rest of a switch, `to` being taken. */
switch_taken:
	movq	%rdi, %rdx
	movq	%rsi, %rdi
	movq	thread@gottpoff(%rip), %r11
	addq	%fs:0, %r11
	movq	THREAD_CURRENT(%r11), %rsi
	movq	%rdx, %r9
	subq	controls(%rip), %r9
	leaq	(%r9,%r9,2), %r9
	addq	table+TABLE_SLOTS(%rip), %r9
	jmp	.Ltaken
	.cfi_endproc
	.size	fiber_switch, . - fiber_switch

/*
 * Where a new fiber goes on: rbx is its function, r12 the argument. Its stack
 * pointer is where the function's return address lies.
 */
	.globl	switch_start
	.hidden	switch_start
	.type	switch_start, @function
	.p2align 4
switch_start:
	.cfi_startproc
	.cfi_def_cfa rsp, 0
	.cfi_undefined rip
	movq	%r12, %rdi
	xorl	%ebp, %ebp
	jmp	*%rbx
	.cfi_endproc
	.size	switch_start, . - switch_start

/*
 * Where the function of a fiber returns to. Nobody called it, so there is no
 * caller to find: backtraces and unwinding end here. Unwinders look for the
 * instruction before a return address, hence the nop in front.
 */
	.globl	switch_bottom
	.hidden	switch_bottom
	.type	switch_bottom, @function
	.p2align 4
switch_bottom:
	.cfi_startproc
	.cfi_personality 0x1b, end_unwound	/* pc-relative, 4 bytes */
	.cfi_def_cfa rsp, 0
	.cfi_undefined rip
	nop
	/*
	 * rsp is just above the word that led here. It must stay as it is: when the
	 * thread has ended, the fiber starts anew and returns by it again.
	 */
	subq	$16, %rsp
	.cfi_def_cfa_offset 16
	call	end_returned
	ud2
	.cfi_endproc
	.size	switch_bottom, . - switch_bottom

	.section .note.GNU-stack, "", @progbits
