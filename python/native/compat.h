/* SPDX-License-Identifier: MIT */
/*
 * The interpreter's private headers, and names for what differs from one version to the next. Comes
 * before any other header: only files that know private layouts include it.
 */
#ifndef KFIBER_COMPAT_H
#define KFIBER_COMPAT_H

#define Py_BUILD_CORE 1
#include "native.h"

#if PY_VERSION_HEX >= 0x030e0000
#include <pycore_interpframe.h>
#include <pycore_tstate.h>
#elif PY_VERSION_HEX >= 0x030b0000
#include <pycore_frame.h>
#endif
#if PY_VERSION_HEX >= 0x030d0000
#include <pycore_runtime.h>
#endif

#include <frameobject.h>

#if PY_VERSION_HEX < 0x030a0000 || PY_VERSION_HEX >= 0x03100000
#error "kfiber knows CPython 3.10 to 3.15"
#endif

#if PY_VERSION_HEX < 0x030d0000
#define PyThreadState_GetUnchecked _PyThreadState_UncheckedGet
#endif

#define V310 (PY_VERSION_HEX < 0x030b0000)
#define V311 (PY_VERSION_HEX >= 0x030b0000 && PY_VERSION_HEX < 0x030c0000)
#define V312 (PY_VERSION_HEX >= 0x030c0000 && PY_VERSION_HEX < 0x030d0000)
/* And newer. */
#define V313 (PY_VERSION_HEX >= 0x030d0000)
#define V314 (PY_VERSION_HEX >= 0x030e0000)
#define V315 (PY_VERSION_HEX >= 0x030f0000)

/*
 * From 3.13 on these bits of a state's eval_breaker are its events; the others are the version of what
 * tracers are told.
 */
#define EVENTS ((uintptr_t)0xff)

#if V313 && !V314
#define C_RECURSION_LIMIT Py_C_RECURSION_LIMIT
#endif

/* --- frames -------------------------------------------------------------- */

#if V310
#define FRAME			PyFrameObject
#define FRAME_TOP(state)	((state)->frame)
#define FRAME_PREVIOUS(frame)	((frame)->f_back)
/* NULL: it is no generator's. */
#define FRAME_GENERATOR(frame)	((frame)->f_gen)
#else
#define FRAME			_PyInterpreterFrame
#define FRAME_PREVIOUS(frame)	((frame)->previous)
#define FRAME_GENERATOR(frame)	((frame)->owner == FRAME_OWNED_BY_GENERATOR ? \
				 (PyObject *)((char *)(frame) - offsetof(PyGenObject, gi_iframe)) : NULL)
#if V311
#define FRAME_CODE(frame)	((PyObject *)(frame)->f_code)
#define FRAME_FUNCTION(frame)	((PyObject *)(frame)->f_func)
#define FRAME_ON_C_STACK(frame)	false
#define FRAME_TOP(state)	((state)->cframe->current_frame)
#elif V312
#define FRAME_CODE(frame)	((PyObject *)(frame)->f_code)
#define FRAME_FUNCTION(frame)	((frame)->f_funcobj)
#define FRAME_ON_C_STACK(frame)	((frame)->owner == FRAME_OWNED_BY_CSTACK)
#define FRAME_TOP(state)	((state)->cframe->current_frame)
#elif V314
/* A reference that is borrowed, or is to no object, has a tag; the collector visits its lender. */
#define REFERENCE(ref)		((ref).bits & Py_INT_TAG ? NULL : (PyObject *)(ref).bits)
#define FRAME_CODE(frame)	PyStackRef_AsPyObjectBorrow((frame)->f_executable)
#define FRAME_FUNCTION(frame)	REFERENCE((frame)->f_funcobj)
#define FRAME_ON_C_STACK(frame)	((frame)->owner >= FRAME_OWNED_BY_INTERPRETER)
#define FRAME_TOP(state)	((state)->current_frame)
#else
#define FRAME_CODE(frame)	((frame)->f_executable)
#define FRAME_FUNCTION(frame)	((frame)->f_funcobj)
#define FRAME_ON_C_STACK(frame)	((frame)->owner == FRAME_OWNED_BY_CSTACK)
#define FRAME_TOP(state)	((state)->current_frame)
#endif

#if V313
#define FRAME_NEXT(frame)	((frame)->instr_ptr)
#else
#define FRAME_NEXT(frame)	((frame)->prev_instr)
#endif
#endif

#endif /* KFIBER_COMPAT_H */
