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
 * The cycle counter at a moment that the thread was on the CPU, and its time off it
 * until then. Early in a switch, because the instruction takes long and waits for
 * nothing. Loses rax, rcx, rdx.
 */
	.macro	read_clock
	movq	THREAD_AREA(%r11), %rcx
.Lclock\@:
	movq	AREA_OFF(%rcx), %r10
	rdtsc
	cmpq	AREA_OFF(%rcx), %r10
	jne	.Lclock\@
	shlq	$32, %rdx
	orq	%rdx, %rax
	movq	%rax, %r8
	.endm

/*
 * int fiber_switch(fiber_id_t id)
 *
 * The whole of a switch in user mode, but for what is rare: then it jumps to C,
 * before it has touched the stack. `busy` (thread.h) is tested and raised relative
 * to the thread pointer, since up to there a signal handler may move the fiber
 * to another thread; from there to its lowering the thread is the same, also over
 * the swap, and so are these:
 *
 *	r11 the thread
 *	r8, r10 the cycle counter, and the thread's time off the CPU at that moment
 *	rsi the fiber left, rdx the one taken, r9 its slot
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

	read_clock

	/* Free, then this thread's. A slot is three times as long as the control words. */
	movl	%edi, %edx
	andl	$OWNER_MASK, %edx
	shlq	$CONTROL_SHIFT, %rdx
	leaq	(%rdx,%rdx,2), %r9
	addq	controls(%rip), %rdx
	addq	table+TABLE_SLOTS(%rip), %r9
	/* What will be needed, while it waits for the owner word. */
	prefetchw	SLOT_ACTIVATIONS(%r9)
	movq	CONTROL_SP(%rdx), %rcx
	prefetcht0	(%rcx)
	prefetcht0	64(%rcx)
	movq	%rdi, %rax
	movq	THREAD_TAKES(%r11), %rcx
	orq	$OWNER_MASK, %rax
	addq	%rax, %rcx
	lock cmpxchgq	%rcx, CONTROL_OWNER(%rdx)
	jne	user_refused

	/* Left before, and nobody's own one but maybe this thread's. */
	movl	CONTROL_HOME(%rdx), %eax
	testl	%eax, %eax
	jz	1f
	cmpl	%eax, THREAD_NUMBER(%r11)
	jne	.Ltaken_rarely
1:	cmpq	%rdx, CONTROL_SP(%rdx)
	je	.Lbegin

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

	/* Books the run that ends. */
	movq	THREAD_AREA(%r11), %rbx
	movq	THREAD_SLOT(%r11), %rbp
	movq	%r8, %rcx
	subq	AREA_SINCE(%rbx), %rcx
	addq	AREA_OFF_SINCE(%rbx), %rcx
	subq	%r10, %rcx
	js	.Lnegative
.Lrun:
	addq	%rcx, SLOT_RUN_TIME(%rbp)
	cmpq	%rcx, SLOT_LONGEST_RUN(%rbp)
	jb	.Llongest
.Lshown:
	movq	56(%rsp), %rax
	leaq	64(%rsp), %rcx
	movq	%r8, SLOT_LAST_SWITCH(%rbp)
	movq	%rax, SLOT_IP(%rbp)
	movq	%rcx, SLOT_SP(%rbp)
	movq	$STATE_SUSPENDED, SLOT_STATE(%rbp)

	/* The next one begins. */
	movq	THREAD_RUNS(%r11), %rcx
	incq	SLOT_ACTIVATIONS(%r9)
	movq	%r8, SLOT_LAST_SWITCH(%r9)
	movq	%rcx, SLOT_STATE(%r9)
	movq	%r8, AREA_SINCE(%rbx)
	movq	%r10, AREA_OFF_SINCE(%rbx)
	movq	%rdi, AREA_FIBER(%rbx)
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
	xorl	%ecx, %ecx
	jmp	.Lrun
.Llongest:
	movq	%rcx, SLOT_LONGEST_RUN(%rbp)
	jmp	.Lshown
	/* Somebody else's own one: that thread may wait for it. All that is needed later is on stacks. */
.Lrelease_rarely:
	movq	%rsi, %rdi
	movq	%r11, %rbx
	/* A fiber that begins has another alignment. */
	movq	%rsp, %rbp
	.cfi_def_cfa_register rbp
	andq	$-16, %rsp
	call	user_release
	movq	%rbp, %rsp
	.cfi_def_cfa_register rsp
	movq	%rbx, %r11
	jmp	.Lreleased

	.cfi_restore_state
.Lbegin:
	xchgq	%rdx, %rdi
	call	switch_begin
	xchgq	%rdx, %rdi
	jmp	.Ltaken
.Ltaken_rarely:
	movq	%rdi, %rsi
	movq	%rdx, %rdi
	jmp	user_taken

/* int switch_taken(struct control *to, fiber_id_t id): the rest of a switch, `to` being taken. */
switch_taken:
	movq	%rdi, %r9
	movq	%rsi, %rdi
	movq	thread@gottpoff(%rip), %r11
	addq	%fs:0, %r11
	read_clock
	movq	%r9, %rdx
	subq	controls(%rip), %r9
	leaq	(%r9,%r9,2), %r9
	addq	table+TABLE_SLOTS(%rip), %r9
	movq	THREAD_CURRENT(%r11), %rsi
	jmp	.Ltaken
	.cfi_endproc
	.size	fiber_switch, . - fiber_switch

/*
 * void switch_begin(struct control *control)
 *
 * Makes the first frame of a fiber that begins, as if it had been left before its
 * function's first instruction. Loses rax and rcx alone.
 */
	.globl	switch_begin
	.hidden	switch_begin
	.type	switch_begin, @function
	.p2align 4
switch_begin:
	.cfi_startproc
	movl	CONTROL_PAGES(%rdi), %eax
	leaq	switch_bottom+1(%rip), %rcx	/* SWITCH_RETURN */
	shlq	$12, %rax
	addq	CONTROL_STACK(%rdi), %rax
	movq	%rcx, -8(%rax)
	leaq	switch_start(%rip), %rcx
	movq	%rcx, -16(%rax)
	movq	CONTROL_ENTRY(%rdi), %rcx
	movq	$0, -24(%rax)			/* rbp */
	movq	%rcx, -32(%rax)			/* rbx */
	movq	CONTROL_ARG(%rdi), %rcx
	movq	%rcx, -40(%rax)			/* r12 */
	movq	$0, -48(%rax)
	movq	$0, -56(%rax)
	movq	$0, -64(%rax)
	movabsq	$0x37f00001f80, %rcx
	movq	%rcx, -72(%rax)
	subq	$72, %rax
	movq	%rax, CONTROL_SP(%rdi)
	ret
	.cfi_endproc
	.size	switch_begin, . - switch_begin

/*
 * Where a new fiber goes on: rbx is its function, r12 the argument. Its stack
 * pointer is where the function's return address lies.
 */
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
