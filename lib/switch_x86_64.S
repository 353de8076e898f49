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
 *	                | guard gap      |
 *
 * This file carries no note that says "made for shadow stacks" on purpose: the
 * program then runs without them, where fibers work, and not with them, where
 * fiber_convert() must refuse.
 */
#include "fiber_cb.h"
#include "otel.h"
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
 * nothing. Loses rax, rdx, and rcx to the thread's area.
 */
	.macro	read_clock
	movq	THREAD_AREA(%r11), %rcx
.Lclock\@:
	movq	AREA_OFF(%rcx), %r10
	rdtsc
	cmpq	AREA_OFF(%rcx), %r10
	jne	.Lclock\@
	shlq	$32, %rdx
	leaq	(%rax,%rdx), %r8
	.endm

/*
 * The rest of a switch in user mode, whose target has a control block: `way` is plain, or otel
 * where OpenTelemetry's pointer goes along. rdx is the target's slot.
 */
	.macro	switch_rest way
	shlq	$CB_SHIFT, %rdx
	leaq	(%rdx,%rdx,2), %r9
	addq	fiber_cbs(%rip), %rdx
	addq	table+TABLE_SLOTS(%rip), %r9
	/* What will be needed. */
	prefetchw	SLOT_ACTIVATIONS(%r9)
	movq	CB_SP(%rdx), %rax
	prefetcht0	(%rax)
	prefetcht0	64(%rax)

	/* Free, then this thread's: sole.h. A sole thread meets no other living thread's root fiber. */
	movq	%rdi, AREA_TARGET(%rcx)
	movq	%rdi, %rax
	movq	THREAD_TAKES(%r11), %rcx
	orq	$OWNER_MASK, %rax
	addq	%rax, %rcx
	cmpl	$0, sole(%rip)
	je	.Lrivals_\way
	cmpq	%rax, CB_OWNER(%rdx)
	jne	user_refused
	movq	%rcx, CB_OWNER(%rdx)
.Lowned_\way:
	cmpq	%rdx, CB_SP(%rdx)
	je	.Lbegin_\way
.Lbegun_\way:
	movq	THREAD_ID(%r11), %rax
	movq	%rax, CB_RESUMER(%rdx)

	/* rax is the id of the fiber left. */
.Ltaken_\way:
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
	stmxcsr	-8(%rsp)
	fnstcw	-4(%rsp)

	/* Books the run that ends. */
	movq	THREAD_AREA(%r11), %rbx
	movq	THREAD_SLOT(%r11), %rbp
	movq	%r8, %rcx
	movq	%r8, SLOT_LAST_SWITCH(%rbp)
	subq	AREA_SINCE(%rbx), %rcx
	addq	AREA_OFF_SINCE(%rbx), %rcx
	subq	%r10, %rcx
	cmpq	%rcx, SLOT_LONGEST_RUN(%rbp)
	jb	.Llongest_\way
.Lrun_\way:
	addq	%rcx, SLOT_RUN_TIME(%rbp)
	movq	48(%rsp), %r12
	leaq	56(%rsp), %rcx
	movq	%r12, SLOT_IP(%rbp)
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
	.ifc	\way, otel
	/* What the thread's pointer says is the fiber's: otel.h. */
	movq	THREAD_OTEL(%r11), %r13
	movq	otel_pointers(%rip), %r14
	movl	%eax, %r15d
	movl	%edi, %ecx
	andl	$OWNER_MASK, %r15d
	andl	$OWNER_MASK, %ecx
	movq	(%r13), %r12
	movq	%r12, (%r14,%r15,8)
	movq	(%r14,%rcx,8), %r12
	testq	%r12, %r12
	jz	.Lrecord
.Lpointed:
	movq	%r12, (%r13)
	.endif
	movq	%rdi, THREAD_ID(%r11)
	movq	%rdx, THREAD_CURRENT(%r11)
	movq	%r9, THREAD_SLOT(%r11)
	orq	$OWNER_FREE, %rax

	movq	%rsp, CB_SP(%rsi)
	movq	CB_SP(%rdx), %rsp

	/* On the other side: the one left is saved, and free. */
	cmpw	$0, CB_ROOT_OF(%rsi)
	je	1f
	movzwl	CB_ROOT_OF(%rsi), %ecx
	cmpl	%ecx, THREAD_NUMBER(%r11)
	jne	.Lrelease_rarely_\way
1:	movq	%rax, CB_OWNER(%rsi)
.Lreleased_\way:
	.cfi_remember_state
	ldmxcsr	-8(%rsp)
	fldcw	-4(%rsp)
	incq	THREAD_BUSY(%r11)
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
	/* Or it is negative: clocks of two CPUs differ a little. */
.Llongest_\way:
	testq	%rcx, %rcx
	js	1f
	movq	%rcx, SLOT_LONGEST_RUN(%rbp)
	jmp	.Lrun_\way
1:	xorl	%ecx, %ecx
	jmp	.Lrun_\way
	/* Somebody else's root fiber: that thread may wait for it. All that is needed later is on stacks. */
.Lrelease_rarely_\way:
	movq	%rsi, %rdi
	movq	%r11, %rbx
	/* A fiber that begins has another alignment. */
	movq	%rsp, %rbp
	.cfi_def_cfa_register rbp
	subq	$8, %rsp			/* the control words */
	andq	$-16, %rsp
	call	user_release
	movq	%rbp, %rsp
	.cfi_def_cfa_register rsp
	movq	%rbx, %r11
	jmp	.Lreleased_\way

	.cfi_restore_state
	/* Other fiber threads may take it at the same time. */
.Lrivals_\way:
	lock cmpxchgq	%rcx, CB_OWNER(%rdx)
	jne	user_refused
	cmpw	$0, CB_ROOT_OF(%rdx)
	je	.Lowned_\way
	movzwl	CB_ROOT_OF(%rdx), %eax
	cmpl	%eax, THREAD_NUMBER(%r11)
	je	.Lowned_\way
	movq	%rdi, %rsi
	movq	%rdx, %rdi
	jmp	user_taken
.Lbegin_\way:
	xchgq	%rdx, %rdi
	call	switch_begin
	xchgq	%rdx, %rdi
	jmp	.Lbegun_\way
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
 * A suspended fiber's stack, fiber_cb.sp pointing at its end:
 *
 *	sp + 48 -> +--------------------+
 *	           | return address     |
 *	           | rbp rbx r12 .. r15 |
 *	sp      -> +--------------------+
 *	           | MXCSR, x87 CW      |
 *	sp - 8  -> +--------------------+
 *
 * What lies below is in the red zone, which signals leave alone. Unwinding it begins at
 * the return address with sp + 56, which slot.ip and slot.sp show.
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
	movq	thread@gottpoff(%rip), %r11
	subq	$1, %fs:THREAD_BUSY(%r11)
	jnc	.Lnested
	addq	%fs:0, %r11

	/* C++ exceptions being handled are rare, and so are objects loaded since: exception.h. */
	movq	%fs:8, %rax
	movq	THREAD_EXCEPTIONS(%r11), %rcx
	movq	(%rax), %rax
	subq	THREAD_GENERATION(%r11), %rax
	orq	(%rcx), %rax
	orq	8(%rcx), %rax
	jnz	exception_switch

	/* A fiber, on its own stack, which no signal's alternate one is. */
.Lplain:
	movq	THREAD_CURRENT(%r11), %rsi
	movq	%rsp, %rax
	movl	CB_PAGES(%rsi), %ecx
	subq	CB_STACK(%rsi), %rax
	shlq	$12, %rcx
	cmpq	%rcx, %rax
	jae	user_refused

	read_clock

	/* Its control block and slot. A slot is three times as long as the control words. */
	movl	%edi, %edx
	andl	$OWNER_MASK, %edx
	cmpl	fiber_cb_direct(%rip), %edx
	jae	.Lnot_direct
	switch_rest plain
.Lnested:
	incq	%fs:THREAD_BUSY(%r11)
	jmp	user_nested
.Lnot_direct:
	cmpl	fiber_cb_otel(%rip), %edx
	jae	user_refused
	cmpq	$0, THREAD_OTEL(%r11)
	je	user_refused
	switch_rest otel
	/* The fiber's own record, if it has one. */
.Lrecord:
	movq	otel_records(%rip), %r12
	testq	%r12, %r12
	jz	.Lpointed
	shlq	$OTEL_SHIFT, %rcx
	addq	%rcx, %r12
	jmp	.Lpointed

/* int switch_user(fiber_id_t id): by a busy thread without exception state. */
switch_user:
	movq	thread@gottpoff(%rip), %r11
	addq	%fs:0, %r11
	jmp	.Lplain

/* int switch_taken(struct fiber_cb *to, fiber_id_t id): the rest of a switch, `to` being taken. */
switch_taken:
	movq	%rdi, %r9
	movq	%rsi, %rdi
	movq	thread@gottpoff(%rip), %r11
	addq	%fs:0, %r11
	read_clock
	movq	%r9, %rdx
	subq	fiber_cbs(%rip), %r9
	leaq	(%r9,%r9,2), %r9
	addq	table+TABLE_SLOTS(%rip), %r9
	movq	THREAD_CURRENT(%r11), %rsi
	movq	THREAD_ID(%r11), %rax
	jmp	.Ltaken_plain
	.cfi_endproc
	.size	fiber_switch, . - fiber_switch

/*
 * void switch_begin(struct fiber_cb *cb)
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
	movl	CB_PAGES(%rdi), %eax
	leaq	switch_bottom+1(%rip), %rcx	/* SWITCH_RETURN */
	shlq	$12, %rax
	addq	CB_STACK(%rdi), %rax
	movq	%rcx, -8(%rax)
	leaq	switch_start+1(%rip), %rcx
	movq	%rcx, -16(%rax)
	movq	CB_ENTRY(%rdi), %rcx
	movq	$0, -24(%rax)			/* rbp */
	movq	%rcx, -32(%rax)			/* rbx */
	movq	CB_ARG(%rdi), %rcx
	movq	%rcx, -40(%rax)			/* r12 */
	movq	$0, -48(%rax)
	movq	$0, -56(%rax)
	movq	$0, -64(%rax)
	movzwl	CB_MXCSR(%rdi), %ecx
	movl	%ecx, -72(%rax)
	movzwl	CB_X87(%rdi), %ecx
	movl	%ecx, -68(%rax)
	subq	$64, %rax
	movq	%rax, CB_SP(%rdi)
	ret
	.cfi_endproc
	.size	switch_begin, . - switch_begin

/*
 * Where a new fiber is resumed, one byte after the beginning, as switch_bottom: rbx is its
 * function, r12 the argument. Its stack pointer is where the function's return address lies.
 */
	.globl	switch_start
	.hidden	switch_start
	.type	switch_start, @function
	.p2align 4
switch_start:
	.cfi_startproc
	nop
	movq	%r12, %rdi
	xorl	%ebp, %ebp
	jmp	*%rbx
	.cfi_endproc
	.size	switch_start, . - switch_start

/*
 * Where a new fiber of engine `kernel` begins, on a thread that is busy. Its stack
 * pointer is as above.
 */
	.globl	switch_begin_kernel
	.hidden	switch_begin_kernel
	.type	switch_begin_kernel, @function
	.p2align 4
switch_begin_kernel:
	.cfi_startproc
	.cfi_def_cfa rsp, 0
	.cfi_undefined rip
	subq	$8, %rsp
	.cfi_def_cfa_offset 8
	call	switch_began
	movzwl	CB_MXCSR(%rax), %ecx
	movl	%ecx, (%rsp)
	ldmxcsr	(%rsp)
	fldcw	CB_X87(%rax)
	addq	$8, %rsp
	.cfi_def_cfa_offset 0
	movq	CB_ARG(%rax), %rdi
	xorl	%ebp, %ebp
	jmp	*CB_ENTRY(%rax)
	.cfi_endproc
	.size	switch_begin_kernel, . - switch_begin_kernel

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
	.cfi_personality 0x1b, thread_exit_unwound	/* pc-relative, 4 bytes */
	.cfi_def_cfa rsp, 0
	.cfi_undefined rip
	nop
	/*
	 * rsp is just above the word that led here. It must stay as it is: when the
	 * thread has ended, the fiber starts again and returns by it again.
	 */
	subq	$16, %rsp
	.cfi_def_cfa_offset 16
	call	thread_exit_returned
	ud2
	.cfi_endproc
	.size	switch_bottom, . - switch_bottom

/* void switch_leave(char *top) */
	.globl	switch_leave
	.hidden	switch_leave
	.type	switch_leave, @function
	.p2align 4
switch_leave:
	.cfi_startproc
	movq	%rdi, %rsp
	.cfi_undefined rip
	jmp	switch_bottom+1
	.cfi_endproc
	.size	switch_leave, . - switch_leave

	.section .note.GNU-stack, "", @progbits
