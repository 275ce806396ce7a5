/* What a pickle says, without doing it. Reads the opcodes that PyTorch's files are made of (protocols 2 to 5) into
 * values: a name is only ever a row of a table, a call of one is a note of what would be called with what. All other
 * opcodes and names are refused by name. Containers may hold themselves; nothing here follows them. */
#ifndef CAVMAE_IO_PICKLE_H
#define CAVMAE_IO_PICKLE_H

#include "context.h"

enum { CAVMAE__PICKLE_MAX_SIZE = 64 << 20 }; /* a dictionary of 100,000 tensors takes 20 MiB */

typedef enum cavmae__pickle_type {
    CAVMAE__PICKLE_UNSET, /* no value: what was never put into the memo */
    CAVMAE__PICKLE_NONE,
    CAVMAE__PICKLE_BOOL,   /* value->at is 0 or 1 */
    CAVMAE__PICKLE_INT,    /* value->at is the number */
    CAVMAE__PICKLE_LONG,   /* more than 64 bits: value->length bytes of two's complement */
    CAVMAE__PICKLE_FLOAT,  /* some number */
    CAVMAE__PICKLE_STRING, /* value->length bytes, UTF-8 if the writer was honest */
    CAVMAE__PICKLE_BYTES,
    CAVMAE__PICKLE_TUPLE, /* value->length items */
    CAVMAE__PICKLE_LIST,
    CAVMAE__PICKLE_DICT,       /* of any dictionary's class */
    CAVMAE__PICKLE_NAME,       /* see cavmae__pickle_name */
    CAVMAE__PICKLE_CALL,       /* of a name that makes tensors: items are the name, then the arguments */
    CAVMAE__PICKLE_PERSISTENT, /* a storage, told by a tuple: the same items */
    CAVMAE__PICKLE_OPAQUE,     /* something that is no part of a dictionary of tensors */
} cavmae__pickle_type;

typedef struct cavmae__pickle_value {
    uint32_t type; /* cavmae__pickle_type */
    uint32_t length;
    int64_t at; /* which one, or the number itself */
} cavmae__pickle_value;

typedef enum cavmae__pickle_role {
    CAVMAE__ROLE_DICT,             /* calls make a dictionary */
    CAVMAE__ROLE_OPAQUE,           /* calls make an opaque value */
    CAVMAE__ROLE_WORD,             /* a dtype or the like; not called */
    CAVMAE__ROLE_STORAGE,          /* a storage's type; not called */
    CAVMAE__ROLE_REBUILD_TENSOR,   /* (storage, offset, size, stride, ...) */
    CAVMAE__ROLE_REBUILD_PARAMETER /* (tensor, ...) */
} cavmae__pickle_role;

/* A name that a pickle may use. */
typedef struct cavmae__pickle_name {
    const char *module, *name;
    cavmae__pickle_role role;
    int32_t dtype; /* of a storage */
} cavmae__pickle_name;

typedef struct cavmae__pickle cavmae__pickle;

/* Reads one pickle at the start of data, which must outlive it; *used is its length. `where` names it in errors.
 * Memory is at most a fixed multiple of *used, and bounded. FORMAT: damaged; UNSUPPORTED: refused. */
cavmae_status cavmae__pickle_load(cavmae_context *context, const char *data, size_t size, const char *where,
                                  cavmae__pickle **out, size_t *used);
void cavmae__pickle_free(cavmae__pickle *pickle); /* NULL is fine */

/* What it makes. All values live as long as the pickle. */
const cavmae__pickle_value *cavmae__pickle_result(const cavmae__pickle *pickle);
/* The index-th of all storages that it tells of, NULL past the end. */
const cavmae__pickle_value *cavmae__pickle_persistent(const cavmae__pickle *pickle, size_t index);

/* The bytes of a STRING, BYTES or LONG, [value->length], not zero-terminated. */
const char *cavmae__pickle_text(const cavmae__pickle *pickle, const cavmae__pickle_value *value);
int cavmae__pickle_is(const cavmae__pickle *pickle, const cavmae__pickle_value *value, const char *string);
/* The items of a TUPLE, CALL or PERSISTENT, [value->length]. */
const cavmae__pickle_value *cavmae__pickle_items(const cavmae__pickle *pickle, const cavmae__pickle_value *value);
const cavmae__pickle_name *cavmae__pickle_name_of(const cavmae__pickle_value *value); /* of a NAME */
const char *cavmae__pickle_type_name(const cavmae__pickle_value *value);              /* "a list", for errors */

/* Walks a LIST's items, or a DICT's keys and values by turns. */
typedef struct cavmae__pickle_walk {
    uint32_t segment, index;
} cavmae__pickle_walk;
cavmae__pickle_walk cavmae__pickle_walk_of(const cavmae__pickle *pickle, const cavmae__pickle_value *container);
/* The next value, NULL at the end. */
const cavmae__pickle_value *cavmae__pickle_next(const cavmae__pickle *pickle, cavmae__pickle_walk *walk);

#endif
