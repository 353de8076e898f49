/* SPDX-License-Identifier: MIT */
/*
 * How a thread that is a fiber ends, and a registry of what layers of the library
 * do then. Its root fiber ends with it, because that fiber's stack does; a created
 * fiber that it runs is reset to its entry point by the engine once the thread is gone.
 *
 *	by returning or pthread_exit() on its root fiber	reverted
 *	by returning from a created fiber's function		thread_exit_returned()
 *	by pthread_exit() or cancellation on a created fiber	thread_exit_unwound()
 *	otherwise (the exit system call, a process's death)	the engine notices
 *
 * The C library ends a thread on the stack that it began on. So before it
 * goes there the thread's root fiber is taken back, wherever it is parked, and
 * if another thread runs it, this thread waits until it does not any more.
 */
#ifndef LIBFIBER_THREAD_EXIT_H
#define LIBFIBER_THREAD_EXIT_H

/* The layers, in the order in which they are called. */
enum thread_exit_layer {
	THREAD_EXIT_FIBER,
	THREAD_EXIT_OVERFLOW,
	THREAD_EXIT_LAYERS,
};

/* What a layer does; NULL: nothing. */
struct thread_exit {
	/* A created fiber's function has returned, on that fiber's stack. May not come back. */
	void (*returned)(void);
	/*
	 * The last that the thread does on a created fiber, on that fiber's stack and with
	 * all signals blocked for good. It may be called again on the way out.
	 */
	void (*leave)(void);
	/* The thread ends, fiber or not, on the stack that it began on. */
	void (*end)(void);
};

/*
 * From now on the layer's operations are called when threads end, the calling one
 * included. ENOMEM, EAGAIN.
 */
int thread_exit_watch(enum thread_exit_layer layer, const struct thread_exit *operations);

/* Calls leave() of all layers, for an end that nothing has announced. */
void thread_exit_leave(void);

#endif /* LIBFIBER_THREAD_EXIT_H */
