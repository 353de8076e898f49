/* SPDX-License-Identifier: MIT */
/*
 * Windows' basic types, with Windows' sizes. DWORD and LONG have 32 bits, as on Windows;
 * `long` has 64 bits here, so they are made of `int`.
 */
#ifndef KFIBER_WINDEF_H
#define KFIBER_WINDEF_H

#include <stddef.h>
#include <stdint.h>

/* Calling conventions. x86-64 has one on Linux. */
#ifndef __stdcall
#define __stdcall
#endif
#ifndef __cdecl
#define __cdecl
#endif
#define WINAPI
#define CALLBACK
#define APIENTRY WINAPI
#define NTAPI
#define WINBASEAPI
#define DECLSPEC_IMPORT

#ifndef VOID
#define VOID void
#endif
#ifndef CONST
#define CONST const
#endif
#ifndef FALSE
#define FALSE 0
#endif
#ifndef TRUE
#define TRUE 1
#endif

typedef int BOOL, *PBOOL, *LPBOOL;
typedef unsigned char BYTE, *PBYTE, *LPBYTE, BOOLEAN, UCHAR;
typedef uint16_t WORD, *PWORD, *LPWORD, USHORT;
typedef uint32_t DWORD, *PDWORD, *LPDWORD, ULONG, *PULONG;
typedef int32_t LONG, *PLONG, *LPLONG;
typedef unsigned int UINT, *PUINT;
typedef int INT, *PINT;
typedef char CHAR, *PCHAR, *LPSTR, *PSTR;
typedef const char *LPCSTR, *PCSTR;
typedef int64_t LONGLONG, LONG64, INT64;
typedef uint64_t ULONGLONG, ULONG64, DWORD64, UINT64;
typedef intptr_t INT_PTR, LONG_PTR;
typedef uintptr_t UINT_PTR, ULONG_PTR, DWORD_PTR;
typedef size_t SIZE_T, *PSIZE_T;
typedef void *PVOID, *LPVOID, *HANDLE;
typedef const void *LPCVOID;

#endif /* KFIBER_WINDEF_H */
