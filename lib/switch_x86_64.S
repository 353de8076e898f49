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
