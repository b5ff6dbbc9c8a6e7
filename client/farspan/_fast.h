/* What `_fast_frames.c` gives the module. */

#ifndef FARSPAN_FAST_H
#define FARSPAN_FAST_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

PyObject *fast_columns(PyObject *module, PyObject *commands);
PyObject *fast_varints(PyObject *module, PyObject *column);
PyObject *fast_fixed64(PyObject *module, PyObject *column);
PyObject *fast_places(PyObject *module, PyObject *statics);
PyObject *fast_bind(PyObject *module, PyObject *args);
PyObject *fast_live_slots(PyObject *module, PyObject *args);

#endif
