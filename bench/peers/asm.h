/* SPDX-License-Identifier: MIT */
/* A switch written by hand, for asm.c and asm_switch.S. */
#ifndef BENCH_ASM_H
#define BENCH_ASM_H

#define ASM_OWNER	0
#define ASM_SP		8
#define ASM_ACTIVATIONS	16
#define ASM_RUN_TIME	24

#ifndef __ASSEMBLER__

#include <stdint.h>

/* 0 is nobody's. */
struct peer_fiber {
	uint64_t owner;
	void *sp;
	uint64_t activations;
	uint64_t run_time;
	char *stack;
} __attribute__((aligned(64)));

/* What a thread knows of itself. */
struct asm_thread {
	uint64_t number;
	/* Cycle counter when the current run began. */
	uint64_t since;
};

extern _Thread_local struct asm_thread asm_thread;

/*
 * asm_switch_full() does what libfiber's does: it takes `to`, EBUSY if somebody has it, books the
 * run that ends, counts, and frees `from` when it is saved. asm_switch_plain() does none of that.
 * Both keep what a called function preserves, control words included.
 */
int asm_switch_full(struct peer_fiber *from, struct peer_fiber *to);
int asm_switch_plain(struct peer_fiber *from, struct peer_fiber *to);

#endif /* !__ASSEMBLER__ */

#endif /* BENCH_ASM_H */
