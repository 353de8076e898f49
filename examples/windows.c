/* SPDX-License-Identifier: MIT */
/*
 * A pipeline of Windows' fibers: numbers, squares, and a sum of them, each stage a fiber that
 * switches to the next. Every stage counts its steps in fiber-local storage, and the callback
 * of the index prints the count when the fiber is deleted.
 *
 * On Windows:  x86_64-w64-mingw32-gcc windows.c -o windows.exe
 * On Linux:    cc windows.c $(pkg-config --cflags --libs kfiber-windows) -o windows
 */
#ifdef _WIN32
#define _WIN32_WINNT 0x0602
#endif
#include <windows.h>

#include <stdio.h>
#include <stdlib.h>

struct stage {
	const char *name;
	LPVOID fiber, next;
	/* What the stage before passes on. */
	int value;
};

struct count {
	const char *name;
	int steps;
};

static struct stage numbers = { "numbers", NULL, NULL, 0 };
static struct stage squares = { "squares", NULL, NULL, 0 };
static struct stage sum = { "sum", NULL, NULL, 0 };
static DWORD steps = FLS_OUT_OF_INDEXES;

static void fail(const char *what)
{
	fprintf(stderr, "%s: error %u\n", what, (unsigned int)GetLastError());
	exit(1);
}

static VOID WINAPI print_count(PVOID value)
{
	struct count *count = value;

	printf("%s took %d steps\n", count->name, count->steps);
	free(count);
}

/* The running fiber's own counter, made at its first step. */
static void step(void)
{
	struct stage *stage = GetFiberData();
	struct count *count = FlsGetValue(steps);

	if (!count) {
		count = calloc(1, sizeof(*count));
		if (!count || !FlsSetValue(steps, count))
			fail("FlsSetValue");
		count->name = stage->name;
	}
	count->steps++;
}

/* Does not return: a fiber that does ends its thread. */
static VOID CALLBACK produce(LPVOID parameter)
{
	struct stage *stage = parameter;
	int number;

	for (number = 1;; number++) {
		step();
		squares.value = number;
		SwitchToFiber(stage->next);
	}
}

static VOID CALLBACK square(LPVOID parameter)
{
	struct stage *stage = parameter;

	for (;;) {
		step();
		sum.value = stage->value * stage->value;
		SwitchToFiber(stage->next);
	}
}

static VOID CALLBACK add(LPVOID parameter)
{
	struct stage *stage = parameter;
	int total = 0;

	for (;;) {
		step();
		total += stage->value;
		printf("%d\n", total);
		SwitchToFiber(stage->next);
	}
}

int main(void)
{
	LPVOID home;
	int i;

	steps = FlsAlloc(print_count);
	if (steps == FLS_OUT_OF_INDEXES)
		fail("FlsAlloc");
	home = ConvertThreadToFiberEx(NULL, FIBER_FLAG_FLOAT_SWITCH);
	if (!home)
		fail("ConvertThreadToFiberEx");
	numbers.fiber = CreateFiber(0, produce, &numbers);
	squares.fiber = CreateFiber(0, square, &squares);
	sum.fiber = CreateFiberEx(0, 1 << 18, FIBER_FLAG_FLOAT_SWITCH, add, &sum);
	if (!numbers.fiber || !squares.fiber || !sum.fiber)
		fail("CreateFiber");
	numbers.next = squares.fiber;
	squares.next = sum.fiber;
	sum.next = home;

	for (i = 0; i < 5; i++)
		SwitchToFiber(numbers.fiber);

	DeleteFiber(sum.fiber);
	DeleteFiber(squares.fiber);
	DeleteFiber(numbers.fiber);
	if (!FlsFree(steps))
		fail("FlsFree");
	if (!ConvertFiberToThread())
		fail("ConvertFiberToThread");
	printf("a thread again\n");
	return 0;
}
