/* SPDX-License-Identifier: MIT */
/*
 * What a fiber keeps over a switch by engine `kernel`, and who keeps it:
 *
 *	rbx rbp r12-r15 rsp rip		the module
 *	MXCSR and x87 control bits	the module (all of the FPU under FIBER_FPU)
 *	signal mask			the module
 *	C++ exception state		exception.c
 *	rax				the request's result
 *	rdi rsi rdx rcx r8-r11		nobody: a call loses them anyway
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
 * struct control *switch_stacks(struct control *from, struct control *to)
 *
 * Saves what a called function preserves on the stack, its pointer in from->sp,
 * and goes on where `to` was left: there it returns `from`, whose owner has to
 * be released by who arrives. The word at control->sp is where to go on:
 *
 *	sp + 56 -> +--------------------+
 *	           | return address     |
 *	           | rbp rbx r12 .. r15 |
 *	           | MXCSR, x87 CW      |
 *	sp      -> +--------------------+
 *
 * Unwinding a suspended fiber begins at its return address with sp + 64.
 */
	.globl	switch_stacks
	.hidden	switch_stacks
	.type	switch_stacks, @function
	.p2align 4
switch_stacks:
	.cfi_startproc
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
	movq	%rsp, CONTROL_SP(%rdi)
	movq	CONTROL_SP(%rsi), %rsp
	movq	%rdi, %rax
	ldmxcsr	(%rsp)
	fldcw	4(%rsp)
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
	jmp	*%rcx
	.cfi_endproc
	.size	switch_stacks, . - switch_stacks

/*
 * Where a new fiber goes on: rbx is its function, r12 the argument, rax the
 * fiber that was left. Its stack pointer is where the function's return
 * address lies.
 */
	.globl	switch_start
	.hidden	switch_start
	.type	switch_start, @function
	.p2align 4
switch_start:
	.cfi_startproc
	.cfi_def_cfa rsp, 0
	.cfi_undefined rip
	movq	%rax, %rdi
	subq	$8, %rsp
	.cfi_adjust_cfa_offset 8
	call	user_arrived
	addq	$8, %rsp
	.cfi_adjust_cfa_offset -8
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
