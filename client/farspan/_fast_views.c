/* The usual case of methods that return one view, and of an index that is an int or a slice.

   `_quick_views.py` says what is usual; all else is handed, before anything has happened, to the
   Python method that this stands for. What is made is what `_quick.run` and `_dispatch.view_of`
   make, in the same order. */

#include <stddef.h>

#include "_fast.h"
#include <structmember.h>

#define known fast_known

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *memo;    /* dict: the call's key -> (opcode, static, spec, offset), or False */
    PyObject *learn;   /* learn(key, self, *arguments) puts an entry there */
    PyObject *general; /* what is called in every case that is not the usual one */
} View;

#define ARGUMENTS 4 /* of such a method, at most */

static PyObject *str_storage, *str_offset, *str_generation, *str_in_no_grad, *str_made_by,
    *str_inference, *str_grad, *nothing, *one;

/* ------------------------------------------------------------------------------------ keys -- */

/* Whether equal ones mean the same: an int that is no bool, or None. */
static int
is_plain(PyObject *x)
{
    return PyLong_CheckExact(x) || x == Py_None;
}

/* Whether it is a tuple of such. */
static int
is_plain_tuple(PyObject *x)
{
    if (!PyTuple_CheckExact(x) || PyTuple_GET_SIZE(x) > 8)
        return 0;
    for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(x); k++)
        if (!is_plain(PyTuple_GET_ITEM(x, k)))
            return 0;
    return 1;
}

/* Return what a call is known by, or NULL; then an error is set, or the call is not a usual one. */
static PyObject *
key_of(PyObject *spec, PyObject *const *args, Py_ssize_t count)
{
    if (count == 0)
        return Py_NewRef(spec);
    if (count == 1 && PySlice_Check(args[0])) {
        PySliceObject *slice = (PySliceObject *)args[0];
        if (!is_plain(slice->start) || !is_plain(slice->stop) || !is_plain(slice->step))
            return NULL;
        return PyTuple_Pack(5, spec, &PySlice_Type, slice->start, slice->stop, slice->step);
    }
    for (Py_ssize_t k = 0; k < count; k++)
        if (!is_plain(args[k]) && !is_plain_tuple(args[k]))
            return NULL;
    PyObject *key = PyTuple_New(count + 1);
    if (key == NULL)
        return NULL;
    PyTuple_SET_ITEM(key, 0, Py_NewRef(spec));
    for (Py_ssize_t k = 0; k < count; k++)
        PyTuple_SET_ITEM(key, k + 1, Py_NewRef(args[k]));
    return key;
}

/* Return what is known of a call (a new reference); NULL: nothing, or an error is set. */
static PyObject *
facts_of(View *self, PyObject *const *args, Py_ssize_t count)
{
    PyObject *key = key_of(SLOT(args[0], known.spec), args + 1, count);
    if (key == NULL)
        return NULL;
    PyObject *facts = PyDict_GetItemWithError(self->memo, key);
    if (facts == NULL && !PyErr_Occurred()) {
        PyObject *given[ARGUMENTS + 2] = {key};
        for (Py_ssize_t k = 0; k <= count; k++)
            given[k + 1] = args[k];
        PyObject *done = PyObject_Vectorcall(self->learn, given, count + 2, NULL);
        facts = done ? PyDict_GetItemWithError(self->memo, key) : NULL;
        Py_XDECREF(done);
    }
    Py_DECREF(key);
    int whole = facts != NULL && PyTuple_CheckExact(facts) && PyTuple_GET_SIZE(facts) == 4;
    return whole ? Py_NewRef(facts) : NULL;
}

/* ---------------------------------------------------------------------------------- results -- */

/* What a view takes over from its tensor: owned, or NULL. */
typedef struct {
    PyObject *storage, *offset, *base, *generation, *in_no_grad, *made_by, *inference;
} Taken;

static void
drop(Taken *taken)
{
    Py_XDECREF(taken->storage);
    Py_XDECREF(taken->offset);
    Py_XDECREF(taken->base);
    Py_XDECREF(taken->generation);
    Py_XDECREF(taken->in_no_grad);
    Py_XDECREF(taken->made_by);
    Py_XDECREF(taken->inference);
}

static int
fetch(PyObject *x, PyObject *name, PyObject **value)
{
    *value = PyObject_GetAttr(x, name);
    return *value != NULL;
}

/* Read what a view of x takes over. Returns 1 if that is the usual case, 0 if the graph of what x
   views was rewritten since, -1 with an error set. */
static int
take(PyObject *x, PyObject *offset, Taken *taken)
{
    PyObject *base = SLOT(x, known.base), *at, *mine;
    taken->base = Py_NewRef(base == Py_None ? x : base);
    if (!fetch(x, str_offset, &at))
        return -1;
    taken->offset = PyNumber_Add(at, offset);
    Py_DECREF(at);
    if (!taken->offset || !fetch(x, str_storage, &taken->storage) ||
        !fetch(taken->base, str_generation, &taken->generation) ||
        !fetch(x, str_in_no_grad, &taken->in_no_grad) ||
        !fetch(x, str_made_by, &taken->made_by) || !fetch(x, str_inference, &taken->inference))
        return -1;
    if (taken->base == x)
        return 1;
    if (!fetch(x, str_generation, &mine))
        return -1;
    int same = PyObject_RichCompareBool(mine, taken->generation, Py_EQ);
    Py_DECREF(mine);
    return same;
}

/* Set an attribute unless that is what it is for a tensor without it. */
static int
set_if(PyObject *result, PyObject *name, PyObject *value)
{
    int is_set = PyObject_IsTrue(value);
    return is_set > 0 ? PyObject_SetAttr(result, name, value) : is_set;
}

/* Make a result a view, as `_dispatch.view_of` does. */
static int
make_view(PyObject *result, Taken *taken)
{
    Py_XSETREF(SLOT(result, known.base), Py_NewRef(taken->base));
    if (PyObject_SetAttr(result, str_storage, taken->storage) < 0 ||
        set_if(result, str_offset, taken->offset) < 0 ||
        set_if(result, str_generation, taken->generation) < 0)
        return -1;
    int bare = PyObject_IsTrue(taken->in_no_grad);
    if (bare == 0) {
        PyObject *grad = PyObject_GetAttr(known.mode, str_grad);
        bare = grad == NULL ? -1 : PyObject_Not(grad);
        Py_XDECREF(grad);
    }
    if (bare < 0 || (bare && PyObject_SetAttr(result, str_in_no_grad, Py_True) < 0))
        return -1;
    PyObject *inference = PyObject_IsTrue(taken->inference) ? Py_True : Py_False;
    return set_if(result, str_made_by, taken->made_by) < 0
               ? -1 : set_if(result, str_inference, inference);
}

/* Issue the command and return its result, as `_quick.run` does. */
static PyObject *
issue(PyObject *x, PyObject *facts, Taken *taken)
{
    PyObject *claim = Py_NewRef(SLOT(x, known.claim)), *lane = Py_NewRef(((Claim *)claim)->lane);
    PyObject *id = NULL, *ids = NULL, *number = NULL, *result = NULL;
    PyObject *site = fast_site_above(1);
    if (site != NULL)
        id = fast_next_of(SLOT(lane, known.ids));
    if (id != NULL)
        ids = PyTuple_Pack(2, ((Claim *)claim)->id, id);
    if (ids != NULL)
        number = fast_next_of(SLOT(lane, known.numbers));
    if (number != NULL &&
        fast_append(lane, PyTuple_GET_ITEM(facts, 0), NULL, ids, PyTuple_GET_ITEM(facts, 1),
                    number, site) == 0 &&
        fast_count_work(lane, one) == 0)
        result = fast_claimed(lane, id, PyTuple_GET_ITEM(facts, 2), nothing);
    if (result != NULL && make_view(result, taken) < 0)
        Py_CLEAR(result);
    Py_XDECREF(number);
    Py_XDECREF(ids);
    Py_XDECREF(id);
    Py_XDECREF(site);
    Py_DECREF(lane);
    Py_DECREF(claim);
    return result;
}

/* ------------------------------------------------------------------------------------ type -- */

/* Return the lane of a tensor that no graph knows (borrowed), or NULL without an error. */
static PyObject *
unrecorded(PyObject *x)
{
    PyObject *lane = fast_lane_of(x);
    return lane != NULL && SLOT(x, known.node) == Py_None ? lane : NULL;
}

static PyObject *
view_call(PyObject *callable, PyObject *const *args, size_t flags, PyObject *names)
{
    View *self = (View *)callable;
    Py_ssize_t count = PyVectorcall_NARGS(flags) - 1;
    PyObject *lane, *facts = NULL, *result = NULL;
    int usual = known.usual && names == NULL && count >= 0 && count <= ARGUMENTS &&
                (lane = unrecorded(args[0])) != NULL && SLOT(lane, known.free_now) == Py_False;
    if (usual) {
        facts = facts_of(self, args, count);
        if (facts == NULL && PyErr_Occurred())
            return NULL;
        usual = facts != NULL;
    }
    if (usual) {
        Taken taken = {NULL};
        usual = take(args[0], PyTuple_GET_ITEM(facts, 3), &taken);
        /* What was read of it may have run something: is it still as it was? */
        if (usual > 0 && unrecorded(args[0]) != NULL)
            result = issue(args[0], facts, &taken);
        else if (usual > 0)
            usual = 0;
        drop(&taken);
    }
    Py_XDECREF(facts);
    return usual ? result : PyObject_Vectorcall(self->general, args, flags, names);
}

static PyObject *
view_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *memo, *learn, *general;
    if (!PyArg_ParseTuple(args, "O!OO", &PyDict_Type, &memo, &learn, &general))
        return NULL;
    if (known.tensor == NULL) {
        PyErr_SetString(PyExc_ValueError, "View: `prepare` goes before");
        return NULL;
    }
    View *self = (View *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->call = view_call;
    self->memo = Py_NewRef(memo);
    self->learn = Py_NewRef(learn);
    self->general = Py_NewRef(general);
    return (PyObject *)self;
}

/* Be named, and documented, as the method that this stands for. */
static PyObject *
view_getattro(PyObject *self, PyObject *name)
{
    PyObject *found = PyObject_GenericGetAttr(self, name);
    if (found != NULL || !PyErr_ExceptionMatches(PyExc_AttributeError))
        return found;
    PyErr_Clear();
    return PyObject_GetAttr(((View *)self)->general, name);
}

static int
view_traverse(View *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->memo);
    Py_VISIT(self->learn);
    Py_VISIT(self->general);
    return 0;
}

static void
view_dealloc(View *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->memo);
    Py_XDECREF(self->learn);
    Py_XDECREF(self->general);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef view_members[] = {
    {"__wrapped__", T_OBJECT_EX, offsetof(View, general), READONLY, NULL},
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(View, call), READONLY, NULL},
    {NULL},
};

static PyType_Slot view_slots[] = {
    {Py_tp_new, view_new},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_descr_get, fast_method_of},
    {Py_tp_getattro, view_getattro},
    {Py_tp_traverse, view_traverse},
    {Py_tp_dealloc, view_dealloc},
    {Py_tp_members, view_members},
    {0, NULL},
};

static PyType_Spec view_spec = { /* View(memo, learn, general) */
    .name = "farspan._fast.View",
    .basicsize = sizeof(View),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
             Py_TPFLAGS_METHOD_DESCRIPTOR | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = view_slots,
};

/* Give the module its type; -1 with an error set. */
int
fast_add_views(PyObject *module)
{
    struct {
        PyObject **string;
        const char *text;
    } strings[] = {
        {&str_storage, "_storage"}, {&str_offset, "_offset"}, {&str_generation, "_generation"},
        {&str_in_no_grad, "_in_no_grad"}, {&str_made_by, "_made_by"},
        {&str_inference, "_inference"}, {&str_grad, "grad"},
    };
    for (size_t k = 0; k < Py_ARRAY_LENGTH(strings); k++)
        if ((*strings[k].string = PyUnicode_InternFromString(strings[k].text)) == NULL)
            return -1;
    nothing = PyLong_FromLong(0);
    one = PyLong_FromLong(1);
    PyObject *type = PyType_FromSpec(&view_spec);
    int added = nothing && one && type ? PyModule_AddObjectRef(module, "View", type) : -1;
    Py_XDECREF(type);
    return added;
}
