/* SPDX-License-Identifier: MIT */
/*
 * Frames that hang on a suspended fiber's thread state: what the collector visits there, and what tools
 * ask for.
 */
#include "tstate.h"

/* The collector's mark of an object that has been finalized, in the word before it. */
#define FINALIZED ((uintptr_t)1)

static void set_finalized(PyObject *object, bool finalized)
{
	uintptr_t *word = (uintptr_t *)object - 1;

	*word = finalized ? *word | FINALIZED : *word & ~FINALIZED;
}

#if V310
/* A frame on the stack is untracked, as a rule, and owned by who runs it. */
static int frame_visit(PyFrameObject *frame, visitproc visit, void *arg)
{
	PyCodeObject *code = frame->f_code;
	Py_ssize_t i, slots;

	if (frame->f_gen)
		return 0;
	if (PyObject_GC_IsTracked((PyObject *)frame)) {
		Py_VISIT(frame);
		return 0;
	}
	Py_VISIT(code);
	Py_VISIT(frame->f_builtins);
	Py_VISIT(frame->f_globals);
	Py_VISIT(frame->f_locals);
	Py_VISIT(frame->f_trace);
	slots = code->co_nlocals + PyTuple_GET_SIZE(code->co_cellvars) +
		PyTuple_GET_SIZE(code->co_freevars);
	for (i = 0; i < slots; i++)
		Py_VISIT(frame->f_localsplus[i]);
	return 0;
}

PyObject *interpreter_position(int *instruction)
{
	PyFrameObject *frame = PyThreadState_Get()->frame;

	*instruction = frame ? frame->f_lasti : 0;
	return Py_XNewRef(frame ? (PyObject *)frame->f_code : NULL);
}

#else

PyObject *interpreter_position(int *instruction)
{
	_PyInterpreterFrame *frame = FRAME_TOP(PyThreadState_Get());
	PyObject *code;

	while (frame && FRAME_ON_C_STACK(frame))
		frame = frame->previous;
	if (!frame)
		return NULL;
	code = FRAME_CODE(frame);
	*instruction = (int)(FRAME_NEXT(frame) - _PyCode_CODE((PyCodeObject *)code));
	return Py_NewRef(code);
}

#if V314
/* How much of the frame's stack is in use is written down before each call. */
static int frame_visit(_PyInterpreterFrame *frame, visitproc visit, void *arg)
{
	_PyStackRef *slot;

	if (FRAME_ON_C_STACK(frame) || frame->owner == FRAME_OWNED_BY_FRAME_OBJECT)
		return 0;
	/* Generators visit themselves unless they run. */
	if (frame->owner == FRAME_OWNED_BY_THREAD) {
		Py_VISIT(frame->frame_obj);
		Py_VISIT(frame->f_locals);
		Py_VISIT(FRAME_FUNCTION(frame));
		Py_VISIT(REFERENCE(frame->f_executable));
		for (slot = frame->localsplus; slot < frame->stackpointer; slot++)
			Py_VISIT(REFERENCE(*slot));
	}
	return 0;
}
#else
/*
 * How much of the frame's stack is in use is known where it has called a Python
 * function. Of others the temporaries are left out: what only they keep is seen
 * as referenced from outside. Generators visit themselves where it is known.
 */
static int frame_visit(_PyInterpreterFrame *frame, visitproc visit, void *arg)
{
	int i, slots = frame->stacktop;

	if (FRAME_ON_C_STACK(frame))
		return 0;
	if (frame->owner == FRAME_OWNED_BY_THREAD) {
		Py_VISIT(frame->frame_obj);
		Py_VISIT(frame->f_locals);
		Py_VISIT(FRAME_FUNCTION(frame));
		Py_VISIT(FRAME_CODE(frame));
	} else if (slots >= 0) {
		return 0;
	}
	if (slots < 0)
		slots = ((PyCodeObject *)FRAME_CODE(frame))->co_nlocalsplus;
	for (i = 0; i < slots; i++)
		Py_VISIT(frame->localsplus[i]);
	return 0;
}
#endif

#endif

static int frames_visit(PyThreadState *state, visitproc visit, void *arg, bool *held)
{
	PyObject *generator;
	FRAME *frame;
	int err;

	for (frame = FRAME_TOP(state); frame; frame = FRAME_PREVIOUS(frame)) {
		generator = FRAME_GENERATOR(frame);
		if (generator) {
			set_finalized(generator, true);
			*held = true;
		}
		err = frame_visit(frame, visit, arg);
		if (err)
			return err;
	}
	return 0;
}

PyObject *interpreter_generators(PyThreadState *state)
{
	PyObject *list = PyList_New(0), *generator;
	FRAME *frame;

	for (frame = FRAME_TOP(state); list && frame; frame = FRAME_PREVIOUS(frame)) {
		generator = FRAME_GENERATOR(frame);
		if (generator && PyList_Append(list, generator))
			Py_CLEAR(list);
	}
	return list;
}

void interpreter_release_list(PyObject *generators)
{
	Py_ssize_t i;

	for (i = 0; i < PyList_GET_SIZE(generators); i++)
		set_finalized(PyList_GET_ITEM(generators, i), false);
	Py_DECREF(generators);
}

void interpreter_release_generators(PyThreadState *state)
{
	PyObject *generator;
	FRAME *frame;

	for (frame = FRAME_TOP(state); frame; frame = FRAME_PREVIOUS(frame)) {
		generator = FRAME_GENERATOR(frame);
		if (generator)
			set_finalized(generator, false);
	}
}

/* Frame objects and generators lead to the frames that they came from. */
bool frames_shared(const PyThreadState *state)
{
#if V310
	/* Frames are objects, and none is on the stack. */
	(void)state;
#else
	_PyInterpreterFrame *frame;

	for (frame = FRAME_TOP(state); frame; frame = frame->previous) {
		if (FRAME_ON_C_STACK(frame))
			continue;
		if (frame->owner != FRAME_OWNED_BY_THREAD ||
		    (frame->frame_obj && Py_REFCNT(frame->frame_obj) > 1))
			return true;
	}
#endif
	return false;
}

void interpreter_expect(const PyThreadState *state, int steps)
{
	const FRAME *frame = steps > 2 ? NULL : FRAME_TOP(state);

	switch (steps) {
	case 4:
		__builtin_prefetch(&state->context);
		__builtin_prefetch(&state->exc_state);
#if V310
		__builtin_prefetch(&state->frame);
#elif V311 || V312
		__builtin_prefetch(&state->cframe);
#else
		__builtin_prefetch(&state->current_frame);
#endif
		break;
	case 3:
		/* The collector's words lie before an object. */
		if (state->context)
			__builtin_prefetch((char *)state->context - 16, 1);
#if V311 || V312
		__builtin_prefetch(state->cframe);
#endif
		break;
	case 2:
		if (frame) {
			__builtin_prefetch(frame);
			__builtin_prefetch(frame + 1);
		}
		break;
	default:
		if (frame && FRAME_PREVIOUS(frame)) {
			__builtin_prefetch(FRAME_PREVIOUS(frame));
			__builtin_prefetch((char *)FRAME_PREVIOUS(frame) + 64);
		}
	}
}

int interpreter_visit(PyThreadState *state, visitproc visit, void *arg, bool *held)
{
	Py_VISIT(state->context);
	/* Those that generators handle are theirs. */
#if V310
	Py_VISIT(state->exc_state.exc_type);
	Py_VISIT(state->exc_state.exc_traceback);
#endif
	Py_VISIT(state->exc_state.exc_value);
	return frames_visit(state, visit, arg, held);
}

PyFrameObject *interpreter_frame(PyThreadState *state)
{
#if V311
	int collects = PyGC_Disable();
	PyFrameObject *top = PyThreadState_GetFrame(state), *frame = top, *back;

	Py_XINCREF(frame);
	for (; frame; frame = back) {
		back = PyFrame_GetBack(frame);
		Py_DECREF(frame);
	}
	if (collects)
		PyGC_Enable();
	return top;
#else
	return PyThreadState_GetFrame(state);
#endif
}
