/* SPDX-License-Identifier: MIT */
/*
 * Fiber-local storage. An index belongs to the process, its values to the fibers; a
 * thread that is no fiber has values as well, which it keeps when it is converted.
 * A callback gets each value that is not NULL: in FlsFree(), when its fiber is deleted, when the
 * thread that runs its fiber ends, and when that thread ends the process by exit(). Callbacks
 * run without a lock of this library and may use all of it.
 */
#ifndef KFIBER_FIBERSAPI_H
#define KFIBER_FIBERSAPI_H

#include "windef.h"
#include "winnt.h"

#ifndef FLS_OUT_OF_INDEXES
#define FLS_OUT_OF_INDEXES 0xFFFFFFFFu
#endif

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/*
 * The lowest free index, whose value is NULL everywhere. FLS_OUT_OF_INDEXES and
 * ERROR_NOT_ENOUGH_MEMORY: there is none. `lpCallback` may be NULL.
 */
DWORD WINAPI FlsAlloc(PFLS_CALLBACK_FUNCTION lpCallback);

/*
 * Calls back for each fiber and thread that has a value. FALSE and ERROR_INVALID_PARAMETER:
 * the index is not allocated.
 */
BOOL WINAPI FlsFree(DWORD dwFlsIndex);

/*
 * The calling fiber's value. The last error becomes ERROR_SUCCESS, or ERROR_INVALID_PARAMETER
 * if the index is 0 or out of range, or if the fiber neither set a value nor allocated an index
 * yet. FlsGetValue2() leaves the last error alone.
 */
PVOID WINAPI FlsGetValue(DWORD dwFlsIndex);
PVOID WINAPI FlsGetValue2(DWORD dwFlsIndex);

/*
 * FALSE and ERROR_INVALID_PARAMETER: the index is 0 or out of range. FALSE and
 * ERROR_NOT_ENOUGH_MEMORY.
 */
BOOL WINAPI FlsSetValue(DWORD dwFlsIndex, PVOID lpFlsData);

/* Whether the calling thread is a fiber. */
BOOL WINAPI IsThreadAFiber(VOID);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif /* KFIBER_FIBERSAPI_H */
