/* SPDX-License-Identifier: MIT */
/*
 * What Wine's dlls/kernel32/tests/fiber.c needs besides <windows.h>. The functions of ntdll are
 * absent, as on a Windows without them, which that test allows for; the structures of
 * their memory are here for what is compiled and then not run.
 */
#ifndef JUDGES_WINTERNL_H
#define JUDGES_WINTERNL_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>

typedef LONG NTSTATUS;
typedef void *HMODULE;
typedef DWORD (WINAPI *LPTHREAD_START_ROUTINE)(LPVOID);

typedef struct _LIST_ENTRY {
	struct _LIST_ENTRY *Flink, *Blink;
} LIST_ENTRY;

typedef struct {
	void *unknown;
	PFLS_CALLBACK_FUNCTION callback;
} FLS_CALLBACK;

typedef struct {
	ULONG count;
	FLS_CALLBACK callbacks[1];
} FLS_INFO_CHUNK;

typedef struct {
	FLS_INFO_CHUNK *fls_callback_chunks[8];
	LIST_ENTRY fls_list_head;
	ULONG fls_high_index;
} GLOBAL_FLS_DATA;

typedef struct {
	LIST_ENTRY fls_list_entry;
	void **fls_data_chunks[8];
} TEB_FLS_DATA;

typedef struct {
	void *FlsCallback;
	LIST_ENTRY FlsListHead;
	void *FlsBitmap;
	ULONG FlsHighIndex;
} PEB;

/* Whether the running fiber has FLS data, asked by FlsGetValue(): an index of the places below. */
unsigned int fls_is_there(void);
#define FlsSlots places[fls_is_there()]

typedef struct {
	void *places[2];
	PEB *Peb;
} TEB;

TEB *NtCurrentTeb(void);

#define CONTAINING_RECORD(address, type, field) \
	((type *)((char *)(address) - offsetof(type, field)))
#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

#define MAX_PATH	260
#define INFINITE	0xffffffffu
#define WAIT_OBJECT_0	0

typedef struct {
	DWORD cb;
} STARTUPINFOA;

typedef struct {
	HANDLE hProcess, hThread;
} PROCESS_INFORMATION;

HMODULE GetModuleHandleA(const char *name);
void *GetProcAddress(HMODULE module, const char *name);
HANDLE GetProcessHeap(void);
SIZE_T HeapSize(HANDLE heap, DWORD flags, const void *memory);
HANDLE CreateEventA(void *security, BOOL manual, BOOL initial, const char *name);
BOOL SetEvent(HANDLE event);
HANDLE CreateThread(void *security, SIZE_T stack, LPTHREAD_START_ROUTINE start, void *parameter,
		    DWORD flags, DWORD *id);
BOOL CreateProcessA(const char *path, char *command, void *process, void *thread, BOOL inherit,
		    DWORD flags, void *environment, const char *folder, STARTUPINFOA *startup,
		    PROCESS_INFORMATION *information);
DWORD WaitForSingleObject(HANDLE handle, DWORD ms);
BOOL CloseHandle(HANDLE handle);
void Sleep(DWORD ms);
_Noreturn void ExitProcess(UINT status);
BOOLEAN RtlDllShutdownInProgress(void);

#endif /* JUDGES_WINTERNL_H */
