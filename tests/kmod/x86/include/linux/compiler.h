/* SPDX-License-Identifier: MIT */
#ifndef SHIM_LINUX_COMPILER_H
#define SHIM_LINUX_COMPILER_H

#define __aligned(bytes) __attribute__((aligned(bytes)))

#endif /* SHIM_LINUX_COMPILER_H */
