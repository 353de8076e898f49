/* SPDX-License-Identifier: MIT */
/*
 * What a reader outside the process needs to find the Python frames of each fiber, also in a core file:
 * where the fibers are, and where their fields and the interpreter's are in this build. The reader is
 * python/kfiber/frames.py. It finds this by the exported symbol `kfiber_python` and trusts nothing: the
 * process takes no notice and runs on, unless the reader stops it.
 *
 * An array beside the list, because a reader fetches an array in one go.
 */
#define Py_BUILD_CORE 1
#include "native.h"

#if PY_VERSION_HEX >= 0x030f0000
#include <pycore_tstate.h>
#endif
#if PY_VERSION_HEX >= 0x030e0000
#include <pycore_interpframe.h>
#elif PY_VERSION_HEX >= 0x030b0000
#include <pycore_frame.h>
#endif

#include <frameobject.h>

#define VERSION 1
#define NONE UINT32_MAX

/* The living fibers, in no order. Where memory for that lacks, some are not in it. */
static Fiber **fibers;
static size_t count, room;

void outside_add(Fiber *fiber)
{
	size_t wanted = room ? 2 * room : 64;
	Fiber **larger;

	fiber->number = SIZE_MAX;
	if (count == room) {
		larger = PyMem_RawRealloc(fibers, wanted * sizeof(*fibers));
		if (!larger)
			return;
		fibers = larger;
		room = wanted;
	}
	fiber->number = count;
	fibers[count++] = fiber;
}

void outside_remove(Fiber *fiber)
{
	Fiber *last;

	if (fiber->number == SIZE_MAX)
		return;
	last = fibers[--count];
	fibers[fiber->number] = last;
	last->number = fiber->number;
}

#if PY_VERSION_HEX < 0x030b0000
#define FRAME PyFrameObject
#define FRAME_BACK f_back
#define FRAME_CODE f_code
#define FRAME_INSTRUCTION f_lasti
#define CODE_NAME co_name
#else
#define FRAME _PyInterpreterFrame
#define FRAME_BACK previous
#define CODE_NAME co_qualname
#if PY_VERSION_HEX < 0x030d0000
#define FRAME_CODE f_code
#define FRAME_INSTRUCTION prev_instr
#else
#define FRAME_CODE f_executable
#define FRAME_INSTRUCTION instr_ptr
#endif
#endif

/* Addresses, then places in bytes; NONE where this version has no such field. Only grows at its end. */
struct outside {
	char magic[8];
	uint32_t version, size;
	Fiber ***fibers;
	size_t *count;
	uint32_t python;
	/* Of Fiber. */
	uint32_t fiber_id, fiber_state, fiber_creator, fiber_created_at;
	/* Of the thread state: its newest frame, or the structure that has this at cframe_frame. */
	uint32_t state_frame, cframe_frame, state_chunk, state_top;
	uint32_t frame_back, frame_code, frame_instruction, frame_owner, frame_entry;
	uint32_t code_name, code_file, code_line, code_lines, code_instructions;
	uint32_t text_length, text_state, text_ascii, text_compact;
	uint32_t bytes_length, bytes_data;
	/* Of the thread state: the outermost frame, of no function. */
	uint32_t state_base;
};

__attribute__((visibility("default"))) extern const struct outside kfiber_python;

const struct outside kfiber_python = {
	.magic = "kfiberPy",
	.version = VERSION,
	.size = sizeof(struct outside),
	.fibers = &fibers,
	.count = &count,
	.python = PY_VERSION_HEX,
	.fiber_id = offsetof(Fiber, id),
	.fiber_state = offsetof(Fiber, tstate),
	.fiber_creator = offsetof(Fiber, creator),
	.fiber_created_at = offsetof(Fiber, created_at),
#if PY_VERSION_HEX < 0x030b0000
	.state_frame = offsetof(PyThreadState, frame),
	.cframe_frame = NONE,
	.state_chunk = NONE,
	.state_top = NONE,
	.frame_owner = NONE,
	.frame_entry = NONE,
	.code_instructions = NONE,
#else
#if PY_VERSION_HEX < 0x030d0000
	.state_frame = offsetof(PyThreadState, cframe),
	.cframe_frame = offsetof(_PyCFrame, current_frame),
#else
	.state_frame = offsetof(PyThreadState, current_frame),
	.cframe_frame = NONE,
#endif
	.state_chunk = offsetof(PyThreadState, datastack_chunk),
	.state_top = offsetof(PyThreadState, datastack_top),
	.frame_owner = offsetof(FRAME, owner),
#if PY_VERSION_HEX < 0x030c0000
	.frame_entry = offsetof(FRAME, is_entry),
#else
	.frame_entry = NONE,
#endif
	.code_instructions = offsetof(PyCodeObject, co_code_adaptive),
#endif
	.frame_back = offsetof(FRAME, FRAME_BACK),
	.frame_code = offsetof(FRAME, FRAME_CODE),
	.frame_instruction = offsetof(FRAME, FRAME_INSTRUCTION),
	.code_name = offsetof(PyCodeObject, CODE_NAME),
	.code_file = offsetof(PyCodeObject, co_filename),
	.code_line = offsetof(PyCodeObject, co_firstlineno),
	.code_lines = offsetof(PyCodeObject, co_linetable),
	.text_length = offsetof(PyASCIIObject, length),
	.text_state = offsetof(PyASCIIObject, state),
	.text_ascii = sizeof(PyASCIIObject),
	.text_compact = sizeof(PyCompactUnicodeObject),
	.bytes_length = offsetof(PyBytesObject, ob_base.ob_size),
	.bytes_data = offsetof(PyBytesObject, ob_sval),
#if PY_VERSION_HEX >= 0x030f0000
	.state_base = offsetof(_PyThreadStateImpl, base_frame),
#else
	.state_base = NONE,
#endif
};
