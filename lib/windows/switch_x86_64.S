/* SPDX-License-Identifier: MIT */
/*
 * VOID SwitchToFiber(LPVOID fiber)
 *
 * It leaves by a jump, as fiber_switch() does: on the other side of a switch the processor
 * expects another caller's return address, and a `ret` would be predicted wrongly each time.
 */
#include "handle.h"

	.text
	.globl	SwitchToFiber
	.type	SwitchToFiber, @function
	.p2align 5
SwitchToFiber:
	.cfi_startproc
	pushq	%rdi
	.cfi_adjust_cfa_offset 8
	movq	HANDLE_ID(%rdi), %rdi
	call	*fiber_switch@GOTPCREL(%rip)
	popq	%rdi
	.cfi_adjust_cfa_offset -8
	testl	%eax, %eax
	jne	1f
	.cfi_remember_state
	popq	%rcx
	.cfi_adjust_cfa_offset -8
	.cfi_register rip, rcx
	jmp	*%rcx
	.cfi_restore_state
1:	movl	%eax, %esi
	jmp	switch_failed
	.cfi_endproc
	.size	SwitchToFiber, . - SwitchToFiber

	.section .note.GNU-stack, "", @progbits
