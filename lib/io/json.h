/* A pull parser for JSON: walks a text of any size in place, allocates nothing, keeps no tree. It exists because a
 * manifest of two million clips must open in seconds and in little memory; it also reads safetensors headers and
 * configurations. UTF-8; numbers as text; depth limited to 64. Every fault names its byte offset. */
#ifndef CAVMAE_IO_JSON_H
#define CAVMAE_IO_JSON_H

#include "context.h"

typedef struct cavmae__json {
    const char *text, *at, *end;
    const char *file; /* for error texts */
    int32_t depth;
} cavmae__json;

typedef struct cavmae__json_string {
    const char *text; /* between the quotes, escapes not yet resolved */
    size_t length;
    int32_t escaped; /* 1: has escapes */
} cavmae__json_string;

enum {
    CAVMAE__JSON_OBJECT = '{',
    CAVMAE__JSON_ARRAY = '[',
    CAVMAE__JSON_STRING = '"',
    CAVMAE__JSON_NUMBER = '0',
    CAVMAE__JSON_TRUE = 't',
    CAVMAE__JSON_FALSE = 'f',
    CAVMAE__JSON_NULL = 'n',
    CAVMAE__JSON_END = 0
};

void cavmae__json_open(cavmae__json *json, const char *text, size_t length, const char *file);

/* Kind of the next value, without taking it. */
int cavmae__json_peek(cavmae__json *json);

/* Objects and arrays: _enter once, then _next until *more is 0. In an object *key is the member's name and its value
 * comes next; in an array key must be NULL. Each value must be taken, by one of the calls below, _enter or _skip. */
cavmae_status cavmae__json_enter(cavmae__json *json, int kind);
cavmae_status cavmae__json_next(cavmae__json *json, int kind, cavmae__json_string *key, int *more);
cavmae_status cavmae__json_skip(cavmae__json *json);
cavmae_status cavmae__json_string_value(cavmae__json *json, cavmae__json_string *out);
cavmae_status cavmae__json_i64(cavmae__json *json, int64_t *out); /* an integer; FORMAT on a fraction or overflow */
cavmae_status cavmae__json_f64(cavmae__json *json, double *out);
cavmae_status cavmae__json_end(cavmae__json *json); /* nothing but white space may follow */

int cavmae__json_is(const cavmae__json_string *string, const char *text);

/* Escapes resolved into out [>= string->length + 1], zero-terminated; *length without the zero. */
cavmae_status cavmae__json_unescape(cavmae__json *json, const cavmae__json_string *string, char *out, size_t *length);

#endif
