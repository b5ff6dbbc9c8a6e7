/* Whole columns of frames at once; `_gather.py`, `_program.py`, `_outgoing.py` say what is meant.

   Pure functions of lists and tuples that nobody else changes meanwhile. */

#include "_fast.h"

/* --------------------------------------------------------------------------------- columns -- */

enum {
    OPCODES, MODES, COUNTS, IDS, STATICS, SCALAR_COUNTS, SCALARS, NUMBERS, SITE_COLUMN, COLUMNS,
};

/* Add up how many ids and scalars commands have. TypeError if one is no command. */
static int
count_items(PyObject *commands, Py_ssize_t *ids, Py_ssize_t *scalars)
{
    for (Py_ssize_t k = 0; k < PyList_GET_SIZE(commands); k++) {
        PyObject *command = PyList_GET_ITEM(commands, k);
        if (!PyTuple_CheckExact(command) || PyTuple_GET_SIZE(command) != 7 ||
            !PyTuple_CheckExact(PyTuple_GET_ITEM(command, 2)) ||
            !PyTuple_CheckExact(PyTuple_GET_ITEM(command, 4))) {
            PyErr_SetString(PyExc_TypeError, "columns: this is no command");
            return -1;
        }
        *ids += PyTuple_GET_SIZE(PyTuple_GET_ITEM(command, 2));
        *scalars += PyTuple_GET_SIZE(PyTuple_GET_ITEM(command, 4));
    }
    return 0;
}

/* Put what a tuple holds into a list, from `at` on; its length into another. */
static int
spread(PyObject *items, PyObject *list, Py_ssize_t *at, PyObject *counts, Py_ssize_t k)
{
    PyObject *count = PyLong_FromSsize_t(PyTuple_GET_SIZE(items));
    if (count == NULL)
        return -1;
    PyList_SET_ITEM(counts, k, count);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(items); i++)
        PyList_SET_ITEM(list, (*at)++, Py_NewRef(PyTuple_GET_ITEM(items, i)));
    return 0;
}

/* Fill lists of the right lengths from commands; nothing here runs Python code. */
static int
fill(PyObject *commands, PyObject **lists)
{
    static const int plain[][2] = {
        {0, OPCODES}, {1, MODES}, {3, STATICS}, {5, NUMBERS}, {6, SITE_COLUMN},
    };
    Py_ssize_t ids = 0, scalars = 0;
    for (Py_ssize_t k = 0; k < PyList_GET_SIZE(commands); k++) {
        PyObject *command = PyList_GET_ITEM(commands, k);
        for (size_t i = 0; i < Py_ARRAY_LENGTH(plain); i++) {
            PyObject *item = PyTuple_GET_ITEM(command, plain[i][0]);
            PyList_SET_ITEM(lists[plain[i][1]], k, Py_NewRef(item));
        }
        if (spread(PyTuple_GET_ITEM(command, 2), lists[IDS], &ids, lists[COUNTS], k) < 0 ||
            spread(PyTuple_GET_ITEM(command, 4), lists[SCALARS], &scalars,
                   lists[SCALAR_COUNTS], k) < 0)
            return -1;
    }
    return 0;
}

PyObject *
fast_columns(PyObject *module, PyObject *given)
{
    Py_ssize_t count, ids = 0, scalars = 0;
    PyObject *lists[COLUMNS] = {NULL}, *commands, *result = NULL;
    if (!PyList_CheckExact(given))
        return PyErr_Format(PyExc_TypeError, "columns: a list of commands is asked for");
    commands = PyList_GetSlice(given, 0, PyList_GET_SIZE(given)); /* nobody else's */
    if (commands == NULL || count_items(commands, &ids, &scalars) < 0)
        goto done;
    count = PyList_GET_SIZE(commands);
    for (int i = 0; i < COLUMNS; i++) {
        lists[i] = PyList_New(i == IDS ? ids : i == SCALARS ? scalars : count);
        if (lists[i] == NULL)
            goto done;
    }
    if (fill(commands, lists) == 0)
        result = PyTuple_Pack(COLUMNS, lists[OPCODES], lists[MODES], lists[COUNTS], lists[IDS],
                              lists[STATICS], lists[SCALAR_COUNTS], lists[SCALARS],
                              lists[NUMBERS], lists[SITE_COLUMN]);
done:
    for (int i = 0; i < COLUMNS; i++)
        Py_XDECREF(lists[i]);
    Py_XDECREF(commands);
    return result;
}

/* ---------------------------------------------------------------------------------- bytes -- */

/* Return the int at a place if it is a plain one from 0 to 2**63 - 1, else -1 without an error. */
static long long
number_at(PyObject *column, Py_ssize_t k)
{
    PyObject *item = PyList_GET_ITEM(column, k);
    int overflow = 0;
    long long value = PyLong_CheckExact(item) ? PyLong_AsLongLongAndOverflow(item, &overflow) : -1;
    return overflow ? -1 : value;
}

/* Return a column as protobuf packs varints, or None: Python says what is wrong with it. */
PyObject *
fast_varints(PyObject *module, PyObject *column)
{
    if (!PyList_CheckExact(column))
        Py_RETURN_NONE;
    Py_ssize_t count = PyList_GET_SIZE(column), size = 0;
    unsigned char *bytes = PyMem_Malloc(count * 9 + 1); /* 63 bits are nine times seven */
    if (bytes == NULL)
        return PyErr_NoMemory();
    for (Py_ssize_t k = 0; k < count; k++) {
        long long value = number_at(column, k);
        if (value < 0) {
            PyMem_Free(bytes);
            Py_RETURN_NONE;
        }
        for (; value > 127; value >>= 7)
            bytes[size++] = (unsigned char)(value & 127) | 128;
        bytes[size++] = (unsigned char)value;
    }
    PyObject *result = PyBytes_FromStringAndSize((char *)bytes, size);
    PyMem_Free(bytes);
    return result;
}

/* Return a column as eight bytes each, the lowest first, or None: Python says what is wrong. */
PyObject *
fast_fixed64(PyObject *module, PyObject *column)
{
    if (!PyList_CheckExact(column))
        Py_RETURN_NONE;
    Py_ssize_t count = PyList_GET_SIZE(column);
    PyObject *result = PyBytes_FromStringAndSize(NULL, 8 * count);
    if (result == NULL)
        return NULL;
    unsigned char *bytes = (unsigned char *)PyBytes_AS_STRING(result);
    for (Py_ssize_t k = 0; k < count; k++) {
        long long value = number_at(column, k);
        if (value < 0) {
            Py_DECREF(result);
            Py_RETURN_NONE;
        }
        for (int i = 0; i < 8; i++)
            *bytes++ = (unsigned char)((unsigned long long)value >> 8 * i);
    }
    return result;
}

#define DIFFERENT 64 /* objects that are looked through one by one */

/* Return (which of the different objects each one is, these objects), or None: too many. */
PyObject *
fast_places(PyObject *module, PyObject *statics)
{
    PyObject *seen[DIFFERENT];
    Py_ssize_t count = 0, last = 0;
    if (!PyList_CheckExact(statics))
        Py_RETURN_NONE;
    PyObject *places = PyList_New(PyList_GET_SIZE(statics)), *different = PyList_New(0);
    for (Py_ssize_t k = 0; places && different && k < PyList_GET_SIZE(statics); k++) {
        PyObject *item = PyList_GET_ITEM(statics, k);
        if (count == 0 || seen[last] != item)
            for (last = 0; last < count && seen[last] != item; last++)
                ;
        if (last == DIFFERENT) {
            Py_DECREF(places);
            Py_DECREF(different);
            Py_RETURN_NONE;
        }
        if (last == count) {
            seen[count++] = item; /* `different` holds it */
            if (PyList_Append(different, item) < 0)
                Py_CLEAR(different);
        }
        PyObject *place = PyLong_FromSsize_t(last);
        if (place == NULL)
            Py_CLEAR(different);
        else
            PyList_SET_ITEM(places, k, place);
    }
    PyObject *result = places && different ? PyTuple_Pack(2, places, different) : NULL;
    Py_XDECREF(places);
    Py_XDECREF(different);
    return result;
}

/* ----------------------------------------------------------------------------------- slots -- */

/* Return the id of each slot, or None: see `Form.bind`, which has looked at the lengths. */
PyObject *
fast_bind(PyObject *module, PyObject *args)
{
    PyObject *ids, *first_at, *slots, *found = NULL, *different = NULL;
    int same = 1;
    if (!PyArg_ParseTuple(args, "O!O!O!", &PyList_Type, &ids, &PyList_Type, &first_at,
                          &PyList_Type, &slots))
        return NULL;
    Py_ssize_t count = PyList_GET_SIZE(first_at);
    found = PyTuple_New(count);
    for (Py_ssize_t k = 0; found != NULL && k < count; k++) {
        Py_ssize_t at = PyLong_AsSsize_t(PyList_GET_ITEM(first_at, k));
        if (at < 0 || at >= PyList_GET_SIZE(ids))
            goto outside;
        PyTuple_SET_ITEM(found, k, Py_NewRef(PyList_GET_ITEM(ids, at)));
    }
    for (Py_ssize_t k = 0; found != NULL && same == 1 && k < PyList_GET_SIZE(slots); k++) {
        Py_ssize_t slot = PyLong_AsSsize_t(PyList_GET_ITEM(slots, k));
        if (slot < 0 || slot >= count || k >= PyList_GET_SIZE(ids))
            goto outside;
        same = PyObject_RichCompareBool(PyTuple_GET_ITEM(found, slot), PyList_GET_ITEM(ids, k),
                                        Py_EQ);
    }
    if (found != NULL && same == 1)
        different = PySet_New(found);
    if (different != NULL && PySet_GET_SIZE(different) != count)
        same = 0;
    Py_XDECREF(different);
    if (same == 1 && different != NULL)
        return found;
    Py_XDECREF(found);
    if (same == 0)
        Py_RETURN_NONE;
    return NULL;
outside:
    Py_XDECREF(found);
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_IndexError, "bind: a slot that is none");
    return NULL;
}

enum { GONE = 1, USED = 2 };

/* Ids of slots, each more than the one before, and what is known of them. */
typedef struct {
    Py_ssize_t count;
    long long *ids;
    char *marks;
} Marked;

/* Mark what an id stands for; an id that is none of these is nothing to us. */
static void
mark(Marked *made, long long id, char bit)
{
    if (made->count == 0 || id < made->ids[0] || id > made->ids[made->count - 1])
        return;
    Py_ssize_t low = 0, high = made->count - 1;
    if (id - made->ids[0] <= high) /* at most here; and here, if all follow one another */
        low = high = (Py_ssize_t)(id - made->ids[0]);
    if (made->ids[low] != id)
        low = 0;
    while (low < high) {
        Py_ssize_t middle = low + (high - low) / 2;
        if (made->ids[middle] < id)
            low = middle + 1;
        else
            high = middle;
    }
    if (made->ids[low] == id)
        made->marks[low] |= bit;
}

/* Mark what several lists or sets of ids name. */
static int
mark_all(Marked *made, PyObject *groups, char bit)
{
    for (Py_ssize_t g = 0; g < PyTuple_GET_SIZE(groups); g++) {
        PyObject *item, *iterator = PyObject_GetIter(PyTuple_GET_ITEM(groups, g));
        while (iterator != NULL && (item = PyIter_Next(iterator)) != NULL) {
            long long id = PyLong_AsLongLong(item);
            Py_DECREF(item);
            if (id == -1 && PyErr_Occurred())
                break;
            mark(made, id, bit);
        }
        Py_XDECREF(iterator);
        if (PyErr_Occurred())
            return -1;
    }
    return 0;
}

/* Note the ids from `inputs` on. Returns 0 if they do not ascend, -1 with an error set. */
static int
note_made(Marked *made, PyObject *ids, Py_ssize_t inputs)
{
    for (Py_ssize_t k = 0; k < made->count; k++) {
        made->ids[k] = PyLong_AsLongLong(PyTuple_GET_ITEM(ids, inputs + k));
        if (made->ids[k] == -1 && PyErr_Occurred())
            return -1;
        if (k > 0 && made->ids[k] <= made->ids[k - 1])
            return 0;
    }
    return 1;
}

/* Return the slots whose marks say that they live. */
static PyObject *
living(Marked *made, Py_ssize_t inputs)
{
    PyObject *slots = PyFrozenSet_New(NULL);
    for (Py_ssize_t k = 0; slots != NULL && k < made->count; k++) {
        if (made->marks[k] == GONE)
            continue;
        PyObject *slot = PyLong_FromSsize_t(inputs + k);
        if (slot == NULL || PySet_Add(slots, slot) < 0)
            Py_CLEAR(slots);
        Py_XDECREF(slot);
    }
    return slots;
}

PyObject *
fast_live_slots(PyObject *module, PyObject *args)
{
    PyObject *ids, *gone, *used, *slots = NULL;
    Py_ssize_t inputs;
    if (!PyArg_ParseTuple(args, "O!nO!O!", &PyTuple_Type, &ids, &inputs, &PyTuple_Type, &gone,
                          &PyTuple_Type, &used))
        return NULL;
    Marked made = {PyTuple_GET_SIZE(ids) - inputs, NULL, NULL};
    if (inputs < 0 || made.count < 0)
        return PyErr_Format(PyExc_ValueError, "live_slots: %zd inputs", inputs);
    made.ids = PyMem_New(long long, made.count + 1);
    made.marks = PyMem_Calloc(made.count + 1, 1);
    int ascend = made.ids == NULL || made.marks == NULL ? -1 : note_made(&made, ids, inputs);
    if (ascend == 0)
        slots = Py_NewRef(Py_None);
    else if (ascend < 0 && !PyErr_Occurred())
        PyErr_NoMemory();
    else if (ascend > 0 && mark_all(&made, gone, GONE) == 0 && mark_all(&made, used, USED) == 0)
        slots = living(&made, inputs);
    PyMem_Free(made.ids);
    PyMem_Free(made.marks);
    return slots;
}
