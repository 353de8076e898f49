/* SPDX-License-Identifier: MIT */
/* The error codes that functions of this library set, and some that programs compare with. */
#ifndef KFIBER_WINERROR_H
#define KFIBER_WINERROR_H

#define NO_ERROR			0L
#define ERROR_SUCCESS			0L
#define ERROR_ACCESS_DENIED		5L
#define ERROR_INVALID_HANDLE		6L
#define ERROR_NOT_ENOUGH_MEMORY		8L
#define ERROR_OUTOFMEMORY		14L
#define ERROR_NOT_SUPPORTED		50L
#define ERROR_INVALID_PARAMETER		87L
#define ERROR_CALL_NOT_IMPLEMENTED	120L
#define ERROR_NO_MORE_ITEMS		259L
#define ERROR_ALREADY_FIBER		1280L
#define ERROR_ALREADY_THREAD		1281L
#define ERROR_NOT_ENOUGH_QUOTA		1816L

#endif /* KFIBER_WINERROR_H */
