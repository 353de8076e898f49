/* SPDX-License-Identifier: MIT */
#include "asm.h"

#define EBUSY 16

	.text

/* Onto the stack: what a called function preserves. */
	.macro	save
	pushq	%rbp
	pushq	%rbx
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	subq	$8, %rsp
	stmxcsr	(%rsp)
	fnstcw	4(%rsp)
	.endm

/* And back; ends in a jump, since the processor would expect a return to another call. */
	.macro	restore
	ldmxcsr	(%rsp)
	fldcw	4(%rsp)
	addq	$8, %rsp
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbx
	popq	%rbp
	popq	%rcx
	xorl	%eax, %eax
	jmp	*%rcx
	.endm

	.globl	asm_switch_full
	.type	asm_switch_full, @function
	.p2align 6
asm_switch_full:
	movq	%fs:asm_thread@tpoff, %rcx
	xorl	%eax, %eax
	lock cmpxchgq	%rcx, ASM_OWNER(%rsi)
	jne	1f
	save
	rdtsc
	shlq	$32, %rdx
	orq	%rdx, %rax
	movq	%rax, %rcx
	subq	%fs:asm_thread@tpoff + 8, %rcx
	movq	%rax, %fs:asm_thread@tpoff + 8
	addq	%rcx, ASM_RUN_TIME(%rdi)
	incq	ASM_ACTIVATIONS(%rsi)
	movq	%rsp, ASM_SP(%rdi)
	movq	ASM_SP(%rsi), %rsp
	/* Saved, so it is free: stores are not reordered. */
	movq	$0, ASM_OWNER(%rdi)
	restore
1:	movl	$EBUSY, %eax
	ret
	.size	asm_switch_full, . - asm_switch_full

	.globl	asm_switch_plain
	.type	asm_switch_plain, @function
	.p2align 6
asm_switch_plain:
	save
	movq	%rsp, ASM_SP(%rdi)
	movq	ASM_SP(%rsi), %rsp
	restore
	.size	asm_switch_plain, . - asm_switch_plain

	.section .note.GNU-stack, "", @progbits
