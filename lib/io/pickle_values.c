/* What came out of a pickle. */
#include <string.h>

#include "pickle_names.h"
#include "pickle_values.h"

typedef cavmae__pickle_value value;

const value *cavmae__pickle_result(const cavmae__pickle *pickle) { return &pickle->result; }

const value *cavmae__pickle_persistent(const cavmae__pickle *pickle, size_t index) {
    return index < pickle->persistent.count ? cavmae__pickle_values(&pickle->persistent) + index : NULL;
}

const char *cavmae__pickle_text(const cavmae__pickle *pickle, const value *v) { return pickle->data + v->at; }

int cavmae__pickle_is(const cavmae__pickle *pickle, const value *v, const char *string) {
    return v->type == CAVMAE__PICKLE_STRING && v->length == strlen(string) &&
           memcmp(cavmae__pickle_text(pickle, v), string, v->length) == 0;
}

const value *cavmae__pickle_items(const cavmae__pickle *pickle, const value *v) {
    return v->length ? cavmae__pickle_values(&pickle->items) + v->at : NULL;
}

const cavmae__pickle_name *cavmae__pickle_name_of(const value *v) { return cavmae__pickle_name_at(v->at); }

const char *cavmae__pickle_type_name(const value *v) {
    switch ((cavmae__pickle_type)v->type) {
    case CAVMAE__PICKLE_NONE: return "None";
    case CAVMAE__PICKLE_BOOL: return "a bool";
    case CAVMAE__PICKLE_INT:
    case CAVMAE__PICKLE_LONG: return "an integer";
    case CAVMAE__PICKLE_FLOAT: return "a number";
    case CAVMAE__PICKLE_STRING: return "a string";
    case CAVMAE__PICKLE_BYTES: return "bytes";
    case CAVMAE__PICKLE_TUPLE: return "a tuple";
    case CAVMAE__PICKLE_LIST: return "a list";
    case CAVMAE__PICKLE_DICT: return "a dictionary";
    case CAVMAE__PICKLE_NAME: return "a class or function";
    case CAVMAE__PICKLE_CALL: return "a tensor";
    case CAVMAE__PICKLE_PERSISTENT: return "a storage";
    case CAVMAE__PICKLE_UNSET:
    case CAVMAE__PICKLE_OPAQUE: break;
    }
    return "an object";
}

cavmae__pickle_walk cavmae__pickle_walk_of(const cavmae__pickle *pickle, const value *v) {
    return (cavmae__pickle_walk){((const cavmae__pickle_container *)pickle->containers.data)[v->at].first, 0};
}

const value *cavmae__pickle_next(const cavmae__pickle *pickle, cavmae__pickle_walk *walk) {
    const cavmae__pickle_segment *segments = pickle->segments.data;
    if (walk->segment == CAVMAE__NO_SEGMENT) return NULL;
    const cavmae__pickle_segment *s = &segments[walk->segment];
    const value *v = cavmae__pickle_values(&pickle->items) + s->first + walk->index++;
    if (walk->index == s->count) *walk = (cavmae__pickle_walk){s->next, 0};
    return v;
}
