/* The usual case of what every small operation pays, in C: `_native.py` says what it replaces.

   Nothing is decided here: whatever is not just as usual is handed, before anything has happened,
   to the Python function that this stands for, which stays the specification. Tensors, claims and
   lanes are Python's own classes; their slots are read where their descriptors say they are.
   Everything runs under the interpreter's lock; calls that may give it away hold what they use. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <stddef.h>

#include "_fast.h"

/* ---------------------------------------------------------------------------------- claims -- */

struct FastKnown fast_known;
static PyObject *str_append, *str_freed, *str_look, *str_grad, *no_items, *zero;

#define known fast_known

static int
claim_traverse(Claim *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->lane);
    return 0;
}

static int
claim_clear(Claim *self)
{
    Py_CLEAR(self->lane);
    return 0;
}

/* Append the id to what its lane frees: a deque's append is one step, wherever this runs. */
static void
claim_finalize(PyObject *object)
{
    Claim *self = (Claim *)object;
    PyObject *freed, *done;
    if (self->lane == NULL || self->id == NULL)
        return;
#if PY_VERSION_HEX < 0x030C0000
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
#else
    PyObject *raised = PyErr_GetRaisedException();
#endif
    if (Py_TYPE(self->lane) == known.lane)
        freed = Py_XNewRef(SLOT(self->lane, known.freed));
    else /* of a farspan that was imported before this one */
        freed = PyObject_GetAttr(self->lane, str_freed);
    done = freed ? PyObject_CallMethodOneArg(freed, str_append, self->id) : NULL;
    if (done == NULL && PyErr_Occurred())
        PyErr_WriteUnraisable(object);
    Py_XDECREF(done);
    Py_XDECREF(freed);
#if PY_VERSION_HEX < 0x030C0000
    PyErr_Restore(type, value, trace);
#else
    PyErr_SetRaisedException(raised);
#endif
}

static void
claim_dealloc(Claim *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (type->tp_finalize && PyObject_CallFinalizerFromDealloc((PyObject *)self) < 0)
        return; /* it lives again */
    PyObject_GC_UnTrack(self);
    if (self->weakrefs)
        PyObject_ClearWeakRefs((PyObject *)self);
    Py_CLEAR(self->lane);
    Py_CLEAR(self->id);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef claim_members[] = {
    {"id", T_OBJECT_EX, offsetof(Claim, id), 0, NULL},
    {"lane", T_OBJECT_EX, offsetof(Claim, lane), 0, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Claim, weakrefs), READONLY, NULL},
    {NULL},
};

static PyType_Slot claim_slots[] = {
    {Py_tp_doc, "An id that a lane's device holds; when this goes, the lane frees it."},
    {Py_tp_traverse, claim_traverse},
    {Py_tp_clear, claim_clear},
    {Py_tp_finalize, claim_finalize},
    {Py_tp_dealloc, claim_dealloc},
    {Py_tp_members, claim_members},
    {0, NULL},
};

static PyType_Spec claim_spec = {
    .name = "farspan._fast.Claim",
    .basicsize = sizeof(Claim),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = claim_slots,
};

PyTypeObject *fast_claim_type;

/* ----------------------------------------------------------------------------------- sites -- */

#define SITES 64 /* lines remembered, so that a loop makes no new pair for each of its turns */
static PyObject *sites[SITES];

/* Return (code, offset) of the frame that is so many above this function, as `_sites.py` does. */
PyObject *
fast_site_above(Py_ssize_t depth)
{
    PyFrameObject *frame = (PyFrameObject *)Py_XNewRef(PyEval_GetFrame());
    for (; frame != NULL && depth > 1; depth--) {
        PyFrameObject *back = PyFrame_GetBack(frame);
        Py_DECREF(frame);
        frame = back;
    }
    if (frame == NULL) {
        PyErr_SetString(PyExc_ValueError, "call stack is not deep enough");
        return NULL;
    }
    PyCodeObject *code = PyFrame_GetCode(frame);
    int at = PyFrame_GetLasti(frame);
    PyObject **known_site = &sites[(((size_t)code >> 6) + (size_t)at / 2) % SITES];
    PyObject *site = *known_site;
    if (site != NULL && PyTuple_GET_ITEM(site, 0) == (PyObject *)code &&
        PyLong_AsLong(PyTuple_GET_ITEM(site, 1)) == at) {
        Py_INCREF(site);
    } else {
        int plain = PySet_Contains(known.theirs, code->co_filename);
        site = plain < 0 ? NULL
             : plain    ? Py_BuildValue("(Oi)", code, at)
                        : PyObject_CallOneArg(known.site_from, (PyObject *)frame);
        if (site != NULL && plain)
            Py_XSETREF(*known_site, Py_NewRef(site));
    }
    Py_DECREF(code);
    Py_DECREF(frame);
    return site;
}

/* ------------------------------------------------------------------------------- operations -- */

/* An operation on one or two tensors that issues one command, for `general`, which is Python's. */
typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *memo;    /* dict: spec, or pair of specs -> facts as `_quick._facts` makes them */
    PyObject *opcode;
    PyObject *static_;
    PyObject *general; /* what is called in every case that is not the usual one */
    PyObject *plans;   /* dict: which inputs are recorded, as bits -> `_quick._plan` */
    PyObject *record;  /* record(planned, number, site, result, *tensors) makes the node */
    Py_ssize_t count;  /* of tensors */
} Quick;

/* Return the lane of a tensor that is just that (borrowed), or NULL without an error. */
PyObject *
fast_lane_of(PyObject *x)
{
    if (Py_TYPE(x) != known.tensor || SLOT(x, known.node) == NULL ||
        SLOT(x, known.base) == NULL || SLOT(x, known.spec) == NULL)
        return NULL;
    PyObject *ref = SLOT(x, known.claim);
    if (ref == NULL || !PyObject_TypeCheck(ref, fast_claim_type) || ((Claim *)ref)->id == NULL)
        return NULL;
    PyObject *lane = ((Claim *)ref)->lane;
    return lane != NULL && Py_TYPE(lane) == known.lane ? lane : NULL;
}

/* Return what is known of the result (borrowed), NULL if that is nothing or an error is set. */
static PyObject *
facts_of(Quick *self, PyObject *const *tensors)
{
    PyObject *lane = NULL;
    for (Py_ssize_t k = 0; k < self->count; k++) {
        PyObject *x = tensors[k], *mine = fast_lane_of(x);
        if (mine == NULL || (k > 0 && mine != lane) || SLOT(x, known.base) != Py_None)
            return NULL;
        lane = mine;
    }
    PyObject *spec = SLOT(tensors[0], known.spec), *facts;
    if (self->count == 1 || SLOT(tensors[1], known.spec) == spec) {
        facts = PyDict_GetItemWithError(self->memo, spec);
    } else {
        PyObject *both = PyTuple_Pack(2, spec, SLOT(tensors[1], known.spec));
        if (both == NULL)
            return NULL;
        facts = PyDict_GetItemWithError(self->memo, both);
        Py_DECREF(both);
    }
    int whole = facts != NULL && PyTuple_CheckExact(facts) && PyTuple_GET_SIZE(facts) == 4;
    return whole ? facts : NULL;
}

/* Return the next of a lane's ids or numbers. */
PyObject *
fast_next_of(PyObject *counter)
{
    PyObject *next = counter != NULL && PyIter_Check(counter) ? PyIter_Next(counter) : NULL;
    if (next == NULL && !PyErr_Occurred())
        PyErr_SetString(PyExc_RuntimeError, "a lane without ids or numbers");
    return next;
}

/* Return (id of each claim, nothing yet). */
static PyObject *
ids_of(PyObject *const *claims, Py_ssize_t count)
{
    PyObject *ids = PyTuple_New(count + 1);
    for (Py_ssize_t k = 0; ids != NULL && k < count; k++)
        PyTuple_SET_ITEM(ids, k, Py_NewRef(((Claim *)claims[k])->id));
    return ids;
}

/* Append a command without scalars to a lane; mode NULL: 0. Returns -1 with an error set. */
int
fast_append(PyObject *lane, PyObject *opcode, PyObject *mode, PyObject *ids, PyObject *static_,
            PyObject *number, PyObject *site)
{
    PyObject *commands = SLOT(lane, known.commands), *command;
    if (commands == NULL || !PyList_CheckExact(commands)) {
        PyErr_SetString(PyExc_RuntimeError, "a lane without a list of commands");
        return -1;
    }
    command = PyTuple_Pack(7, opcode, mode ? mode : zero, ids, static_, no_items, number, site);
    if (command == NULL)
        return -1;
    int failed = PyList_Append(commands, command);
    Py_DECREF(command);
    return failed;
}

/* Count the work, and let the session look at the lane if that is due. */
int
fast_count_work(PyObject *lane, PyObject *work)
{
    PyObject *before = SLOT(lane, known.work), *due;
    PyObject *sum = before ? PyNumber_Add(before, work) : PyLong_FromLong(0);
    if (sum == NULL)
        return -1;
    Py_XSETREF(SLOT(lane, known.work), Py_NewRef(sum));
    due = SLOT(lane, known.due);
    int is_due = due ? PyObject_RichCompareBool(sum, due, Py_GE) : 1;
    Py_DECREF(sum);
    if (is_due <= 0)
        return is_due;
    PyObject *session = Py_XNewRef(SLOT(lane, known.session));
    PyObject *done = session ? PyObject_CallMethodOneArg(session, str_look, lane) : NULL;
    Py_XDECREF(session);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Return a tensor of its own, with a claim on an id. */
PyObject *
fast_claimed(PyObject *lane, PyObject *id, PyObject *spec, PyObject *nbytes)
{
    Claim *ref = (Claim *)known.ref->tp_alloc(known.ref, 0);
    if (ref == NULL)
        return NULL;
    ref->id = Py_NewRef(id);
    ref->lane = Py_NewRef(lane);
    PyObject *held = SLOT(lane, known.held);
    PyObject *result = held != NULL && PyDict_SetItem(held, id, nbytes) == 0
        ? known.tensor->tp_alloc(known.tensor, 0) : NULL;
    if (result == NULL) {
        Py_DECREF(ref);
        return NULL;
    }
    SLOT(result, known.claim) = (PyObject *)ref;
    SLOT(result, known.spec) = Py_NewRef(spec);
    SLOT(result, known.node) = Py_NewRef(Py_None);
    SLOT(result, known.base) = Py_NewRef(Py_None);
    return result;
}

/* Return how a call is recorded (a new reference): None if it is not, NULL if Python has not found
   that out yet, or with an error set. */
static PyObject *
planned_of(Quick *self, PyObject *const *tensors, PyObject *facts)
{
    long mask = 0;
    for (Py_ssize_t k = 0; k < self->count; k++)
        mask |= (long)(SLOT(tensors[k], known.node) != Py_None) << k;
    if (mask == 0 || PyTuple_GET_ITEM(facts, 3) != Py_True)
        Py_RETURN_NONE;
    PyObject *grad = PyObject_GetAttr(known.mode, str_grad);
    int is_on = grad ? PyObject_IsTrue(grad) : -1;
    Py_XDECREF(grad);
    if (is_on < 0)
        return NULL;
    if (is_on == 0)
        Py_RETURN_NONE;
    PyObject *key = PyLong_FromLong(mask);
    PyObject *planned = key ? PyDict_GetItemWithError(self->plans, key) : NULL;
    Py_XDECREF(key);
    if (planned == NULL || !PyTuple_CheckExact(planned) || PyTuple_GET_SIZE(planned) != 3)
        return NULL;
    return Py_NewRef(PyTuple_GET_ITEM(planned, 0) == Py_None ? Py_None : planned);
}

/* Give a result its node. */
static int
record(Quick *self, PyObject *planned, PyObject *number, PyObject *site, PyObject *result,
       PyObject *const *tensors)
{
    PyObject *given[6] = {planned, number, site, result, tensors[0]};
    if (self->count > 1)
        given[5] = tensors[1];
    PyObject *done = PyObject_Vectorcall(self->record, given, 4 + self->count, NULL);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Issue the command and return its result: what `_quick.binary` spells out, in the same order. */
static PyObject *
issue(Quick *self, PyObject *const *tensors, PyObject *facts, PyObject *planned, Py_ssize_t depth)
{
    PyObject *claims[2] = {NULL}, *site = NULL, *id = NULL, *number = NULL, *result = NULL;
    PyObject *mode = planned == Py_None ? NULL : PyTuple_GET_ITEM(planned, 1);
    /* Each new object may run a collection, which may run whatever replaces or forgets these. */
    for (Py_ssize_t k = 0; k < self->count; k++)
        claims[k] = Py_NewRef(SLOT(tensors[k], known.claim));
    PyObject *lane = Py_NewRef(((Claim *)claims[0])->lane), *ids = ids_of(claims, self->count);
    if (ids != NULL)
        site = fast_site_above(depth);
    if (site != NULL)
        id = fast_next_of(SLOT(lane, known.ids));
    if (id != NULL) {
        PyTuple_SET_ITEM(ids, self->count, Py_NewRef(id));
        number = fast_next_of(SLOT(lane, known.numbers));
    }
    if (number != NULL &&
        fast_append(lane, self->opcode, mode, ids, self->static_, number, site) == 0 &&
        fast_count_work(lane, PyTuple_GET_ITEM(facts, 2)) == 0)
        result = fast_claimed(lane, id, PyTuple_GET_ITEM(facts, 0), PyTuple_GET_ITEM(facts, 1));
    if (result != NULL && mode != NULL &&
        record(self, planned, number, site, result, tensors) < 0)
        Py_CLEAR(result);
    Py_XDECREF(ids);
    Py_XDECREF(site);
    Py_XDECREF(number);
    Py_XDECREF(id);
    Py_DECREF(lane);
    for (Py_ssize_t k = 0; k < self->count; k++)
        Py_DECREF(claims[k]);
    return result;
}

static PyObject *
quick_call(PyObject *callable, PyObject *const *args, size_t flags, PyObject *names)
{
    Quick *self = (Quick *)callable;
    Py_ssize_t given = PyVectorcall_NARGS(flags) - self->count, depth = 1;
    if (known.usual && names == NULL && (given == 0 || given == 1)) {
        PyObject *facts = facts_of(self, args);
        PyObject *planned = NULL, *result = NULL;
        Py_XINCREF(facts);
        if (facts != NULL && given == 1)
            depth = PyLong_AsSsize_t(args[self->count]);
        if (facts != NULL && !PyErr_Occurred())
            planned = planned_of(self, args, facts);
        if (planned != NULL)
            result = issue(self, args, facts, planned, depth);
        Py_XDECREF(facts);
        Py_XDECREF(planned);
        if (planned != NULL || PyErr_Occurred())
            return result;
    }
    return PyObject_Vectorcall(self->general, args, flags, names);
}

PyObject *
fast_method_of(PyObject *self, PyObject *instance, PyObject *owner)
{
    return instance == NULL || instance == Py_None ? Py_NewRef(self) : PyMethod_New(self, instance);
}

static PyObject *
quick_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *memo, *opcode, *static_, *general, *plans, *record;
    Py_ssize_t count;
    if (!PyArg_ParseTuple(args, "O!O!OOnO!O", &PyDict_Type, &memo, &PyLong_Type, &opcode, &static_,
                          &general, &count, &PyDict_Type, &plans, &record))
        return NULL;
    if (known.tensor == NULL || count < 1 || count > 2) {
        PyErr_SetString(PyExc_ValueError, "Quick: one or two tensors, and `prepare` goes before");
        return NULL;
    }
    Quick *self = (Quick *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->call = quick_call;
    self->memo = Py_NewRef(memo);
    self->opcode = Py_NewRef(opcode);
    self->static_ = Py_NewRef(static_);
    self->general = Py_NewRef(general);
    self->plans = Py_NewRef(plans);
    self->record = Py_NewRef(record);
    self->count = count;
    return (PyObject *)self;
}

static int
quick_traverse(Quick *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->memo);
    Py_VISIT(self->static_);
    Py_VISIT(self->general);
    Py_VISIT(self->plans);
    Py_VISIT(self->record);
    return 0;
}

static void
quick_dealloc(Quick *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->memo);
    Py_XDECREF(self->opcode);
    Py_XDECREF(self->static_);
    Py_XDECREF(self->general);
    Py_XDECREF(self->plans);
    Py_XDECREF(self->record);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef quick_members[] = {
    {"__wrapped__", T_OBJECT_EX, offsetof(Quick, general), READONLY, NULL},
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Quick, call), READONLY, NULL},
    {NULL},
};

static PyType_Slot quick_slots[] = {
    {Py_tp_doc, "Quick(memo, opcode, static, general, count, plans, record): an operation."},
    {Py_tp_new, quick_new},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_descr_get, fast_method_of},
    {Py_tp_traverse, quick_traverse},
    {Py_tp_dealloc, quick_dealloc},
    {Py_tp_members, quick_members},
    {0, NULL},
};

static PyType_Spec quick_spec = {
    .name = "farspan._fast.Quick",
    .basicsize = sizeof(Quick),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
             Py_TPFLAGS_METHOD_DESCRIPTOR | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = quick_slots,
};

/* ---------------------------------------------------------------------------------- module -- */

/* Note where a class keeps a slot. AttributeError, or TypeError, if it has none by that name. */
static int
find_slot(PyTypeObject *type, const char *name, Py_ssize_t *offset)
{
    PyObject *descriptor = PyObject_GetAttrString((PyObject *)type, name);
    if (descriptor == NULL)
        return -1;
    int found = Py_IS_TYPE(descriptor, &PyMemberDescr_Type) &&
                PyType_IsSubtype(type, PyDescr_TYPE(descriptor));
    if (found)
        *offset = ((PyMemberDescrObject *)descriptor)->d_member->offset;
    else
        PyErr_Format(PyExc_TypeError, "%s.%s is no slot", type->tp_name, name);
    Py_DECREF(descriptor);
    return found ? 0 : -1;
}

static PyObject *
prepare(PyObject *module, PyObject *args)
{
    PyTypeObject *tensor, *ref, *lane;
    PyObject *theirs, *site_from, *mode;
    if (!PyArg_ParseTuple(args, "O!O!O!O!OO", &PyType_Type, &tensor, &PyType_Type, &ref,
                          &PyType_Type, &lane, &PySet_Type, &theirs, &site_from, &mode))
        return NULL;
    if (!PyType_IsSubtype(ref, fast_claim_type))
        return PyErr_Format(PyExc_ValueError, "prepare: with a subclass of Claim");
    struct FastKnown next = {.usual = 1}, before;
    struct {
        PyTypeObject *type;
        const char *name;
        Py_ssize_t *offset;
    } slots[] = {
        {tensor, "_base", &next.base}, {tensor, "_node", &next.node},
        {tensor, "_ref", &next.claim}, {tensor, "_spec", &next.spec},
        {lane, "commands", &next.commands}, {lane, "due", &next.due},
        {lane, "freed", &next.freed}, {lane, "free_now", &next.free_now},
        {lane, "held", &next.held},
        {lane, "ids", &next.ids}, {lane, "numbers", &next.numbers},
        {lane, "session", &next.session}, {lane, "work", &next.work},
    };
    for (size_t k = 0; k < Py_ARRAY_LENGTH(slots); k++)
        if (find_slot(slots[k].type, slots[k].name, slots[k].offset) < 0)
            return NULL;
    next.theirs = Py_NewRef(theirs);
    next.site_from = Py_NewRef(site_from);
    next.mode = Py_NewRef(mode);
    next.ref = (PyTypeObject *)Py_NewRef(ref);
    next.lane = (PyTypeObject *)Py_NewRef(lane);
    next.tensor = (PyTypeObject *)Py_NewRef(tensor);
    before = known;
    known = next;
    Py_XDECREF(before.theirs);
    Py_XDECREF(before.site_from);
    Py_XDECREF(before.mode);
    Py_XDECREF(before.ref);
    Py_XDECREF(before.lane);
    Py_XDECREF(before.tensor);
    Py_RETURN_NONE;
}

static PyObject *
set_usual(PyObject *module, PyObject *usual)
{
    int is_usual = PyObject_IsTrue(usual);
    if (is_usual < 0)
        return NULL;
    known.usual = is_usual;
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"bind", fast_bind, METH_VARARGS,
     "bind(ids, first_at, slots): return the id of each slot, or None: see `_program.Form.bind`."},
    {"varints", fast_varints, METH_O, "varints(column): return packed varints; None: ask Python."},
    {"fixed64", fast_fixed64, METH_O, "fixed64(column): return eight bytes each, or None."},
    {"places", fast_places, METH_O,
     "places(objects): return which each one is, and the different ones; None: ask Python."},
    {"live_slots", fast_live_slots, METH_VARARGS,
     "live_slots(ids, inputs, gone, used): see `_outgoing.py`; tuples all. None: ask Python."},
    {"columns", fast_columns, METH_O,
     "columns(commands): return what `_gather.columns` makes a frame of, and the lines."},
    {"prepare", prepare, METH_VARARGS,
     "prepare(Tensor, Ref, Lane, theirs, site_from, mode): note where these keep what is asked.\n\n"
     "Again, if farspan is imported again: what came of it before goes the general way."},
    {"set_usual", set_usual, METH_O, "set_usual(usual): say whether ops may take the quick way."},
    {NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "farspan._fast",
    .m_doc = "The usual case of small operations, in C. Everybody asks `_native.py` for it.",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC
PyInit__fast(void)
{
    PyObject *module = PyModule_Create(&definition), *quick = PyType_FromSpec(&quick_spec);
    fast_claim_type = (PyTypeObject *)PyType_FromSpec(&claim_spec);
    str_append = PyUnicode_InternFromString("append");
    str_freed = PyUnicode_InternFromString("freed");
    str_look = PyUnicode_InternFromString("look");
    str_grad = PyUnicode_InternFromString("grad");
    no_items = PyTuple_New(0);
    zero = PyLong_FromLong(0);
    int whole = module && quick && fast_claim_type && str_append && str_freed && str_look &&
                str_grad && no_items && zero && /* `_native.py` has the number, too */
                PyModule_AddIntConstant(module, "INTERFACE", 4) == 0 &&
                PyModule_AddObjectRef(module, "Quick", quick) == 0 &&
                PyModule_AddObjectRef(module, "Claim", (PyObject *)fast_claim_type) == 0 &&
                fast_add_views(module) == 0;
    Py_XDECREF(quick);
    if (!whole)
        Py_CLEAR(module);
    return module;
}
