/* SPDX-License-Identifier: MIT */
/* Runs Wine's fiber test: its harness, and what it uses of Windows besides fibers. */
#include "wine/test.h"

#include <dlfcn.h>
#include <pthread.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

void test_main(void);

static int arguments;
static char **argument;
static int checks, failures, skips;
static bool exiting;

int winetest_get_mainargs(char ***argv)
{
	*argv = argument;
	return arguments;
}

void test_ok(int line, int good, const char *format, ...)
{
	va_list list;

	checks++;
	if (good)
		return;
	failures++;
	va_start(list, format);
	printf("line %d: ", line);
	vprintf(format, list);
	va_end(list);
}

void test_skip(int line, const char *format, ...)
{
	va_list list;

	skips++;
	va_start(list, format);
	printf("skipped at line %d: ", line);
	vprintf(format, list);
	va_end(list);
}

HMODULE GetModuleHandleA(const char *name)
{
	return (HMODULE)name;
}

/* kernel32 is libfiber-windows; ntdll has nothing. */
void *GetProcAddress(HMODULE module, const char *name)
{
	return strcmp(module, "kernel32.dll") ? NULL : dlsym(RTLD_DEFAULT, name);
}

TEB *NtCurrentTeb(void)
{
	static PEB peb;
	static TEB teb = { .Peb = &peb };

	teb.places[1] = &teb;
	return &teb;
}

unsigned int fls_is_there(void)
{
	DWORD before = GetLastError(), after;

	FlsGetValue(1);
	after = GetLastError();
	SetLastError(before);
	return after == ERROR_SUCCESS;
}

HANDLE GetProcessHeap(void)
{
	return NULL;
}

/* Only for ntdll's memory. */
SIZE_T HeapSize(HANDLE heap, DWORD flags, const void *memory)
{
	(void)heap;
	(void)flags;
	(void)memory;
	abort();
}

HANDLE CreateEventA(void *security, BOOL manual, BOOL initial, const char *name)
{
	(void)security;
	(void)manual;
	(void)initial;
	(void)name;
	abort();
}

BOOL SetEvent(HANDLE event)
{
	(void)event;
	abort();
}

struct thread {
	LPTHREAD_START_ROUTINE start;
	void *parameter;
};

static void *begin(void *pointer)
{
	struct thread thread = *(struct thread *)pointer;

	free(pointer);
	thread.start(thread.parameter);
	return NULL;
}

HANDLE CreateThread(void *security, SIZE_T stack, LPTHREAD_START_ROUTINE start, void *parameter,
		    DWORD flags, DWORD *id)
{
	struct thread *thread = malloc(sizeof(*thread));
	pthread_t handle;

	(void)security;
	(void)stack;
	(void)flags;
	(void)id;
	if (!thread)
		return NULL;
	*thread = (struct thread) { start, parameter };
	if (pthread_create(&handle, NULL, begin, thread))
		return NULL;
	pthread_detach(handle);
	return thread;
}

/* A handle is the child's pid. */
BOOL CreateProcessA(const char *path, char *command, void *process, void *thread, BOOL inherit,
		    DWORD flags, void *environment, const char *folder, STARTUPINFOA *startup,
		    PROCESS_INFORMATION *information)
{
	char *words[8] = { NULL }, *word = strtok(command, " ");
	unsigned int i;
	pid_t child;

	(void)path;
	(void)process;
	(void)thread;
	(void)inherit;
	(void)flags;
	(void)environment;
	(void)folder;
	(void)startup;
	for (i = 0; word && i < 7; i++, word = strtok(NULL, " "))
		words[i] = word;
	fflush(stdout);
	if (posix_spawn(&child, words[0], NULL, NULL, words, environ))
		return FALSE;
	information->hProcess = (HANDLE)(intptr_t)child;
	information->hThread = NULL;
	return TRUE;
}

/* Of a child, whose status counts too. It gets longer than asked for: the machine may be busy. */
DWORD WaitForSingleObject(HANDLE handle, DWORD ms)
{
	int status;

	(void)ms;
	alarm(50);
	if (waitpid((pid_t)(intptr_t)handle, &status, 0) < 0)
		return 1;
	alarm(0);
	return status ? 2 : WAIT_OBJECT_0;
}

BOOL CloseHandle(HANDLE handle)
{
	(void)handle;
	return TRUE;
}

void Sleep(DWORD ms)
{
	struct timespec time = { ms / 1000, ms % 1000 * 1000000L };

	nanosleep(&time, NULL);
}

void ExitProcess(UINT status)
{
	exiting = true;
	exit((int)status);
}

BOOLEAN RtlDllShutdownInProgress(void)
{
	return exiting;
}

int main(int argc, char **argv)
{
	arguments = argc;
	argument = argv;
	test_main();
	printf("%d checks, %d failed, %d skipped\n", checks, failures, skips);
	return failures ? 1 : 0;
}
