/* SPDX-License-Identifier: MIT */
#ifndef KFIBER_WINNT_H
#define KFIBER_WINNT_H

#include "windef.h"

/* FLS indices are 1 to FLS_MAXIMUM_AVAILABLE - 1. */
#define FLS_MAXIMUM_AVAILABLE	4080

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* What FlsAlloc() takes: gets a value that is not NULL. */
typedef VOID (NTAPI *PFLS_CALLBACK_FUNCTION)(PVOID lpFlsData);

/*
 * The handle of the running fiber. As on Windows a thread that never was a fiber gets
 * 0x1E00, and one that was converted back gets NULL.
 */
PVOID GetCurrentFiber(VOID);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

/* The parameter that the running fiber was created or converted with. Crashes on a thread that is no fiber. */
#ifdef __cplusplus
static __inline__ PVOID GetFiberData(VOID)
{
	return *static_cast<PVOID *>(GetCurrentFiber());
}
#else
static __inline__ PVOID GetFiberData(VOID)
{
	return *(PVOID *)GetCurrentFiber();
}
#endif

#endif /* KFIBER_WINNT_H */
