/* SPDX-License-Identifier: MIT */
/* In user mode: the types that kmod/x86/xstate.c takes from the kernel. */
#ifndef SHIM_LINUX_TYPES_H
#define SHIM_LINUX_TYPES_H

#include_next <linux/types.h>
#include <stdbool.h>
#include <stddef.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;

#endif /* SHIM_LINUX_TYPES_H */
