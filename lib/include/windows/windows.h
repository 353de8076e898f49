/* SPDX-License-Identifier: MIT */
/*
 * The part of Windows' <windows.h> that programs with fibers use, for Linux. The
 * functions are in libfiber-windows, over libfiber: build with
 * `pkg-config --cflags --libs kfiber-windows`. docs/howto/windows.md is the porting guide.
 *
 * The functions behave as Microsoft documents them. They are thread-safe and, unlike
 * libfiber's, not async-signal-safe, except SwitchToFiber(), GetCurrentFiber(),
 * GetFiberData() and IsThreadAFiber().
 */
#ifndef KFIBER_WINDOWS_H
#define KFIBER_WINDOWS_H

#include "windef.h"
#include "winerror.h"
#include "winnt.h"
#include "errhandlingapi.h"
#include "fibersapi.h"
#include "winbase.h"

#endif /* KFIBER_WINDOWS_H */
