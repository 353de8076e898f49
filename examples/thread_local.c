/* SPDX-License-Identifier: MIT */
/* A thread-local counter in fibers that migrate: the compiler must not keep its address. */
#include <windows.h>

#include <stdio.h>
#include <stdlib.h>

static _Thread_local int counter;

__attribute__((noinline)) static int *counter_now(void)
{
	int *address = &counter;

	__asm__ volatile("" : "+r"(address)); /* so that the compiler does not merge the calls */
	return address;
}

static VOID CALLBACK count(LPVOID root)
{
	++*counter_now();
	SwitchToFiber(root);
	++*counter_now(); /* the counter of the thread that runs the fiber now */
	SwitchToFiber(root);
}

int main(void)
{
	LPVOID root = ConvertThreadToFiber(NULL);
	LPVOID fiber = root ? CreateFiber(0, count, root) : NULL;

	if (!fiber) {
		fprintf(stderr, "error %u\n", (unsigned int)GetLastError());
		return EXIT_FAILURE;
	}
	SwitchToFiber(fiber);
	SwitchToFiber(fiber);
	printf("%d\n", *counter_now());
	DeleteFiber(fiber);
	return EXIT_SUCCESS;
}
