#include "pickle.h"

#include <string.h>

#include "pickle_names.h"
#include "pickle_values.h"
#include "printable.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are read as they lie in the file");

typedef cavmae__pickle_value value;
typedef cavmae__pickle_array array;
typedef cavmae__pickle_segment segment;
typedef cavmae__pickle_container container;

/* No opcode makes more than some 100 bytes of memory for each of its own,
 * growing arrays by doubling included. */
enum { MAX_DEPTH = 1000, MEMORY_BASE = 64 << 10, MEMORY_FACTOR = 128, MAX_MEMORY = 1 << 30, FIRST_ROOM = 32 };

/* The machine that the opcodes run on. */
typedef struct machine {
    cavmae__pickle *pickle;
    const char *where;
    const unsigned char *data;
    size_t size, at; /* at: the next byte */
    size_t opcode_at;
    size_t memory;
    array stack, memo; /* of value */
    array marks;       /* of size_t: the stack's heights */
    int64_t memo_used;
    size_t floor; /* height at the last mark: what lies below is out of reach */
} machine;

#define FAULT(m, code, ...) name_place((m), cavmae__fail((code), __VA_ARGS__))

static cavmae_status name_place(const machine *m, cavmae_status status) {
    return cavmae__fail_prefix(status, "%s: byte %zu", m->where, m->opcode_at);
}

/* ---- Memory ---- */

/* Room for `count` more. */
static cavmae_status reserve(machine *m, array *a, size_t count, size_t size) {
    size_t needed = a->count + count, room = needed * 2 < FIRST_ROOM ? FIRST_ROOM : needed * 2;
    if (needed <= a->room) return CAVMAE_OK;
    size_t limit = MEMORY_BASE + m->at * MEMORY_FACTOR;
    m->memory += (room - a->room) * size;
    if (m->memory > limit || m->memory > MAX_MEMORY)
        return FAULT(m, CAVMAE_E_FORMAT, "the pickle takes %zu bytes of memory, more than a pickle of its size may",
                     m->memory);
    void *grown = cavmae__realloc(m->pickle->context, a->data, a->count * size, room * size);
    if (!grown) return CAVMAE_E_NOMEM;
    a->data = grown;
    a->room = room;
    return CAVMAE_OK;
}

static cavmae_status append_values(machine *m, array *a, const value *values, size_t count) {
    CAVMAE__TRY(reserve(m, a, count, sizeof(value)));
    if (count) memcpy((value *)a->data + a->count, values, count * sizeof(value));
    a->count += count;
    return CAVMAE_OK;
}

/* ---- The stack ---- */

static cavmae_status push(machine *m, cavmae__pickle_type type, size_t length, int64_t at) {
    value v = {(uint32_t)type, (uint32_t)length, at};
    return append_values(m, &m->stack, &v, 1);
}

/* The `count` topmost values, off the stack; they stay valid until the next push. */
static cavmae_status pop(machine *m, size_t count, const value **out) {
    if (m->stack.count - m->floor < count) return FAULT(m, CAVMAE_E_FORMAT, "the stack is empty");
    m->stack.count -= count;
    *out = cavmae__pickle_values(&m->stack) + m->stack.count;
    return CAVMAE_OK;
}

static cavmae_status top(machine *m, value **out) {
    if (m->stack.count == m->floor) return FAULT(m, CAVMAE_E_FORMAT, "the stack is empty");
    *out = cavmae__pickle_values(&m->stack) + m->stack.count - 1;
    return CAVMAE_OK;
}

static cavmae_status mark(machine *m) {
    if (m->marks.count == MAX_DEPTH) return FAULT(m, CAVMAE_E_FORMAT, "nested more than %d deep", MAX_DEPTH);
    CAVMAE__TRY(reserve(m, &m->marks, 1, sizeof(size_t)));
    ((size_t *)m->marks.data)[m->marks.count++] = m->stack.count;
    m->floor = m->stack.count;
    return CAVMAE_OK;
}

/* Everything above the last mark, and the mark, off the stack. */
static cavmae_status pop_mark(machine *m, const value **out, size_t *count) {
    if (m->marks.count == 0) return FAULT(m, CAVMAE_E_FORMAT, "there is no mark");
    *count = m->stack.count - m->floor;
    CAVMAE__TRY(pop(m, *count, out));
    const size_t *marks = m->marks.data;
    m->marks.count--;
    m->floor = m->marks.count ? marks[m->marks.count - 1] : 0;
    return CAVMAE_OK;
}

/* ---- Arguments in the pickle's bytes ---- */

static cavmae_status take(machine *m, uint64_t count, const unsigned char **out) {
    if (count > m->size - m->at) return FAULT(m, CAVMAE_E_FORMAT, "the pickle ends in the middle");
    *out = m->data + m->at;
    m->at += (size_t)count;
    if (m->at > CAVMAE__PICKLE_MAX_SIZE)
        return FAULT(m, CAVMAE_E_UNSUPPORTED, "a pickle of more than %d MiB is none of a dictionary of tensors",
                     CAVMAE__PICKLE_MAX_SIZE >> 20);
    return CAVMAE_OK;
}

/* An unsigned number of `size` bytes. */
static cavmae_status take_number(machine *m, size_t size, uint64_t *out) {
    const unsigned char *bytes = NULL;
    CAVMAE__TRY(take(m, size, &bytes));
    *out = 0;
    memcpy(out, bytes, size);
    return CAVMAE_OK;
}

/* A length of so many bytes, and what it measures, as a value. */
static cavmae_status push_text(machine *m, cavmae__pickle_type type, size_t length_size) {
    const unsigned char *text = NULL;
    uint64_t length;
    CAVMAE__TRY(take_number(m, length_size, &length));
    CAVMAE__TRY(take(m, length, &text));
    return push(m, type, (size_t)length, text - m->data);
}

static cavmae_status push_long(machine *m, size_t length_size) {
    const unsigned char *bytes = NULL;
    uint64_t length;
    int64_t number = 0;
    CAVMAE__TRY(take_number(m, length_size, &length));
    CAVMAE__TRY(take(m, length, &bytes));
    if (length > sizeof number) return push(m, CAVMAE__PICKLE_LONG, (size_t)length, bytes - m->data);
    if (length && bytes[length - 1] >= 0x80) number = -1;
    memcpy(&number, bytes, (size_t)length);
    return push(m, CAVMAE__PICKLE_INT, 0, number);
}

static cavmae_status take_line(machine *m, const char **out, size_t *length) {
    const unsigned char *line = m->data + m->at, *end = memchr(line, '\n', m->size - m->at), *unused;
    if (!end) return FAULT(m, CAVMAE_E_FORMAT, "the pickle ends in the middle");
    *out = (const char *)line;
    *length = (size_t)(end - line);
    return take(m, *length + 1, &unused);
}

/* ---- Containers ---- */

static cavmae_status push_tuple(machine *m, const value *items, size_t count) {
    int64_t at = (int64_t)m->pickle->items.count;
    CAVMAE__TRY(append_values(m, &m->pickle->items, items, count));
    return push(m, CAVMAE__PICKLE_TUPLE, count, at);
}

static cavmae_status tuple_of(machine *m, size_t count) {
    const value *items = NULL;
    CAVMAE__TRY(pop(m, count, &items));
    return push_tuple(m, items, count);
}

static cavmae_status push_container(machine *m, cavmae__pickle_type type) {
    array *containers = &m->pickle->containers;
    CAVMAE__TRY(reserve(m, containers, 1, sizeof(container)));
    ((container *)containers->data)[containers->count] = (container){CAVMAE__NO_SEGMENT, CAVMAE__NO_SEGMENT};
    return push(m, type, 0, (int64_t)containers->count++);
}

static cavmae_status add_segment(machine *m, const value *to, const value *items, size_t count) {
    cavmae__pickle *p = m->pickle;
    container *c = (container *)p->containers.data + to->at;
    segment added = {(uint32_t)p->items.count, (uint32_t)count, CAVMAE__NO_SEGMENT};
    if (count == 0) return CAVMAE_OK;
    CAVMAE__TRY(append_values(m, &p->items, items, count));
    CAVMAE__TRY(reserve(m, &p->segments, 1, sizeof(segment)));
    segment *segments = p->segments.data;
    uint32_t index = (uint32_t)p->segments.count++;
    segments[index] = added;
    if (c->last == CAVMAE__NO_SEGMENT)
        c->first = index;
    else
        segments[c->last].next = index;
    c->last = index;
    return CAVMAE_OK;
}

/* Adds what was popped to the container under it, which is of type `wanted` or opaque. */
static cavmae_status add_to_top(machine *m, cavmae__pickle_type wanted, const value *items, size_t count) {
    value *to = NULL;
    CAVMAE__TRY(top(m, &to));
    if (to->type == CAVMAE__PICKLE_OPAQUE) return CAVMAE_OK;
    if (to->type != (uint32_t)wanted)
        return FAULT(m, CAVMAE_E_FORMAT, "adds items to %s", cavmae__pickle_type_name(to));
    if (wanted == CAVMAE__PICKLE_DICT && count % 2 != 0) return FAULT(m, CAVMAE_E_FORMAT, "a key without a value");
    return add_segment(m, to, items, count);
}

static cavmae_status add_one(machine *m, cavmae__pickle_type wanted, size_t count) {
    const value *items = NULL;
    CAVMAE__TRY(pop(m, count, &items));
    return add_to_top(m, wanted, items, count);
}

static cavmae_status add_marked(machine *m, cavmae__pickle_type wanted) {
    const value *items = NULL;
    size_t count = 0;
    CAVMAE__TRY(pop_mark(m, &items, &count));
    return add_to_top(m, wanted, items, count);
}

static cavmae_status push_opaque(machine *m) { return push(m, CAVMAE__PICKLE_OPAQUE, 0, 0); }

/* ---- The memo ---- */

static cavmae_status put(machine *m, uint64_t index) {
    value *v = NULL, *slot;
    CAVMAE__TRY(top(m, &v));
    if (index > m->at) return FAULT(m, CAVMAE_E_FORMAT, "memo %llu in so short a pickle", (unsigned long long)index);
    if (index >= m->memo.count) {
        size_t more = (size_t)index + 1 - m->memo.count;
        CAVMAE__TRY(reserve(m, &m->memo, more, sizeof(value)));
        memset(cavmae__pickle_values(&m->memo) + m->memo.count, 0, more * sizeof(value)); /* CAVMAE__PICKLE_UNSET */
        m->memo.count += more;
    }
    slot = cavmae__pickle_values(&m->memo) + index;
    m->memo_used += slot->type == CAVMAE__PICKLE_UNSET;
    *slot = *v;
    return CAVMAE_OK;
}

static cavmae_status get(machine *m, uint64_t index) {
    if (index >= m->memo.count || cavmae__pickle_values(&m->memo)[index].type == CAVMAE__PICKLE_UNSET)
        return FAULT(m, CAVMAE_E_FORMAT, "nothing was put into memo %llu", (unsigned long long)index);
    value v = cavmae__pickle_values(&m->memo)[index];
    return append_values(m, &m->stack, &v, 1);
}

/* ---- Names and calls ---- */

static cavmae_status refuse(const machine *m, const char *module, size_t module_length, const char *name,
                            size_t name_length) {
    char first[CAVMAE__PRINTABLE], second[CAVMAE__PRINTABLE];
    return FAULT(m, CAVMAE_E_UNSUPPORTED, "pickle wants '%s.%s', which a dictionary of tensors does not need",
                 cavmae__printable(first, module, module_length), cavmae__printable(second, name, name_length));
}

static cavmae_status push_name(machine *m, const char *module, size_t module_length, const char *name,
                               size_t name_length) {
    int32_t row = cavmae__pickle_find_name(module, module_length, name, name_length);
    return row < 0 ? refuse(m, module, module_length, name, name_length) : push(m, CAVMAE__PICKLE_NAME, 0, row);
}

static cavmae_status read_global(machine *m) {
    const char *module, *name;
    size_t module_length, name_length;
    CAVMAE__TRY(take_line(m, &module, &module_length));
    CAVMAE__TRY(take_line(m, &name, &name_length));
    return push_name(m, module, module_length, name, name_length);
}

static cavmae_status read_stack_global(machine *m) {
    const value *words = NULL;
    CAVMAE__TRY(pop(m, 2, &words));
    if (words[0].type != CAVMAE__PICKLE_STRING || words[1].type != CAVMAE__PICKLE_STRING)
        return FAULT(m, CAVMAE_E_FORMAT, "a name that is no string");
    return push_name(m, cavmae__pickle_text(m->pickle, &words[0]), words[0].length,
                     cavmae__pickle_text(m->pickle, &words[1]), words[1].length);
}

/* INST names a class and makes one of it; nothing that we know is ever written so. */
static cavmae_status refuse_inst(machine *m) {
    const char *module, *name;
    size_t module_length, name_length;
    CAVMAE__TRY(take_line(m, &module, &module_length));
    CAVMAE__TRY(take_line(m, &name, &name_length));
    return refuse(m, module, module_length, name, name_length);
}

/* Python 2 wrote OrderedDict([[key, value], ...]). */
static cavmae_status add_pairs(machine *m, const value *dict, const value *list) {
    const cavmae__pickle *p = m->pickle;
    cavmae__pickle_walk walk = cavmae__pickle_walk_of(p, list);
    const value *pair;
    while ((pair = cavmae__pickle_next(p, &walk))) {
        value items[2];
        if (pair->type == CAVMAE__PICKLE_LIST) {
            cavmae__pickle_walk inner = cavmae__pickle_walk_of(p, pair);
            const value *key = cavmae__pickle_next(p, &inner), *last = cavmae__pickle_next(p, &inner);
            if (!key || !last || cavmae__pickle_next(p, &inner))
                return FAULT(m, CAVMAE_E_FORMAT, "a dictionary of what are no pairs");
            items[0] = *key;
            items[1] = *last;
        } else if (pair->type == CAVMAE__PICKLE_TUPLE && pair->length == 2) {
            memcpy(items, cavmae__pickle_items(p, pair), sizeof items);
        } else {
            return FAULT(m, CAVMAE_E_FORMAT, "a dictionary of what are no pairs");
        }
        CAVMAE__TRY(add_segment(m, dict, items, 2));
    }
    return CAVMAE_OK;
}

static cavmae_status make_dict(machine *m, const value *arguments) {
    value *dict = NULL, first = {0};
    if (arguments->length) first = *cavmae__pickle_items(m->pickle, arguments);
    CAVMAE__TRY(push_container(m, CAVMAE__PICKLE_DICT));
    CAVMAE__TRY(top(m, &dict));
    if (first.type != CAVMAE__PICKLE_LIST) return CAVMAE_OK; /* none, or defaultdict's factory */
    value made = *dict;
    return add_pairs(m, &made, &first);
}

/* REDUCE and NEWOBJ: callable(*arguments). */
static cavmae_status call(machine *m) {
    const value *both = NULL;
    value callable, arguments;
    CAVMAE__TRY(pop(m, 2, &both));
    callable = both[0];
    arguments = both[1];
    if (callable.type != CAVMAE__PICKLE_NAME || arguments.type != CAVMAE__PICKLE_TUPLE)
        return FAULT(m, CAVMAE_E_FORMAT, "calls %s with %s", cavmae__pickle_type_name(&callable),
                     cavmae__pickle_type_name(&arguments));
    const cavmae__pickle_name *name = cavmae__pickle_name_of(&callable);
    int64_t at = (int64_t)m->pickle->items.count;
    switch (name->role) {
    case CAVMAE__ROLE_DICT: return make_dict(m, &arguments);
    case CAVMAE__ROLE_OPAQUE: return push_opaque(m);
    case CAVMAE__ROLE_REBUILD_TENSOR:
    case CAVMAE__ROLE_REBUILD_PARAMETER: {
        value items[2] = {callable, arguments};
        CAVMAE__TRY(append_values(m, &m->pickle->items, items, 2));
        return push(m, CAVMAE__PICKLE_CALL, 2, at);
    }
    case CAVMAE__ROLE_WORD:
    case CAVMAE__ROLE_STORAGE: break;
    }
    return FAULT(m, CAVMAE_E_UNSUPPORTED, "pickle calls '%s.%s', which a dictionary of tensors does not need",
                 name->module, name->name);
}

/* BUILD: attributes of an object, which nothing here has. A class has none to be set. */
static cavmae_status build(machine *m) {
    const value *state;
    value *object = NULL;
    CAVMAE__TRY(pop(m, 1, &state));
    CAVMAE__TRY(top(m, &object));
    if (object->type == CAVMAE__PICKLE_DICT || object->type == CAVMAE__PICKLE_OPAQUE) return CAVMAE_OK;
    return FAULT(m, CAVMAE_E_UNSUPPORTED, "pickle sets attributes of %s, which a dictionary of tensors does not need",
                 cavmae__pickle_type_name(object));
}

static cavmae_status persistent(machine *m) {
    value *id = NULL;
    CAVMAE__TRY(top(m, &id));
    if (id->type != CAVMAE__PICKLE_TUPLE)
        return FAULT(m, CAVMAE_E_FORMAT, "a storage is told by %s, not by a tuple", cavmae__pickle_type_name(id));
    id->type = CAVMAE__PICKLE_PERSISTENT;
    return append_values(m, &m->pickle->persistent, id, 1);
}

/* ---- The opcodes ---- */

static cavmae_status protocol(machine *m) {
    uint64_t number;
    CAVMAE__TRY(take_number(m, 1, &number));
    if (number >= 2 && number <= 5) return CAVMAE_OK;
    return FAULT(m, CAVMAE_E_UNSUPPORTED, "pickle protocol %d is none of 2 to 5", (int)number);
}

/* Only tells how far to read ahead. */
static cavmae_status frame(machine *m) {
    uint64_t length;
    CAVMAE__TRY(take_number(m, 8, &length));
    if (length > m->size - m->at) return FAULT(m, CAVMAE_E_FORMAT, "the pickle ends in the middle");
    return CAVMAE_OK;
}

static cavmae_status refuse_opcode(machine *m, unsigned char opcode) {
    const char *name = cavmae__pickle_refused_opcode(opcode);
    if (opcode == 'i') return refuse_inst(m);
    if (!name) return FAULT(m, CAVMAE_E_FORMAT, "0x%02x is no opcode of a pickle", opcode);
    return FAULT(m, CAVMAE_E_UNSUPPORTED, "pickle uses opcode %s, which a dictionary of tensors does not need", name);
}

static cavmae_status run_opcode(machine *m, unsigned char opcode) {
    const value *values = NULL;
    const unsigned char *bytes = NULL;
    size_t count = 0;
    uint64_t number;
    switch (opcode) {
    case 0x80: return protocol(m); /* PROTO */
    case 0x95: return frame(m);    /* FRAME */
    case '(': return mark(m);      /* MARK */
    case '0': return pop(m, 1, &values);
    case '1': return pop_mark(m, &values, &count);

    case 'N': return push(m, CAVMAE__PICKLE_NONE, 0, 0);
    case 0x88: return push(m, CAVMAE__PICKLE_BOOL, 0, 1); /* NEWTRUE */
    case 0x89: return push(m, CAVMAE__PICKLE_BOOL, 0, 0); /* NEWFALSE */
    case 'K':                                             /* BININT1 */
        CAVMAE__TRY(take_number(m, 1, &number));
        return push(m, CAVMAE__PICKLE_INT, 0, (int64_t)number);
    case 'M': /* BININT2 */
        CAVMAE__TRY(take_number(m, 2, &number));
        return push(m, CAVMAE__PICKLE_INT, 0, (int64_t)number);
    case 'J': /* BININT: the only one with a sign */
        CAVMAE__TRY(take_number(m, 4, &number));
        return push(m, CAVMAE__PICKLE_INT, 0, (int64_t)number - (number >> 31 ? (int64_t)1 << 32 : 0));
    case 0x8a: return push_long(m, 1); /* LONG1 */
    case 0x8b: return push_long(m, 4); /* LONG4 */
    case 'G': /* BINFLOAT */ CAVMAE__TRY(take(m, 8, &bytes)); return push(m, CAVMAE__PICKLE_FLOAT, 0, 0);

    case 0x8c: return push_text(m, CAVMAE__PICKLE_STRING, 1); /* SHORT_BINUNICODE */
    case 'X': return push_text(m, CAVMAE__PICKLE_STRING, 4);  /* BINUNICODE */
    case 0x8d: return push_text(m, CAVMAE__PICKLE_STRING, 8); /* BINUNICODE8 */
    case 'U': return push_text(m, CAVMAE__PICKLE_STRING, 1);  /* SHORT_BINSTRING: Python 2's str */
    case 'T': return push_text(m, CAVMAE__PICKLE_STRING, 4);  /* BINSTRING */
    case 'C': return push_text(m, CAVMAE__PICKLE_BYTES, 1);   /* SHORT_BINBYTES */
    case 'B': return push_text(m, CAVMAE__PICKLE_BYTES, 4);   /* BINBYTES */
    case 0x8e: return push_text(m, CAVMAE__PICKLE_BYTES, 8);  /* BINBYTES8 */
    case 0x96: return push_text(m, CAVMAE__PICKLE_BYTES, 8);  /* BYTEARRAY8 */

    case ')': return tuple_of(m, 0);
    case 0x85: return tuple_of(m, 1); /* TUPLE1 */
    case 0x86: return tuple_of(m, 2);
    case 0x87: return tuple_of(m, 3);
    case 't': /* TUPLE */ CAVMAE__TRY(pop_mark(m, &values, &count)); return push_tuple(m, values, count);
    case ']': return push_container(m, CAVMAE__PICKLE_LIST);
    case '}': return push_container(m, CAVMAE__PICKLE_DICT);
    case 0x8f: return push_opaque(m);                       /* EMPTY_SET */
    case 'a': return add_one(m, CAVMAE__PICKLE_LIST, 1);    /* APPEND */
    case 'e': return add_marked(m, CAVMAE__PICKLE_LIST);    /* APPENDS */
    case 's': return add_one(m, CAVMAE__PICKLE_DICT, 2);    /* SETITEM */
    case 'u': return add_marked(m, CAVMAE__PICKLE_DICT);    /* SETITEMS */
    case 0x90: return add_marked(m, CAVMAE__PICKLE_OPAQUE); /* ADDITEMS */
    case 0x91: /* FROZENSET */ CAVMAE__TRY(pop_mark(m, &values, &count)); return push_opaque(m);

    case 'q': /* BINPUT */ CAVMAE__TRY(take_number(m, 1, &number)); return put(m, number);
    case 'r': /* LONG_BINPUT */ CAVMAE__TRY(take_number(m, 4, &number)); return put(m, number);
    case 0x94: return put(m, (uint64_t)m->memo_used); /* MEMOIZE */
    case 'h': /* BINGET */ CAVMAE__TRY(take_number(m, 1, &number)); return get(m, number);
    case 'j': /* LONG_BINGET */ CAVMAE__TRY(take_number(m, 4, &number)); return get(m, number);

    case 'c': return read_global(m);        /* GLOBAL */
    case 0x93: return read_stack_global(m); /* STACK_GLOBAL */
    case 'R':                               /* REDUCE */
    case 0x81: return call(m);              /* NEWOBJ */
    case 'b': return build(m);              /* BUILD */
    case 'Q': return persistent(m);         /* BINPERSID */
    default: return refuse_opcode(m, opcode);
    }
}

static cavmae_status run(machine *m) {
    const unsigned char *opcode = NULL;
    const value *result = NULL;
    CAVMAE__TRY(reserve(m, &m->stack, 1, sizeof(value))); /* even nothing is taken from somewhere */
    for (;;) {
        m->opcode_at = m->at;
        CAVMAE__TRY(take(m, 1, &opcode));
        if (m->at == 1 && *opcode != 0x80) return FAULT(m, CAVMAE_E_UNSUPPORTED, "not a pickle of protocol 2 or later");
        if (*opcode == '.') break;
        CAVMAE__TRY(run_opcode(m, *opcode));
    }
    CAVMAE__TRY(pop(m, 1, &result));
    m->pickle->result = *result;
    return CAVMAE_OK;
}

cavmae_status cavmae__pickle_load(cavmae_context *context, const char *data, size_t size, const char *where,
                                  cavmae__pickle **out, size_t *used) {
    machine m = {.where = where, .data = (const unsigned char *)data, .size = size};
    m.pickle = cavmae__alloc_zero(context, sizeof *m.pickle);
    if (!m.pickle) return CAVMAE_E_NOMEM;
    m.pickle->context = cavmae__context_ref(context);
    m.pickle->data = data;
    cavmae_status status = run(&m);
    cavmae__free(context, m.stack.data);
    cavmae__free(context, m.memo.data);
    cavmae__free(context, m.marks.data);
    if (status != CAVMAE_OK) {
        cavmae__pickle_free(m.pickle);
        return status;
    }
    *out = m.pickle;
    *used = m.at;
    return CAVMAE_OK;
}

void cavmae__pickle_free(cavmae__pickle *pickle) {
    if (!pickle) return;
    cavmae_context *context = pickle->context;
    cavmae__free(context, pickle->items.data);
    cavmae__free(context, pickle->segments.data);
    cavmae__free(context, pickle->containers.data);
    cavmae__free(context, pickle->persistent.data);
    cavmae__free(context, pickle);
    cavmae__context_unref(context);
}
