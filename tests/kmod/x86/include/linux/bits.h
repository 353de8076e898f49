/* SPDX-License-Identifier: MIT */
#ifndef SHIM_LINUX_BITS_H
#define SHIM_LINUX_BITS_H

#define BIT_ULL(number) (1ULL << (number))

#endif /* SHIM_LINUX_BITS_H */
