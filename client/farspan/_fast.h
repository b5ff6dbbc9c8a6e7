/* What the sources of the module share. */

#ifndef FARSPAN_FAST_H
#define FARSPAN_FAST_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* An id that a lane's device holds: `_gather.Claim`. */
typedef struct {
    PyObject_HEAD
    PyObject *id;
    PyObject *lane;
    PyObject *weakrefs;
} Claim;

extern PyTypeObject *fast_claim_type;

extern struct FastKnown {
    PyTypeObject *tensor, *ref, *lane; /* set by `prepare`, and held until it is called again */
    PyObject *theirs, *site_from, *mode;
    Py_ssize_t base, node, claim, spec; /* where a tensor's slots are, and a lane's */
    Py_ssize_t commands, due, freed, free_now, held, ids, numbers, session, work;
    int usual;
} fast_known;

#define SLOT(object, offset) (*(PyObject **)((char *)(object) + (offset)))

/* What issues a command, of `_fast.c`. */
PyObject *fast_lane_of(PyObject *tensor);
PyObject *fast_site_above(Py_ssize_t depth);
PyObject *fast_next_of(PyObject *counter);
int fast_append(PyObject *lane, PyObject *opcode, PyObject *mode, PyObject *ids,
                PyObject *static_, PyObject *number, PyObject *site);
int fast_count_work(PyObject *lane, PyObject *work);
PyObject *fast_claimed(PyObject *lane, PyObject *id, PyObject *spec, PyObject *nbytes);
PyObject *fast_method_of(PyObject *self, PyObject *instance, PyObject *owner);

/* Of `_fast_views.c`. */
int fast_add_views(PyObject *module);

/* Of `_fast_frames.c`. */
PyObject *fast_columns(PyObject *module, PyObject *commands);
PyObject *fast_varints(PyObject *module, PyObject *column);
PyObject *fast_fixed64(PyObject *module, PyObject *column);
PyObject *fast_places(PyObject *module, PyObject *statics);
PyObject *fast_bind(PyObject *module, PyObject *args);
PyObject *fast_live_slots(PyObject *module, PyObject *args);

#endif
