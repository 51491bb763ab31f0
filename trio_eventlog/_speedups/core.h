/* The optional core of trio_eventlog, in C: what the two files share.
 *
 * Everything here has a twin in Python that is the definition. What is unusual (a flaw, a subclass, a string
 * that is not ASCII where that matters, a log that is closed) is left to Python, which then does the whole
 * call: the C code never makes an error message. It runs only where it was compiled, in the main interpreter,
 * and not if the environment variable TRIO_EVENTLOG_PURE is set.
 *
 * What is assumed of CPython, 3.11 and later, with its lock (free-threaded builds use the twins):
 *
 * - Instances of classes with __slots__ hold their values at fixed offsets, which the member descriptors of
 *   the class know, as strong references or NULL. attrs makes such classes.
 * - No Python code runs, and so no other thread, while only the following are called: the allocators of str,
 *   bytes and int, PyDict_Next, PyDict_GetItemWithError on exact strings, PyUnicode_AsUTF8AndSize,
 *   PyList_Append. Allocating anything else may run the collector of cycles, and with it any code at all.
 * - The characters of a str, and its UTF-8 form once it was asked for, stay where they are as long as the
 *   str lives.
 */
#ifndef TRIO_EVENTLOG_CORE_H
#define TRIO_EVENTLOG_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Where the fields of the classes are; found by `configure`. */
enum { MODULE, AGENT };

typedef struct {
    struct { PyTypeObject *type; Py_ssize_t actor, event_type, payload, text, scopes, size; } kinds[2];
    struct { PyTypeObject *type; Py_ssize_t id, source, timestamp, event; } envelope;
    struct { PyTypeObject *type; Py_ssize_t id, seq, timestamp, member, event; } persisted;
} Model;

extern Model model;

/* A field of an object: a borrowed reference, or NULL. */
#define FIELD(object, offset) (*(PyObject **)((char *)(object) + (offset)))

enum { FAILED = -1, DONE, UNUSUAL };

/* The text of an exact str as UTF-8. */
int utf8_of(PyObject *value, const char **text, Py_ssize_t *size);

/* Adds what is in _rows.c to the module. */
int add_rows(PyObject *module);

/* Called around a fork: a child could not wait for threads that only its parent has. */
void lock_batches(void);
void unlock_batches(void);

#endif
