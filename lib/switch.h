/* SPDX-License-Identifier: MIT */
/* What only assembly can say; see switch_x86_64.S. */
#ifndef LIBFIBER_SWITCH_H
#define LIBFIBER_SWITCH_H

#ifndef __ASSEMBLER__

#include <stdbool.h>
#include <unwind.h>

#include "include/fiber.h"

struct fiber_cb;

/*
 * ioctl(2) without errno: 0 or more, or a negative error number. A real
 * function, because the request may come back on another thread and with the
 * preserved registers alone: to its caller all others are lost by the calling
 * convention.
 */
long switch_ioctl(int file, unsigned long number, unsigned long argument);

/*
 * The rest of fiber_switch() by the calling thread, which is busy: past what exception.c
 * does, and when it has taken `to`. They return when somebody switches back.
 */
int switch_user(fiber_id_t id);
int switch_taken(struct fiber_cb *to, fiber_id_t id);

/* What a switch does besides. */
#define SWITCH_VALUE	(1u << 0)	/* a value goes along */
#define SWITCH_YIELDS	(1u << 1)	/* it is the other one's resumer no more than before */
#define SWITCH_ENDS	(1u << 2)	/* the calling created fiber ends, and is freed after it */
#define SWITCH_UNWINDS	(1u << 3)	/* the other one unwinds its stack and ends */

/*
 * Around a switch by the calling fiber, if it is one, that has more to do in C when the fiber is
 * resumed: before it is unwound, if that is what it is resumed for.
 */
bool switch_mark(struct fiber_cb *cb);
void switch_unmark(struct fiber_cb *cb, bool before);

/* By way of C, around which the exception state is kept. */
int switch_detour(fiber_id_t id, void *value, unsigned int kind);

/* By the owner of a fiber that is to unwind its stack and was left by the short way, or is new. */
void unwind_prepare(struct fiber_cb *cb);

/* Unwinds the calling fiber's stack, and ends it. */
_Noreturn void unwind_here(void);

/* Ends the calling created fiber, on its last frames. Returns an error of fiber_switch(). */
int switch_end(fiber_id_t id);

/* Called in place of what they continue: switch.c and user/switch.c. */
int exception_switch(fiber_id_t id);
int user_switch(fiber_id_t id, void *value, unsigned int kind);
int user_nested(fiber_id_t id);
int user_refused(fiber_id_t id);
int user_taken(struct fiber_cb *to, fiber_id_t id);
void user_release(struct fiber_cb *cb);

/* With engine `kernel`: where a created fiber begins, and what each one that is resumed calls; otel.h. */
extern const char switch_begin_kernel[];
struct fiber_cb *switch_arrived(void *otel);
struct fiber_cb *switch_began(void);
void switch_note(struct fiber_cb *to, fiber_id_t from, void *value, unsigned int kind);

/*
 * The first frame of a fiber that begins. Its words, from fiber_cb.sp up, are r15, r14, r13, r12
 * (the argument), rbx (the function), rbp and where to go on.
 */
void switch_begin(struct fiber_cb *cb);
#define FRAME_R12 3
#define FRAME_RBX 4
#define FRAME_IP 6
extern const char switch_start[];

/*
 * The outermost frame of each created fiber, one byte before the address that
 * fiber functions return to: SWITCH_RETURN goes to the word where their first
 * stack pointer points.
 */
extern const char switch_bottom[];
#define SWITCH_RETURN ((uintptr_t)switch_bottom + 1)

/*
 * Goes on as if the calling fiber's function had returned to the bottom frame; `top` is its
 * stack's end. Nothing is unwound.
 */
_Noreturn void switch_leave(char *top);

/* Called by the bottom frame after a fiber's function returned: thread_exit.c. */
_Noreturn void thread_exit_returned(void);

/* Called by unwinders for the bottom frame: thread_exit.c. */
_Unwind_Reason_Code thread_exit_unwound(int version, _Unwind_Action actions,
				_Unwind_Exception_Class exception_class,
				struct _Unwind_Exception *exception,
				struct _Unwind_Context *context);

#endif /* !__ASSEMBLER__ */

#endif /* LIBFIBER_SWITCH_H */
