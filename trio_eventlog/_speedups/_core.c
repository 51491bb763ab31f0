/* Payloads as JSON, ids, and what `ingest` does for every event. See core.h. */

#include "core.h"

#include <math.h>
#include <string.h>
#include <structmember.h>
#include <time.h>
#ifndef _WIN32
#include <pthread.h>
#endif

Model model;

static PyObject *scope_names[4];
static PyObject *null, *encoder, *no_scopes, *agent_source, *module_source, *slow_name;
static PyObject *time_module, *time_name, *random_bytes;
static PyCFunction time_ns;

/* --- payloads --------------------------------------------------------------------------------------- */

#define MAX_DEPTH 200
#define LONG 64 /* characters of a string that is worth counting */

/* Whether a payload would come back from JSON as an equal value of the same types; and, roughly, whether it fits
 * into `room` bytes, from which it subtracts fewer than it has. A list can hold another one twice, which holds
 * another one twice, and so on. */
static int
check(PyObject *value, int depth, Py_ssize_t *room)
{
    PyTypeObject *type = Py_TYPE(value);
    if (type == &PyUnicode_Type) {
        if (PyUnicode_GET_LENGTH(value) > LONG)
            *room -= PyUnicode_GET_LENGTH(value);
        return *room < 0 ? UNUSUAL : DONE;
    }
    if (value == Py_None || type == &PyBool_Type)
        return DONE;
    if (type == &PyLong_Type) {
        int overflow;
        PyLong_AsLongLongAndOverflow(value, &overflow);
        if (overflow > 0 && PyLong_AsUnsignedLongLong(value) == (unsigned long long)-1 && PyErr_Occurred()) {
            PyErr_Clear();
            return UNUSUAL;
        }
        return overflow < 0 ? UNUSUAL : DONE;
    }
    if (type == &PyFloat_Type)
        return isfinite(PyFloat_AS_DOUBLE(value)) ? DONE : UNUSUAL;
    if (depth == MAX_DEPTH)
        return UNUSUAL;
    if (type == &PyDict_Type) {
        PyObject *key, *item;
        Py_ssize_t position = 0;
        *room -= 5 * PyDict_GET_SIZE(value);
        while (PyDict_Next(value, &position, &key, &item))
            if (Py_TYPE(key) != &PyUnicode_Type || (*room -= PyUnicode_GET_LENGTH(key)) < 0
                || check(item, depth + 1, room))
                return UNUSUAL;
        return DONE;
    }
    if (type == &PyList_Type) {
        *room -= 2 * PyList_GET_SIZE(value);
        for (Py_ssize_t index = 0; index < PyList_GET_SIZE(value); index++)
            if (*room < 0 || check(PyList_GET_ITEM(value, index), depth + 1, room))
                return UNUSUAL;
        return DONE;
    }
    return UNUSUAL;
}

/* A payload as bytes of JSON. No other code runs between the check and the encoder. */
static int
encode(PyObject *payload, Py_ssize_t max_bytes, PyObject **encoded)
{
    if (payload == Py_None) {
        *encoded = Py_NewRef(null);
        return DONE;
    }
    if (check(payload, 0, &max_bytes))
        return UNUSUAL;
    *encoded = PyObject_CallOneArg(encoder, payload);
    if (*encoded != NULL && PyBytes_CheckExact(*encoded))
        return DONE;
    if (*encoded == NULL && !PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
        return FAILED;
    /* A lone surrogate. */
    PyErr_Clear();
    Py_CLEAR(*encoded);
    return UNUSUAL;
}

PyDoc_STRVAR(encode_doc, "encode($module, payload, max_bytes, /)\n--\n\n"
"A payload as JSON; None if it is unusual, has more than max_bytes, or a flaw.");

static PyObject *
py_encode(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *payload, *encoded = NULL;
    Py_ssize_t max_bytes;
    if (!PyArg_ParseTuple(args, "On:encode", &payload, &max_bytes))
        return NULL;
    int outcome = encode(payload, max_bytes, &encoded);
    return outcome == UNUSUAL ? Py_NewRef(Py_None) : encoded;
}

int
utf8_of(PyObject *value, const char **text, Py_ssize_t *size)
{
    if (PyUnicode_IS_COMPACT_ASCII(value)) {
        *text = (const char *)PyUnicode_1BYTE_DATA(value);
        *size = PyUnicode_GET_LENGTH(value);
        return DONE;
    }
    *text = PyUnicode_AsUTF8AndSize(value, size);
    if (*text != NULL)
        return DONE;
    if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
        return FAILED;
    PyErr_Clear();
    return UNUSUAL;
}

/* The scopes of a payload as a tuple: a new reference. */
static PyObject *
scopes_in(PyObject *payload)
{
    PyObject *found[4] = {Py_None, Py_None, Py_None, Py_None};
    int any = 0;
    if (Py_TYPE(payload) == &PyDict_Type)
        for (int index = 0; index < 4; index++) {
            PyObject *value = PyDict_GetItemWithError(payload, scope_names[index]);
            if (value != NULL && Py_TYPE(value) == &PyUnicode_Type) {
                found[index] = value;
                any = 1;
            }
        }
    if (!any)
        return Py_NewRef(no_scopes);
    /* The tuple may be what makes the collector run, which may change the payload. */
    for (int index = 0; index < 4; index++)
        Py_INCREF(found[index]);
    PyObject *scopes = PyTuple_New(4);
    for (int index = 0; index < 4; index++)
        if (scopes != NULL)
            PyTuple_SET_ITEM(scopes, index, found[index]);
        else
            Py_DECREF(found[index]);
    return scopes;
}

/* --- ids and time ----------------------------------------------------------------------------------- */

static const char HEX[] = "0123456789abcdef";

#define RANDOM_BYTES 8192
#define PER_ID 10

static unsigned char pool[RANDOM_BYTES];
static size_t pool_used = RANDOM_BYTES;
static unsigned long long last_ms;
static unsigned last_count;
static long forks;

/* A child must not make the ids of its parent. */
static void
after_fork(void)
{
    unlock_batches();
    forks++;
    pool_used = RANDOM_BYTES;
}

static int
fill_pool(void)
{
    PyObject *bytes = PyObject_CallFunction(random_bytes, "i", RANDOM_BYTES);
    if (bytes == NULL)
        return FAILED;
    if (!PyBytes_CheckExact(bytes) || PyBytes_GET_SIZE(bytes) != RANDOM_BYTES) {
        Py_DECREF(bytes);
        PyErr_SetString(PyExc_RuntimeError, "os.urandom returned something else than was asked for");
        return FAILED;
    }
    memcpy(pool, PyBytes_AS_STRING(bytes), RANDOM_BYTES);
    pool_used = 0;
    Py_DECREF(bytes);
    return DONE;
}

/* What a function in C calls; NULL if it is none. */
static PyCFunction
code_of(PyObject *function)
{
    return function != NULL && PyCFunction_Check(function) ? PyCFunction_GET_FUNCTION(function) : NULL;
}

/* The wall clock in milliseconds; -1 with an error set. Heeds a time.time_ns that tests have replaced, also if they
 * let the function call something else, as time-machine does. */
static long long
now_ms(void)
{
    PyObject *function = PyDict_GetItemWithError(PyModule_GetDict(time_module), time_name);
#ifdef CLOCK_REALTIME
    struct timespec now;
    if (time_ns != NULL && code_of(function) == time_ns && clock_gettime(CLOCK_REALTIME, &now) == 0)
        return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
#endif
    if (function == NULL) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_AttributeError, "time.time_ns");
        return -1;
    }
    Py_INCREF(function);
    PyObject *result = PyObject_CallNoArgs(function);
    Py_DECREF(function);
    if (result == NULL)
        return -1;
    long long nanoseconds = PyLong_AsLongLong(result);
    Py_DECREF(result);
    if (nanoseconds < 0 && !PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "time.time_ns() is before 1970");
    return nanoseconds < 0 ? -1 : nanoseconds / 1000000;
}

/* A new UUIDv7 as a str; NULL with an error set. Ascending, also where the clock goes back. */
static PyObject *
make_id(long long now)
{
    if (pool_used + PER_ID > RANDOM_BYTES && fill_pool())
        return NULL;
    PyObject *id = PyUnicode_New(36, 127);
    if (id == NULL)
        return NULL;
    unsigned char bytes[16];
    memcpy(bytes + 6, pool + pool_used, PER_ID);
    pool_used += PER_ID;
    if ((unsigned long long)now > last_ms) {
        last_ms = (unsigned long long)now;
        last_count = (bytes[6] << 8 | bytes[7]) & 0x7ff;
    }
    else if (++last_count > 0xfff) {
        last_ms++;
        last_count = 0;
    }
    for (int index = 0; index < 6; index++)
        bytes[index] = (unsigned char)(last_ms >> (40 - 8 * index));
    bytes[6] = (unsigned char)(0x70 | last_count >> 8);
    bytes[7] = (unsigned char)last_count;
    bytes[8] = 0x80 | (bytes[8] & 0x3f);
    Py_UCS1 *out = PyUnicode_1BYTE_DATA(id);
    for (int index = 0; index < 16; index++) {
        if (index == 4 || index == 6 || index == 8 || index == 10)
            *out++ = '-';
        *out++ = (Py_UCS1)HEX[bytes[index] >> 4];
        *out++ = (Py_UCS1)HEX[bytes[index] & 15];
    }
    return id;
}

PyDoc_STRVAR(new_event_id_doc, "new_event_id($module, /)\n--\n\nA new UUIDv7 as a string of 36 characters.");

static PyObject *
py_new_event_id(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    long long now = now_ms();
    return now < 0 ? NULL : make_id(now);
}

/* --- events ----------------------------------------------------------------------------------------- */

static int
is_ascii(PyObject *value)
{
    return value != NULL && Py_TYPE(value) == &PyUnicode_Type && PyUnicode_IS_ASCII(value);
}

/* What `ingest` finds out about an event. */
typedef struct {
    int kind;
    PyObject *actor, *event_type, *text, *scopes;
    Py_ssize_t size;
} Sealed;

static void
drop(Sealed *sealed)
{
    Py_XDECREF(sealed->actor);
    Py_XDECREF(sealed->event_type);
    Py_XDECREF(sealed->text);
    Py_XDECREF(sealed->scopes);
}

/* Check an event of one of our two kinds and encode its payload. Whatever comes of it, `drop` what was found. */
static int
seal(PyObject *event, Py_ssize_t max_bytes, Sealed *sealed)
{
    int kind = Py_TYPE(event) == model.kinds[AGENT].type;
    PyObject *actor = FIELD(event, model.kinds[kind].actor);
    PyObject *event_type = FIELD(event, model.kinds[kind].event_type);
    *sealed = (Sealed){.kind = kind, .actor = Py_XNewRef(actor), .event_type = Py_XNewRef(event_type)};
    PyObject *text = FIELD(event, model.kinds[kind].text), *scopes = FIELD(event, model.kinds[kind].scopes);
    PyObject *size = FIELD(event, model.kinds[kind].size), *payload = FIELD(event, model.kinds[kind].payload);
    if (!is_ascii(actor) || !is_ascii(event_type))
        return UNUSUAL;
    if (text != NULL && text != Py_None) {
        /* It was sealed before. */
        if (scopes == NULL || size == NULL || Py_TYPE(size) != &PyLong_Type)
            return UNUSUAL;
        sealed->size = PyLong_AsSsize_t(size);
        if (sealed->size < 0 || sealed->size > max_bytes) {
            PyErr_Clear();
            return UNUSUAL;
        }
        sealed->text = Py_NewRef(text);
        sealed->scopes = Py_NewRef(scopes);
        return DONE;
    }
    int outcome = payload == NULL ? UNUSUAL : encode(payload, max_bytes, &sealed->text);
    if (outcome)
        return outcome;
    sealed->size = PyBytes_GET_SIZE(sealed->text) + PyUnicode_GET_LENGTH(actor) + PyUnicode_GET_LENGTH(event_type);
    sealed->scopes = scopes_in(payload);
    return sealed->scopes == NULL ? FAILED : DONE;
}

/* A sealed event; NULL with an error set. */
static PyObject *
make_event(Sealed *sealed)
{
    PyTypeObject *type = model.kinds[sealed->kind].type;
    PyObject *size = PyLong_FromSsize_t(sealed->size), *event = size == NULL ? NULL : type->tp_alloc(type, 0);
    if (event == NULL) {
        Py_XDECREF(size);
        return NULL;
    }
    FIELD(event, model.kinds[sealed->kind].actor) = Py_NewRef(sealed->actor);
    FIELD(event, model.kinds[sealed->kind].event_type) = Py_NewRef(sealed->event_type);
    FIELD(event, model.kinds[sealed->kind].text) = Py_NewRef(sealed->text);
    FIELD(event, model.kinds[sealed->kind].scopes) = Py_NewRef(sealed->scopes);
    FIELD(event, model.kinds[sealed->kind].size) = size;
    return event;
}

/* A sealed event with nothing in it yet, in an event that is to have an id and a seq: 0, or -1 with an error set. */
static int
make_blanks(int kind, PyObject **event, PyObject **persisted)
{
    *event = model.kinds[kind].type->tp_alloc(model.kinds[kind].type, 0);
    *persisted = *event == NULL ? NULL : model.persisted.type->tp_alloc(model.persisted.type, 0);
    if (*persisted != NULL)
        return 0;
    Py_CLEAR(*event);
    return -1;
}

PyDoc_STRVAR(reseal_doc, "reseal($module, event, /)\n--\n\nA copy of a sealed event, or None if it is unusual.");

static PyObject *
py_reseal(PyObject *Py_UNUSED(module), PyObject *event)
{
    if (Py_TYPE(event) != model.persisted.type || FIELD(event, model.persisted.event) == NULL)
        Py_RETURN_NONE;
    int kind = Py_TYPE(FIELD(event, model.persisted.event)) == model.kinds[AGENT].type;
    PyObject *copy, *persisted;
    if (make_blanks(kind, &copy, &persisted) < 0)
        return NULL;
    /* Objects were made: only now is it certain what is in the event. */
    PyObject *inner = FIELD(event, model.persisted.event);
    int is_usual = inner != NULL && Py_TYPE(inner) == model.kinds[kind].type
                   && is_ascii(FIELD(inner, model.kinds[kind].actor)) && is_ascii(FIELD(inner, model.kinds[kind].event_type))
                   && FIELD(inner, model.kinds[kind].text) != Py_None;
    Py_ssize_t inside[] = {model.kinds[kind].actor, model.kinds[kind].event_type, model.kinds[kind].text,
                           model.kinds[kind].scopes, model.kinds[kind].size};
    Py_ssize_t outside[] = {model.persisted.id, model.persisted.seq, model.persisted.timestamp, model.persisted.member};
    for (size_t index = 0; is_usual && index < sizeof inside / sizeof *inside; index++)
        is_usual = (FIELD(copy, inside[index]) = Py_XNewRef(FIELD(inner, inside[index]))) != NULL;
    for (size_t index = 0; is_usual && index < sizeof outside / sizeof *outside; index++)
        is_usual = (FIELD(persisted, outside[index]) = Py_XNewRef(FIELD(event, outside[index]))) != NULL;
    FIELD(persisted, model.persisted.event) = copy;
    if (is_usual)
        return persisted;
    Py_DECREF(persisted);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(event_of_doc, "event_of($module, columns, /)\n--\n\nThe event of these columns; see stores/_common/_columns.py.");

static PyObject *
py_event_of(PyObject *Py_UNUSED(module), PyObject *columns)
{
    PyObject *seq, *id, *timestamp, *actor, *event_type, *member, *text, *event, *persisted;
    int column;
    if (!PyArg_ParseTuple(columns, "OOOiOOOO:event_of", &seq, &id, &timestamp, &column, &actor, &event_type, &member, &text))
        return NULL;
    int kind = column == 0 ? AGENT : MODULE;
    if (make_blanks(kind, &event, &persisted) < 0)
        return NULL;
    FIELD(event, model.kinds[kind].actor) = Py_NewRef(actor);
    FIELD(event, model.kinds[kind].event_type) = Py_NewRef(event_type);
    FIELD(event, model.kinds[kind].text) = Py_NewRef(text == Py_None ? null : text);
    FIELD(event, model.kinds[kind].scopes) = Py_NewRef(Py_None);
    FIELD(event, model.kinds[kind].size) = Py_NewRef(Py_None);
    FIELD(persisted, model.persisted.id) = Py_NewRef(id);
    FIELD(persisted, model.persisted.seq) = Py_NewRef(seq);
    FIELD(persisted, model.persisted.timestamp) = Py_NewRef(timestamp);
    FIELD(persisted, model.persisted.member) = Py_NewRef(member);
    FIELD(persisted, model.persisted.event) = event;
    return persisted;
}

/* --- the intake ------------------------------------------------------------------------------------- */

/* Events that were ingested and that the flush task has not taken yet. See _log/_ingress.py. */
typedef struct {
    PyObject_HEAD
    PyObject *events, *filter, *look, *lost_from_now_on;
    long long capacity, last_seq, count, size, check_count, check_size, max_event_bytes, filtered;
    unsigned long thread;
    long forks;
    char is_closed;
} Intake;

static PyMemberDef intake_members[] = {
    {"filter", T_OBJECT, offsetof(Intake, filter), 0, NULL},
    {"look", T_OBJECT, offsetof(Intake, look), 0, NULL},
    {"lost_from_now_on", T_OBJECT, offsetof(Intake, lost_from_now_on), 0, NULL},
    {"capacity", T_LONGLONG, offsetof(Intake, capacity), 0, NULL},
    {"last_seq", T_LONGLONG, offsetof(Intake, last_seq), 0, NULL},
    {"count", T_LONGLONG, offsetof(Intake, count), READONLY, NULL},
    {"size", T_LONGLONG, offsetof(Intake, size), READONLY, NULL},
    {"check_count", T_LONGLONG, offsetof(Intake, check_count), 0, NULL},
    {"check_size", T_LONGLONG, offsetof(Intake, check_size), 0, NULL},
    {"max_event_bytes", T_LONGLONG, offsetof(Intake, max_event_bytes), 0, NULL},
    {"filtered", T_LONGLONG, offsetof(Intake, filtered), 0, NULL},
    {"is_closed", T_BOOL, offsetof(Intake, is_closed), 0, NULL},
    {NULL},
};

static PyObject *
intake_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(keywords))
{
    Intake *self = (Intake *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->thread = PyThread_get_thread_ident();
    self->forks = forks;
    self->events = PyList_New(0);
    if (self->events == NULL)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static int
intake_traverse(Intake *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->events);
    Py_VISIT(self->filter);
    Py_VISIT(self->look);
    Py_VISIT(self->lost_from_now_on);
    return 0;
}

static int
intake_clear(Intake *self)
{
    Py_CLEAR(self->filter);
    Py_CLEAR(self->look);
    Py_CLEAR(self->lost_from_now_on);
    return 0;
}

static void
intake_dealloc(Intake *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    intake_clear(self);
    Py_CLEAR(self->events);
    type->tp_free(self);
    Py_DECREF(type);
}

static int
is_set(PyObject *value)
{
    return value != NULL && value != Py_None;
}

/* Whether events can be taken in right here. */
static int
is_usual(Intake *self)
{
    return !self->is_closed && self->forks == forks && self->thread == PyThread_get_thread_ident()
           && !is_set(self->lost_from_now_on) && self->count < self->capacity && self->last_seq < LLONG_MAX;
}

static PyObject *
ingest_slowly(Intake *self, PyObject *event, int is_filtered)
{
    return PyObject_CallMethodObjArgs(
        (PyObject *)self, slow_name, event, is_filtered ? Py_True : Py_False, NULL);
}

/* The event in an envelope, with its id and time; UNUSUAL if the envelope is. All borrowed. */
static int
unwrap(PyObject *envelope, PyObject **event, PyObject **id, PyObject **timestamp)
{
    PyObject *source = FIELD(envelope, model.envelope.source);
    *event = FIELD(envelope, model.envelope.event);
    *id = FIELD(envelope, model.envelope.id);
    *timestamp = FIELD(envelope, model.envelope.timestamp);
    if (*event == NULL || source == NULL || *timestamp == NULL || !is_ascii(*id) || !is_ascii(source)
        || Py_TYPE(*timestamp) != &PyLong_Type)
        return UNUSUAL;
    int overflow;
    if (PyLong_AsLongLongAndOverflow(*timestamp, &overflow) < 0 || overflow)
        return UNUSUAL;
    PyObject *expected = Py_TYPE(*event) == model.kinds[AGENT].type ? agent_source : module_source;
    return source == expected || PyUnicode_Compare(source, expected) == 0 ? DONE : UNUSUAL;
}

/* Whether the filter keeps an event out: 1 or 0, or -1 with an error set. */
static int
is_kept_out(Intake *self, PyObject *event)
{
    PyObject *filter = Py_NewRef(self->filter);
    PyObject *answer = PyObject_CallOneArg(filter, event);
    Py_DECREF(filter);
    if (answer == NULL)
        return -1;
    int keep = PyObject_IsTrue(answer);
    Py_DECREF(answer);
    if (keep == 0)
        self->filtered++;
    return keep < 0 ? -1 : !keep;
}

static int
append(Intake *self, PyObject *persisted, long long size)
{
    if (PyList_Append(self->events, persisted) < 0)
        return -1;
    self->count++;
    self->size += size;
    return 0;
}

static int
must_look(Intake *self)
{
    return self->count >= self->check_count || self->size >= self->check_size;
}

/* Take in an event that was sealed. *handled says whether it could. */
static PyObject *
accept(Intake *self, Sealed *sealed, PyObject *id, PyObject *timestamp, int *handled)
{
    PyObject *seq = NULL;
    PyObject *event = make_event(sealed);
    PyObject *persisted = event == NULL ? NULL : model.persisted.type->tp_alloc(model.persisted.type, 0);
    Py_ssize_t size = sealed->size + PyUnicode_GET_LENGTH(id);
    *handled = 1;
    if (persisted == NULL)
        goto done;
    /* Objects were made since: anything may have happened. */
    if (!is_usual(self) || size > self->max_event_bytes) {
        *handled = 0;
        goto done;
    }
    seq = PyLong_FromLongLong(self->last_seq + 1);
    if (seq == NULL)
        goto done;
    FIELD(persisted, model.persisted.id) = Py_NewRef(id);
    FIELD(persisted, model.persisted.seq) = Py_NewRef(seq);
    FIELD(persisted, model.persisted.timestamp) = Py_NewRef(timestamp);
    FIELD(persisted, model.persisted.member) = Py_NewRef(sealed->kind == AGENT ? sealed->actor : Py_None);
    FIELD(persisted, model.persisted.event) = event;
    event = NULL;
    if (append(self, persisted, size) < 0) {
        Py_CLEAR(seq);
        goto done;
    }
    self->last_seq++;
    if (must_look(self) && self->look != NULL) {
        PyObject *look = Py_NewRef(self->look);
        PyObject *nothing = PyObject_CallNoArgs(look);
        Py_DECREF(look);
        if (nothing == NULL)
            Py_CLEAR(seq);
        Py_XDECREF(nothing);
    }
done:
    Py_XDECREF(event);
    Py_XDECREF(persisted);
    return seq;
}

/* Seal an event and take it in. The event, its id and its time are held by the caller; NULL: make them. */
static PyObject *
seal_and_accept(Intake *self, PyObject *event, PyObject *id, PyObject *timestamp, int *handled)
{
    PyObject *result = NULL;
    Sealed sealed;
    int outcome = seal(event, (Py_ssize_t)self->max_event_bytes, &sealed);
    *handled = outcome != UNUSUAL;
    Py_XINCREF(id);
    Py_XINCREF(timestamp);
    if (outcome == DONE && id == NULL) {
        long long now = now_ms();
        timestamp = now < 0 ? NULL : PyLong_FromLongLong(now);
        id = timestamp == NULL ? NULL : make_id(now);
    }
    if (outcome == DONE && id != NULL)
        result = accept(self, &sealed, id, timestamp, handled);
    drop(&sealed);
    Py_XDECREF(id);
    Py_XDECREF(timestamp);
    return result;
}

PyDoc_STRVAR(ingest_doc, "ingest($self, event, /)\n--\n\n"
"Check an event, give it a seq and let it wait for the store; see EventLog.ingest.");

static PyObject *
intake_ingest(Intake *self, PyObject *event)
{
    PyObject *bare = event, *id = NULL, *timestamp = NULL;
    if (!is_usual(self))
        return ingest_slowly(self, event, 0);
    if (Py_TYPE(event) == model.envelope.type && unwrap(event, &bare, &id, &timestamp))
        return ingest_slowly(self, event, 0);
    if (Py_TYPE(bare) != model.kinds[AGENT].type && Py_TYPE(bare) != model.kinds[MODULE].type)
        return ingest_slowly(self, event, 0);
    /* The envelope may change while other code runs. */
    Py_INCREF(bare);
    Py_XINCREF(id);
    Py_XINCREF(timestamp);
    PyObject *result = NULL;
    int handled = 1, is_filtered = is_set(self->filter);
    int kept_out = is_filtered ? is_kept_out(self, bare) : 0;
    if (kept_out == 0)
        result = seal_and_accept(self, bare, id, timestamp, &handled);
    else if (kept_out > 0)
        result = Py_NewRef(Py_None);
    Py_DECREF(bare);
    Py_XDECREF(id);
    Py_XDECREF(timestamp);
    return handled ? result : ingest_slowly(self, event, is_filtered);
}

PyDoc_STRVAR(put_doc, "put($self, event, size, /)\n--\n\n"
"Add a PersistedEvent. Returns whether there may be something to do.");

static PyObject *
intake_put(Intake *self, PyObject *args)
{
    PyObject *persisted;
    long long size;
    if (!PyArg_ParseTuple(args, "O!L:put", model.persisted.type, &persisted, &size)
        || append(self, persisted, size) < 0)
        return NULL;
    return PyBool_FromLong(must_look(self));
}

PyDoc_STRVAR(take_all_doc, "take_all($self, /)\n--\n\nRemove all events and return them.");

static PyObject *
intake_take_all(Intake *self, PyObject *Py_UNUSED(none))
{
    PyObject *fresh = PyList_New(0), *events = self->events;
    if (fresh == NULL)
        return NULL;
    self->events = fresh;
    self->count = self->size = 0;
    self->check_count = self->check_size = 1;
    return events;
}

static PyMethodDef intake_methods[] = {
    {"ingest", (PyCFunction)intake_ingest, METH_O, ingest_doc},
    {"put", (PyCFunction)intake_put, METH_VARARGS, put_doc},
    {"take_all", (PyCFunction)intake_take_all, METH_NOARGS, take_all_doc},
    {NULL},
};

static PyType_Slot intake_slots[] = {
    {Py_tp_doc, "What EventLog.ingest fills; the twin of _log/_ingress.Ingress."},
    {Py_tp_new, intake_new},
    {Py_tp_dealloc, intake_dealloc},
    {Py_tp_traverse, intake_traverse},
    {Py_tp_clear, intake_clear},
    {Py_tp_members, intake_members},
    {Py_tp_methods, intake_methods},
    {0, NULL},
};

static PyType_Spec intake_spec = {
    .name = "trio_eventlog._speedups._core.Intake",
    .basicsize = sizeof(Intake),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = intake_slots,
};

/* --- the module ------------------------------------------------------------------------------------- */

/* Where instances of `type` hold a field; -1 with an error set if it has no slot for it. */
static Py_ssize_t
offset_of(PyTypeObject *type, const char *name)
{
    PyObject *descriptor = PyObject_GetAttrString((PyObject *)type, name);
    if (descriptor == NULL)
        return -1;
    Py_ssize_t offset = -1;
    if (Py_TYPE(descriptor) == &PyMemberDescr_Type && ((PyMemberDescrObject *)descriptor)->d_member->type == T_OBJECT_EX)
        offset = ((PyMemberDescrObject *)descriptor)->d_member->offset;
    else
        PyErr_Format(PyExc_TypeError, "%s.%s is not a slot", type->tp_name, name);
    Py_DECREF(descriptor);
    return offset;
}

PyDoc_STRVAR(configure_doc, "configure($module, encode, agent, module, envelope, persisted, scopes, no_scopes, /)\n--\n\n"
"Find out where the classes of events have their fields. Called once, before anything else.");

static PyObject *
configure(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *encode_function, *scopes, *empty;
    Model found;
    PyTypeObject *agent, *module_event, *envelope, *persisted;
    if (!PyArg_ParseTuple(args, "OO!O!O!O!O!O!:configure", &encode_function, &PyType_Type, &agent, &PyType_Type, &module_event, &PyType_Type,
                          &envelope, &PyType_Type, &persisted, &PyTuple_Type, &scopes, &PyTuple_Type, &empty))
        return NULL;
    if (PyTuple_GET_SIZE(scopes) != 4 || PyTuple_GET_SIZE(empty) != 4)
        return PyErr_Format(PyExc_ValueError, "expected four scopes");
#define OF(part, field, name) {&found.part.type, &found.part.field, name}
    struct { PyTypeObject **type; Py_ssize_t *offset; const char *name; } fields[] = {
        OF(kinds[AGENT], actor, "agent_id"), OF(kinds[MODULE], actor, "module"),
        OF(kinds[AGENT], event_type, "event_type"), OF(kinds[MODULE], event_type, "event_type"),
        OF(kinds[AGENT], payload, "payload"), OF(kinds[MODULE], payload, "payload"),
        OF(kinds[AGENT], text, "_text"), OF(kinds[MODULE], text, "_text"),
        OF(kinds[AGENT], scopes, "_scopes"), OF(kinds[MODULE], scopes, "_scopes"),
        OF(kinds[AGENT], size, "_size"), OF(kinds[MODULE], size, "_size"),
        OF(envelope, id, "event_id"), OF(envelope, source, "source"), OF(envelope, timestamp, "timestamp_ms"),
        OF(envelope, event, "event"), OF(persisted, id, "id"), OF(persisted, seq, "seq"),
        OF(persisted, timestamp, "timestamp_ms"), OF(persisted, member, "member_id"), OF(persisted, event, "event"),
    };
    found.kinds[AGENT].type = agent;
    found.kinds[MODULE].type = module_event;
    found.envelope.type = envelope;
    found.persisted.type = persisted;
    for (size_t index = 0; index < sizeof fields / sizeof *fields; index++)
        if ((*fields[index].offset = offset_of(*fields[index].type, fields[index].name)) < 0)
            return NULL;
    for (int index = 0; index < 4; index++)
        Py_XSETREF(scope_names[index], Py_NewRef(PyTuple_GET_ITEM(scopes, index)));
    Py_XSETREF(no_scopes, Py_NewRef(empty));
    Py_XSETREF(encoder, Py_NewRef(encode_function));
    /* For good, like the module itself. */
    Py_INCREF(agent);
    Py_INCREF(module_event);
    Py_INCREF(envelope);
    Py_INCREF(persisted);
    model = found;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(check_interpreter_doc, "check_interpreter($module, /)\n--\n\n"
"Raise ImportError in a subinterpreter: what `configure` finds is kept for the whole process.");

static PyObject *
check_interpreter(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    if (PyInterpreterState_Get() == PyInterpreterState_Main())
        Py_RETURN_NONE;
    PyErr_SetString(PyExc_ImportError, "the core is for the main interpreter only");
    return NULL;
}

static PyMethodDef functions[] = {
    {"check_interpreter", check_interpreter, METH_NOARGS, check_interpreter_doc},
    {"configure", configure, METH_VARARGS, configure_doc},
    {"encode", py_encode, METH_VARARGS, encode_doc},
    {"event_of", py_event_of, METH_O, event_of_doc},
    {"new_event_id", py_new_event_id, METH_NOARGS, new_event_id_doc},
    {"reseal", py_reseal, METH_O, reseal_doc},
    {NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "trio_eventlog._speedups._core",
    .m_doc = "The optional core in C; each part has a twin in Python.",
    .m_size = -1,
    .m_methods = functions,
};

static PyObject *
imported(const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    PyObject *value = module == NULL ? NULL : PyObject_GetAttrString(module, name);
    Py_XDECREF(module);
    return value;
}

PyMODINIT_FUNC
PyInit__core(void)
{
    agent_source = PyUnicode_InternFromString("agent");
    module_source = PyUnicode_InternFromString("module");
    null = PyBytes_FromString("null");
    slow_name = PyUnicode_InternFromString("_ingest_slowly");
    time_name = PyUnicode_InternFromString("time_ns");
    time_module = PyImport_ImportModule("time");
    if (time_module != NULL && time_name != NULL)
        time_ns = code_of(PyDict_GetItemWithError(PyModule_GetDict(time_module), time_name));
    random_bytes = imported("os", "urandom");
    PyObject *module = PyModule_Create(&definition);
    PyObject *intake = PyType_FromSpec(&intake_spec);
    if (!null || !agent_source || !module_source || !slow_name || !time_name || !time_module || !random_bytes
        || !module || !intake || PyModule_AddObjectRef(module, "Intake", intake) < 0 || add_rows(module) < 0)
        Py_CLEAR(module);
    Py_XDECREF(intake);
#ifndef _WIN32
    if (module != NULL && pthread_atfork(lock_batches, unlock_batches, after_fork)) {
        PyErr_NoMemory();
        Py_CLEAR(module);
    }
#endif
    return module;
}
