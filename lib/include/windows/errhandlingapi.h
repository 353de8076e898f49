/* SPDX-License-Identifier: MIT */
#ifndef KFIBER_ERRHANDLINGAPI_H
#define KFIBER_ERRHANDLINGAPI_H

#include "windef.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* The calling thread's last error. A fiber does not carry it to another thread. */
DWORD WINAPI GetLastError(VOID);
VOID WINAPI SetLastError(DWORD dwErrCode);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif /* KFIBER_ERRHANDLINGAPI_H */
