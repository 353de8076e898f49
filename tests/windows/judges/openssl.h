/* SPDX-License-Identifier: MIT */
/*
 * Included before everything else: OpenSSL takes its backend for Windows' fibers where _WIN32 is
 * defined, which it is here for that backend's header alone.
 */
#include <openssl/async.h>

#include "crypto/async.h"
#include "internal/cryptlib.h"

#define _WIN32
#define _WIN32_WINNT 0x600
#include "arch/async_win.h"
#undef _WIN32
