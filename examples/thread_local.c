/* SPDX-License-Identifier: MIT */
/* Thread-local variables in a fiber that migrates: the compiler must not keep their address. */
#include <windows.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

struct per_thread {
	LPVOID root;
	int counter;
};

static _Thread_local struct per_thread variables;

__attribute__((noinline)) static struct per_thread *per_thread(void)
{
	struct per_thread *address = &variables;

	__asm__ volatile("" : "+r"(address)); /* so that the compiler does not merge the calls */
	return address;
}

static VOID CALLBACK count(LPVOID unused)
{
	(void)unused;
	for (;;) {
		per_thread()->counter++; /* of the thread that runs the fiber now */
		SwitchToFiber(per_thread()->root);
	}
}

static void *run(void *fiber)
{
	per_thread()->root = ConvertThreadToFiber(NULL);
	if (!per_thread()->root) {
		fprintf(stderr, "error %u\n", (unsigned int)GetLastError());
		exit(EXIT_FAILURE);
	}
	SwitchToFiber(fiber);
	printf("%d\n", per_thread()->counter);
	return NULL;
}

int main(void)
{
	LPVOID fiber = CreateFiber(0, count, NULL);
	pthread_t thread;

	if (!fiber || pthread_create(&thread, NULL, run, fiber))
		return EXIT_FAILURE;
	pthread_join(thread, NULL);
	run(fiber);
	DeleteFiber(fiber);
	return EXIT_SUCCESS;
}
