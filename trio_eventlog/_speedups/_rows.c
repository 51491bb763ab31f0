/* A virtual table through which SQLite reads the events of a batch in place, without Python. See core.h. */

#include "core.h"

#include "sqlite/sqlite3ext.h"

#include <limits.h>
#include <structmember.h>
#include <string.h>

SQLITE_EXTENSION_INIT1

/* --- a batch ---------------------------------------------------------------------------------------- */

typedef struct { const char *start; int size; } Text; /* start is NULL for SQL's NULL */

typedef struct {
    sqlite3_int64 seq, timestamp;
    Text id, actor, event_type, member, payload, scopes[4];
    int kind;
} Row;

/* Events, and where their texts are. SQLite is given a number, so that a wrong one is no wrong address. */
typedef struct Batch {
    PyObject_VAR_HEAD
    PyObject *events;
    sqlite3_int64 number;
    unsigned seed;
    struct Batch *next;
    Row rows[1];
} Batch;

static struct { PyThread_type_lock lock; Batch *first; sqlite3_int64 last_number; } batches;

void
lock_batches(void)
{
    PyThread_acquire_lock(batches.lock, WAIT_LOCK);
}

void
unlock_batches(void)
{
    PyThread_release_lock(batches.lock);
}

static Batch *
find_batch(sqlite3_int64 number)
{
    lock_batches();
    Batch *batch = batches.first;
    while (batch != NULL && batch->number != number)
        batch = batch->next;
    unlock_batches();
    return batch;
}

static void
batch_dealloc(Batch *self)
{
    lock_batches();
    for (Batch **at = &batches.first; *at != NULL; at = &(*at)->next)
        if (*at == self) {
            *at = self->next;
            break;
        }
    unlock_batches();
    Py_CLEAR(self->events);
    Py_TYPE(self)->tp_free(self);
}

static int
read_text(PyObject *value, Text *text)
{
    Py_ssize_t size;
    if (value == Py_None) {
        text->start = NULL;
        return DONE;
    }
    if (value == NULL || Py_TYPE(value) != &PyUnicode_Type)
        return UNUSUAL;
    int outcome = utf8_of(value, &text->start, &size);
    if (outcome || size > INT_MAX)
        return outcome ? outcome : UNUSUAL;
    text->size = (int)size;
    return DONE;
}

static int
read_integer(PyObject *value, sqlite3_int64 *number)
{
    int overflow = 1;
    if (value == NULL || Py_TYPE(value) != &PyLong_Type)
        return UNUSUAL;
    *number = PyLong_AsLongLongAndOverflow(value, &overflow);
    return overflow || *number < 0 ? UNUSUAL : DONE;
}

static int
read_payload(PyObject *value, Text *text)
{
    int outcome = DONE;
    if (value != NULL && PyBytes_CheckExact(value) && PyBytes_GET_SIZE(value) <= INT_MAX) {
        text->start = PyBytes_AS_STRING(value);
        text->size = (int)PyBytes_GET_SIZE(value);
    }
    else
        outcome = value == Py_None ? UNUSUAL : read_text(value, text);
    if (outcome == DONE && text->size == 4 && !memcmp(text->start, "null", 4))
        text->start = NULL;
    return outcome;
}

/* A sealed event whose scopes are known. */
static int
read_row(PyObject *persisted, Row *row)
{
    if (Py_TYPE(persisted) != model.persisted.type)
        return UNUSUAL;
    PyObject *event = FIELD(persisted, model.persisted.event);
    if (event == NULL)
        return UNUSUAL;
    int outcome, kind = Py_TYPE(event) == model.kinds[AGENT].type;
    if (!kind && Py_TYPE(event) != model.kinds[MODULE].type)
        return UNUSUAL;
    PyObject *scopes = FIELD(event, model.kinds[kind].scopes);
    if (scopes == NULL || !PyTuple_CheckExact(scopes) || PyTuple_GET_SIZE(scopes) != 4)
        return UNUSUAL;
    row->kind = kind == AGENT ? 0 : 1;
    for (int index = 0; index < 4; index++)
        if ((outcome = read_text(PyTuple_GET_ITEM(scopes, index), &row->scopes[index])))
            return outcome;
    if ((outcome = read_integer(FIELD(persisted, model.persisted.seq), &row->seq))
        || (outcome = read_integer(FIELD(persisted, model.persisted.timestamp), &row->timestamp))
        || (outcome = read_text(FIELD(persisted, model.persisted.id), &row->id))
        || (outcome = read_text(FIELD(event, model.kinds[kind].actor), &row->actor))
        || (outcome = read_text(FIELD(event, model.kinds[kind].event_type), &row->event_type))
        || (outcome = read_text(FIELD(persisted, model.persisted.member), &row->member)))
        return outcome;
    return read_payload(FIELD(event, model.kinds[kind].text), &row->payload);
}

static PyMemberDef batch_members[] = {
    {"number", T_LONGLONG, offsetof(Batch, number), READONLY, NULL},
    {NULL},
};

static PyTypeObject BatchType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "trio_eventlog._speedups._core.Batch",
    .tp_doc = "Events that SQLite can read as table trio_eventlog_batch(number), as long as this lives.",
    .tp_basicsize = offsetof(Batch, rows),
    .tp_itemsize = sizeof(Row),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_dealloc = (destructor)batch_dealloc,
    .tp_members = batch_members,
};

static PyObject *
make_batch(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *events;
    unsigned seed;
    if (!PyArg_ParseTuple(args, "OI:make_batch", &events, &seed) || (events = PySequence_Tuple(events)) == NULL)
        return NULL;
    Py_ssize_t count = PyTuple_GET_SIZE(events);
    Batch *self = PyObject_NewVar(Batch, &BatchType, count);
    if (self == NULL) {
        Py_DECREF(events);
        return NULL;
    }
    self->events = events;
    self->seed = seed;
    lock_batches();
    self->number = ++batches.last_number;
    self->next = batches.first;
    batches.first = self;
    unlock_batches();
    int outcome = DONE;
    for (Py_ssize_t index = 0; index < count && outcome == DONE; index++)
        outcome = read_row(PyTuple_GET_ITEM(events, index), &self->rows[index]);
    if (outcome == DONE)
        return (PyObject *)self;
    Py_DECREF(self);
    if (outcome == FAILED)
        return NULL;
    Py_RETURN_NONE;
}

/* --- how often each type, member and module comes, as in stores/sqlite/_counts.py -------------------- */

static int
add_one(PyObject *counts, PyObject *key)
{
    if (key == NULL || Py_TYPE(key) != &PyUnicode_Type)
        return UNUSUAL;
    PyObject *before = PyDict_GetItemWithError(counts, key);
    if (before == NULL && PyErr_Occurred())
        return FAILED;
    PyObject *count = PyLong_FromLong(before == NULL ? 1 : PyLong_AsLong(before) + 1);
    int outcome = count == NULL || PyDict_SetItem(counts, key, count) < 0 ? FAILED : DONE;
    Py_XDECREF(count);
    return outcome;
}

static int
count_one(PyObject *persisted, sqlite3_int64 *timestamp, PyObject *counts[3])
{
    if (Py_TYPE(persisted) != model.persisted.type)
        return UNUSUAL;
    PyObject *event = FIELD(persisted, model.persisted.event), *member = FIELD(persisted, model.persisted.member);
    if (event == NULL)
        return UNUSUAL;
    int outcome, kind = Py_TYPE(event) == model.kinds[AGENT].type ? AGENT : MODULE;
    if (Py_TYPE(event) != model.kinds[kind].type)
        return UNUSUAL;
    if ((outcome = read_integer(FIELD(persisted, model.persisted.timestamp), timestamp))
        || (outcome = add_one(counts[0], FIELD(event, model.kinds[kind].event_type))))
        return outcome;
    if (member != Py_None && (outcome = add_one(counts[1], member)))
        return outcome;
    return kind == MODULE ? add_one(counts[2], FIELD(event, model.kinds[MODULE].actor)) : DONE;
}

static PyObject *
count_events(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *events, *counts[3], *result = NULL;
    Py_ssize_t start, stop;
    if (!PyArg_ParseTuple(args, "Onn:count_events", &events, &start, &stop)
        || (events = PySequence_Fast(events, "expected a sequence of events")) == NULL)
        return NULL;
    int outcome = DONE;
    for (int index = 0; index < 3; index++)
        if ((counts[index] = PyDict_New()) == NULL)
            outcome = FAILED;
    sqlite3_int64 timestamp, first = LLONG_MAX, last = 0;
    stop = Py_MIN(stop, PySequence_Fast_GET_SIZE(events));
    for (Py_ssize_t index = Py_MAX(start, 0); index < stop && outcome == DONE; index++)
        if ((outcome = count_one(PySequence_Fast_GET_ITEM(events, index), &timestamp, counts)) == DONE) {
            first = Py_MIN(first, timestamp);
            last = Py_MAX(last, timestamp);
        }
    if (outcome == DONE)
        result = Py_BuildValue("(LLOOO)", first, last, counts[0], counts[1], counts[2]);
    for (int index = 0; index < 3; index++)
        Py_XDECREF(counts[index]);
    Py_DECREF(events);
    if (outcome == UNUSUAL)
        Py_RETURN_NONE;
    return result;
}

/* --- its checksums: CRC-32 of MessagePack, as in stores/sqlite/_checksums.py ------------------------- */

static unsigned crc_tables[8][256];

static void
fill_crc_tables(void)
{
    for (unsigned byte = 0; byte < 256; byte++) {
        unsigned crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ 0xedb88320u : crc >> 1;
        crc_tables[0][byte] = crc;
    }
    for (unsigned byte = 0; byte < 256; byte++)
        for (int table = 1; table < 8; table++)
            crc_tables[table][byte] =
                crc_tables[table - 1][byte] >> 8 ^ crc_tables[0][crc_tables[table - 1][byte] & 255];
}

static unsigned
add_bytes(unsigned crc, const void *bytes, size_t count)
{
    const unsigned char *at = bytes;
    for (; count >= 8; count -= 8, at += 8) {
        crc ^= at[0] | at[1] << 8 | at[2] << 16 | (unsigned)at[3] << 24;
        crc = crc_tables[7][crc & 255] ^ crc_tables[6][crc >> 8 & 255] ^ crc_tables[5][crc >> 16 & 255]
              ^ crc_tables[4][crc >> 24] ^ crc_tables[3][at[4]] ^ crc_tables[2][at[5]] ^ crc_tables[1][at[6]]
              ^ crc_tables[0][at[7]];
    }
    for (; count; count--)
        crc = crc >> 8 ^ crc_tables[0][(crc ^ *at++) & 255];
    return crc;
}

/* A code, and a number in `width` bytes, the highest first. */
static unsigned
add_number(unsigned crc, unsigned code, unsigned long long number, int width)
{
    unsigned char bytes[9] = {(unsigned char)code};
    for (int index = 0; index < width; index++)
        bytes[1 + index] = (unsigned char)(number >> 8 * (width - 1 - index));
    return add_bytes(crc, bytes, (size_t)width + 1);
}

static unsigned
add_integer(unsigned crc, sqlite3_int64 number)
{
    unsigned long long value = (unsigned long long)number;
    if (value < 0x80)
        return add_number(crc, (unsigned)value, 0, 0);
    int power = value > 0xffffffff ? 3 : value > 0xffff ? 2 : value > 0xff ? 1 : 0;
    return add_number(crc, 0xcc + (unsigned)power, value, 1 << power);
}

static unsigned
add_text(unsigned crc, const Text *text)
{
    if (text->start == NULL)
        return add_number(crc, 0xc0, 0, 0);
    unsigned size = (unsigned)text->size;
    int power = size > 0xffff ? 2 : size > 0xff ? 1 : 0;
    crc = size < 32 ? add_number(crc, 0xa0 | size, 0, 0) : add_number(crc, 0xd9 + (unsigned)power, size, 1 << power);
    return add_bytes(crc, text->start, size);
}

static unsigned
checksum_of(const Row *row, unsigned seed)
{
    unsigned crc = add_number(~seed, 0x98, 0, 0);
    crc = add_text(add_integer(crc, row->seq), &row->id);
    crc = add_integer(add_integer(crc, row->timestamp), row->kind);
    crc = add_text(add_text(add_text(crc, &row->actor), &row->event_type), &row->member);
    return ~add_text(crc, &row->payload);
}

/* --- the table: what SQLite calls, without Python's lock --------------------------------------------- */

typedef struct { sqlite3_vtab_cursor base; Batch *batch; Py_ssize_t index; } Cursor;

static const char COLUMNS[] = "CREATE TABLE batch (seq, id, timestamp_ms, kind, actor, event_type, member_id, identity,"
                              " mob_id, run_id, step_id, checksum, payload, number HIDDEN)";
enum { SEQ, ID, TIMESTAMP, KIND, ACTOR, EVENT_TYPE, MEMBER, SCOPE, CHECKSUM = SCOPE + 4, PAYLOAD, NUMBER };

static int
table_connect(sqlite3 *db, void *Py_UNUSED(aux), int Py_UNUSED(count), const char *const *Py_UNUSED(arguments),
              sqlite3_vtab **table, char **Py_UNUSED(error))
{
    int outcome = sqlite3_declare_vtab(db, COLUMNS);
    *table = outcome == SQLITE_OK ? sqlite3_malloc(sizeof **table) : NULL;
    if (*table == NULL)
        return outcome == SQLITE_OK ? SQLITE_NOMEM : outcome;
    memset(*table, 0, sizeof **table);
    return SQLITE_OK;
}

static int
table_disconnect(sqlite3_vtab *table)
{
    sqlite3_free(table);
    return SQLITE_OK;
}

/* The number is its argument. */
static int
table_best_index(sqlite3_vtab *Py_UNUSED(table), sqlite3_index_info *info)
{
    for (int index = 0; index < info->nConstraint; index++)
        if (info->aConstraint[index].usable && info->aConstraint[index].iColumn == NUMBER
            && info->aConstraint[index].op == SQLITE_INDEX_CONSTRAINT_EQ) {
            info->aConstraintUsage[index].argvIndex = 1;
            info->aConstraintUsage[index].omit = 1;
            info->estimatedCost = 1000;
            return SQLITE_OK;
        }
    return SQLITE_CONSTRAINT;
}

static int
table_open(sqlite3_vtab *Py_UNUSED(table), sqlite3_vtab_cursor **cursor)
{
    Cursor *made = sqlite3_malloc(sizeof *made);
    if (made == NULL)
        return SQLITE_NOMEM;
    memset(made, 0, sizeof *made);
    *cursor = &made->base;
    return SQLITE_OK;
}

static int
table_close(sqlite3_vtab_cursor *cursor)
{
    sqlite3_free(cursor);
    return SQLITE_OK;
}

static int
table_filter(sqlite3_vtab_cursor *cursor, int Py_UNUSED(plan), const char *Py_UNUSED(text), int Py_UNUSED(count),
             sqlite3_value **arguments)
{
    Cursor *self = (Cursor *)cursor;
    self->batch = find_batch(sqlite3_value_int64(arguments[0]));
    self->index = 0;
    return self->batch == NULL ? SQLITE_MISUSE : SQLITE_OK;
}

static int
table_next(sqlite3_vtab_cursor *cursor)
{
    ((Cursor *)cursor)->index++;
    return SQLITE_OK;
}

static int
table_eof(sqlite3_vtab_cursor *cursor)
{
    return ((Cursor *)cursor)->index >= Py_SIZE(((Cursor *)cursor)->batch);
}

static void
give_text(sqlite3_context *context, const Text *text)
{
    if (text->start != NULL)
        sqlite3_result_text(context, text->start, text->size, SQLITE_STATIC);
}

static int
table_column(sqlite3_vtab_cursor *cursor, sqlite3_context *context, int column)
{
    const Batch *batch = ((Cursor *)cursor)->batch;
    const Row *row = &batch->rows[((Cursor *)cursor)->index];
    switch (column) {
    case SEQ: sqlite3_result_int64(context, row->seq); break;
    case ID: give_text(context, &row->id); break;
    case TIMESTAMP: sqlite3_result_int64(context, row->timestamp); break;
    case KIND: sqlite3_result_int(context, row->kind); break;
    case ACTOR: give_text(context, &row->actor); break;
    case EVENT_TYPE: give_text(context, &row->event_type); break;
    case MEMBER: give_text(context, &row->member); break;
    case CHECKSUM: sqlite3_result_int64(context, checksum_of(row, batch->seed)); break;
    case PAYLOAD: give_text(context, &row->payload); break;
    case NUMBER: sqlite3_result_int64(context, batch->number); break;
    default: give_text(context, &row->scopes[column - SCOPE]); break;
    }
    return SQLITE_OK;
}

static int
table_rowid(sqlite3_vtab_cursor *cursor, sqlite3_int64 *rowid)
{
    *rowid = ((Cursor *)cursor)->index;
    return SQLITE_OK;
}

/* Without xCreate, it is there in every connection by its name alone. */
static const sqlite3_module TABLE = {
    .xConnect = table_connect, .xBestIndex = table_best_index, .xDisconnect = table_disconnect,
    .xOpen = table_open, .xClose = table_close, .xFilter = table_filter, .xNext = table_next, .xEof = table_eof,
    .xColumn = table_column, .xRowid = table_rowid,
};

/* What load_extension calls. */
#ifdef _WIN32
__declspec(dllexport)
#else
__attribute__((visibility("default")))
#endif
int
trio_eventlog_rows_init(sqlite3 *db, char **Py_UNUSED(error), const sqlite3_api_routines *api)
{
    SQLITE_EXTENSION_INIT2(api);
    return sqlite3_create_module(db, "trio_eventlog_batch", &TABLE, NULL);
}

int
add_rows(PyObject *module)
{
    static PyMethodDef functions[] = {
        {"make_batch", make_batch, METH_VARARGS,
         "make_batch($module, events, seed, /)\n--\n\n"
         "Sealed events as a Batch; None if one of them is unusual."},
        {"count_events", count_events, METH_VARARGS,
         "count_events($module, events, start, stop, /)\n--\n\n"
         "The first and the last time of some events, and how often each type, member and module comes;"
         " None if one of them is unusual."},
        {NULL},
    };
    fill_crc_tables();
    batches.lock = PyThread_allocate_lock();
    if (batches.lock == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (PyType_Ready(&BatchType) < 0 || PyModule_AddObjectRef(module, "Batch", (PyObject *)&BatchType) < 0)
        return -1;
    return PyModule_AddFunctions(module, functions);
}
