/* SPDX-License-Identifier: MIT */
/* What only assembly can say; see switch_x86_64.S. */
#ifndef LIBFIBER_SWITCH_H
#define LIBFIBER_SWITCH_H

/* Of the structures in uapi/fiber.h, asserted in user.c. */
#define SLOT_ACTIVATIONS	8
#define SLOT_RUN_TIME		16
#define SLOT_LONGEST_RUN	24
#define SLOT_LAST_SWITCH	32
#define SLOT_SP			40
#define SLOT_IP			48
#define SLOT_STATE		56	/* and area, in one word */
#define SLOT_SIZE		192
#define STATE_SUSPENDED		2
#define AREA_FIBER		8
#define AREA_SINCE		16
#define AREA_OFF		24
#define AREA_OFF_SINCE		32

#ifndef __ASSEMBLER__

#include <unwind.h>

#include "include/fiber.h"

struct control;

/*
 * ioctl(2) without errno: 0 or more, or a negative error number. A real
 * function, because the request may come back on another thread and with the
 * preserved registers alone: to its caller all others are lost by the calling
 * convention.
 */
long switch_ioctl(int file, unsigned long number, unsigned long argument);

/*
 * fiber_switch(), past what exception.c does; and the rest of a switch by the calling
 * thread, which is busy and has taken `to`. They return when somebody switches back.
 */
int switch_user(fiber_id_t id);
int switch_taken(struct control *to, fiber_id_t id);

/* Called in place of what they continue: exception.c and user.c. */
int exception_switch(fiber_id_t id);
int user_switch(fiber_id_t id);
int user_nested(fiber_id_t id);
int user_refused(fiber_id_t id);
int user_taken(struct control *to, fiber_id_t id);
void user_release(struct control *control);

/*
 * The first frame of a fiber that begins. Its words, from control.sp up, are MXCSR and
 * the x87 control word, r15, r14, r13, r12 (the argument), rbx (the function), rbp
 * and where to go on.
 */
void switch_begin(struct control *control);
#define FRAME_R12 4
#define FRAME_RBX 5

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

#endif /* !__ASSEMBLER__ */

#endif /* LIBFIBER_SWITCH_H */
