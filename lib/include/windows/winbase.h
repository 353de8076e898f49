/* SPDX-License-Identifier: MIT */
/*
 * Fibers. A handle is the address of a structure that begins as on Windows: the parameter,
 * at offset 0x10 the end of the stack (its highest address), at 0x18 its limit.
 */
#ifndef KFIBER_WINBASE_H
#define KFIBER_WINBASE_H

#include "windef.h"
#include "winnt.h"
#include "errhandlingapi.h"
#include "fibersapi.h"

/*
 * The fiber keeps its whole FPU, SSE and AVX state with libfiber's engine `kernel`. The
 * other engines switch by a call, which preserves what the calling convention says.
 */
#define FIBER_FLAG_FLOAT_SWITCH	0x1

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* The thread that runs a fiber ends when this function returns. */
typedef VOID (WINAPI *PFIBER_START_ROUTINE)(LPVOID lpFiberParameter);
typedef PFIBER_START_ROUTINE LPFIBER_START_ROUTINE;

/*
 * The calling thread becomes a fiber. NULL and ERROR_ALREADY_FIBER: it is one.
 * NULL and ERROR_INVALID_PARAMETER: unknown flags. NULL and ERROR_NOT_SUPPORTED: libfiber has
 * no engine (see fiber_convert()). NULL and ERROR_NOT_ENOUGH_MEMORY or ERROR_NOT_ENOUGH_QUOTA.
 */
LPVOID WINAPI ConvertThreadToFiber(LPVOID lpParameter);
LPVOID WINAPI ConvertThreadToFiberEx(LPVOID lpParameter, DWORD dwFlags);

/*
 * The calling thread is a thread again; its FLS values stay. FALSE and ERROR_ALREADY_THREAD: it
 * is no fiber. FALSE and ERROR_INVALID_PARAMETER: it runs a fiber that is not its own.
 */
BOOL WINAPI ConvertFiberToThread(VOID);

/*
 * A new fiber; the calling thread need not be one. `dwStackReserveSize` is the size of the
 * stack in bytes, rounded up to 64 KiB; 0: 1 MiB. If the size to commit is larger, it is rounded
 * up to 1 MiB and counts instead; otherwise it is ignored, since the kernel commits
 * stacks as they are used. CreateFiber() takes a size to commit. Errors: as ConvertThreadToFiberEx(),
 * and ERROR_INVALID_PARAMETER if `lpStartAddress` is NULL.
 */
LPVOID WINAPI CreateFiber(SIZE_T dwStackSize, LPFIBER_START_ROUTINE lpStartAddress, LPVOID lpParameter);
LPVOID WINAPI CreateFiberEx(SIZE_T dwStackCommitSize, SIZE_T dwStackReserveSize, DWORD dwFlags,
			    LPFIBER_START_ROUTINE lpStartAddress, LPVOID lpParameter);

/*
 * Frees a fiber, on whose stack nothing is unwound; its FLS callbacks run on the caller. If
 * it is the calling fiber, the thread ends. A fiber that another thread runs is waited
 * for, for 10 seconds; then the process is aborted.
 */
VOID WINAPI DeleteFiber(LPVOID lpFiber);

/*
 * Runs that fiber on the calling thread, which must be a fiber. A fiber that another thread runs is
 * waited for, for 10 seconds. Then, or if the switch is impossible, the
 * process is aborted with a line on standard error, where Windows is undefined.
 */
VOID WINAPI SwitchToFiber(LPVOID lpFiber);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif /* KFIBER_WINBASE_H */
