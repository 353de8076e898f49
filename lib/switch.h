/* SPDX-License-Identifier: MIT */
/* What only assembly can say; see switch_x86_64.S. */
#ifndef LIBFIBER_SWITCH_H
#define LIBFIBER_SWITCH_H

#include <unwind.h>

/*
 * ioctl(2) without errno: 0 or more, or a negative error number. A real
 * function, because the request may come back on another thread and with the
 * preserved registers alone: to its caller all others are lost by the calling
 * convention.
 */
long switch_ioctl(int file, unsigned long number, unsigned long argument);

struct control;

/*
 * Leaves one fiber for another, both owned by the caller. Returns when somebody
 * switches back: the fiber that was left for this one, to be released.
 */
struct control *switch_stacks(struct control *from, struct control *to);

/* Where a new fiber goes on. */
extern const char switch_start[];

/* The bytes that switch_stacks() leaves at a suspended fiber's stack pointer, words. */
enum switch_frame {
	FRAME_CONTROL_WORDS,	/* MXCSR, then the x87 control word */
	FRAME_R15, FRAME_R14, FRAME_R13, FRAME_R12, FRAME_RBX, FRAME_RBP,
	FRAME_RIP,
	FRAME_WORDS,
};

/*
 * The outermost frame of each created fiber, one byte before the address that
 * fiber functions return to: SWITCH_RETURN goes to the word where their first
 * stack pointer points.
 */
extern const char switch_bottom[];
#define SWITCH_RETURN ((uintptr_t)switch_bottom + 1)

/* Called by the bottom frame after a fiber's function returned: end.c. */
_Noreturn void end_returned(void);

/* Called by unwinders for the bottom frame: end.c. */
_Unwind_Reason_Code end_unwound(int version, _Unwind_Action actions,
				_Unwind_Exception_Class exception_class,
				struct _Unwind_Exception *exception,
				struct _Unwind_Context *context);

#endif /* LIBFIBER_SWITCH_H */
