/* A pickle's values as the machine lays them out and the accessors read them. */
#ifndef CAVMAE_IO_PICKLE_VALUES_H
#define CAVMAE_IO_PICKLE_VALUES_H

#include "pickle.h"

#define CAVMAE__NO_SEGMENT UINT32_MAX

typedef struct cavmae__pickle_array {
    void *data;
    size_t count, room;
} cavmae__pickle_array;

/* What one APPENDS or SETITEMS added to a container. */
typedef struct cavmae__pickle_segment {
    uint32_t first, count, next;
} cavmae__pickle_segment;

typedef struct cavmae__pickle_container {
    uint32_t first, last; /* segments */
} cavmae__pickle_container;

struct cavmae__pickle {
    cavmae_context *context;
    const char *data;
    cavmae__pickle_array items;      /* of cavmae__pickle_value: of tuples and containers */
    cavmae__pickle_array segments;   /* of cavmae__pickle_segment */
    cavmae__pickle_array containers; /* of cavmae__pickle_container */
    cavmae__pickle_array persistent; /* of cavmae__pickle_value */
    cavmae__pickle_value result;
};

static inline cavmae__pickle_value *cavmae__pickle_values(const cavmae__pickle_array *array) { return array->data; }

#endif
