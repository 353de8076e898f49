/* SPDX-License-Identifier: MIT */
/* Functions of the C API that older versions lack, or have under another name. */
#include "compat.h"
#include "interpreter.h"

bool interpreter_ends(void)
{
#if V313
	return Py_IsFinalizing();
#else
	return _Py_IsFinalizing();
#endif
}

PyObject *interpreter_error_take(void)
{
#if V310 || V311
	PyObject *type, *value, *traceback;

	PyErr_Fetch(&type, &value, &traceback);
	PyErr_NormalizeException(&type, &value, &traceback);
	if (traceback) {
		PyException_SetTraceback(value, traceback);
		Py_DECREF(traceback);
	}
	Py_DECREF(type);
	return value;
#else
	return PyErr_GetRaisedException();
#endif
}

void interpreter_error_give(PyObject *error)
{
#if V310 || V311
	PyErr_Restore(Py_NewRef(Py_TYPE(error)), error, PyException_GetTraceback(error));
#else
	PyErr_SetRaisedException(error);
#endif
}
