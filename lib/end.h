/* SPDX-License-Identifier: MIT */
/*
 * How a thread that is a fiber ends. Its own fiber ends with it, because that
 * fiber's stack does; a created fiber that it runs is set back to its entry
 * point by the engine once the thread is gone.
 *
 *	by returning or pthread_exit() on its own fiber		reverted
 *	by returning from a created fiber's function		end_returned()
 *	by pthread_exit() or cancellation on a created fiber	end_unwound()
 *	otherwise (the exit system call, a process's death)	the engine notices
 *
 * The C library ends a thread on the stack that it began on. So before it
 * goes there the thread's own fiber is taken back, wherever it is parked, and
 * if another thread runs it, this thread waits until it does not any more.
 */
#ifndef LIBFIBER_END_H
#define LIBFIBER_END_H

/* Takes notice of the end of the calling thread, fiber or not. ENOMEM, EAGAIN. */
int end_watch(void);

#endif /* LIBFIBER_END_H */
