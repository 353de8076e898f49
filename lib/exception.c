/* SPDX-License-Identifier: MIT */
#include <dlfcn.h>
#include <link.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "exception.h"
#include "thread.h"

/*
 * Of the C++ ABI. Allocates on its first call on a thread. Weak: it is not there if the
 * runtime was not loaded with this library.
 */
extern struct exceptions *__cxa_get_globals(void) __attribute__((weak));

/* Once it is known. */
static struct exceptions *(*_Atomic get)(void);

/* Ends with the name of the first object that is a C++ runtime. */
static int find_runtime(struct dl_phdr_info *object, size_t size, void *name)
{
	const char *file = strrchr(object->dlpi_name, '/');

	(void)size;
	file = file ? file + 1 : object->dlpi_name;
	if (strncmp(file, "libstdc++.so", 12) && strncmp(file, "libc++abi.so", 12))
		return 0;
	*(const char **)name = object->dlpi_name;
	return 1;
}

/* NULL: there is none. It stays loaded from now on. */
static struct exceptions *(*runtime(void))(void)
{
	const char *name;
	void *object;

	if (atomic_load(&get))
		return get;
	if (__cxa_get_globals) {
		get = __cxa_get_globals;
	} else if (dl_iterate_phdr(find_runtime, &name)) {
		object = dlopen(name, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
		if (object)
			get = (struct exceptions *(*)(void))dlsym(object, "__cxa_get_globals");
	}
	return get;
}

static uint64_t generation(void)
{
	const uint64_t *vector;

	__asm__ volatile("movq %%fs:8, %0" : "=r"(vector));
	return *(const volatile uint64_t *)vector;
}

/* By a busy thread. */
static void attach(struct thread *self)
{
	struct exceptions *(*found)(void) = runtime();

	self->exceptions = found ? found() : &self->none;
	self->generation = generation();
}

void exception_attach(void)
{
	uint64_t busy = thread_busy();

	attach(thread_self());
	thread_idle(busy);
}

struct exceptions exception_leave(void)
{
	struct thread *self = thread_self();
	struct exceptions ours;

	if (self->generation != generation())
		attach(self);
	ours = *self->exceptions;
	*self->exceptions = (struct exceptions) { 0, 0 };
	return ours;
}

void exception_arrive(struct exceptions ours)
{
	/* Until here a handler may move the fiber, which has none, to another thread. */
	uint64_t busy = thread_busy();

	*thread_self()->exceptions = ours;
	thread_idle(busy);
}
