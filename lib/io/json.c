#define _GNU_SOURCE /* strtod_l */
#include "json.h"

#include <limits.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "utf8.h"

enum { MAX_DEPTH = 64, MAX_NUMBER = 512 };

static cavmae_status fault(const cavmae__json *json, const char *at, const char *what) {
    return cavmae__fail(CAVMAE_E_FORMAT, "%s: byte %lld: %s", json->file, (long long)(at - json->text), what);
}

static const char *after_space(const cavmae__json *json) {
    const char *at = json->at;
    while (at < json->end && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t')) at++;
    return at;
}

void cavmae__json_open(cavmae__json *json, const char *text, size_t length, const char *file) {
    *json = (cavmae__json){text, text, text + length, file, 0};
}

/* -1: nothing that starts a value. */
int cavmae__json_peek(cavmae__json *json) {
    const char *at = after_space(json);
    if (at == json->end) return CAVMAE__JSON_END;
    switch (*at) {
    case '{':
    case '[':
    case '"':
    case 't':
    case 'f':
    case 'n': return *at;
    default: return *at == '-' || (*at >= '0' && *at <= '9') ? CAVMAE__JSON_NUMBER : -1;
    }
}

static cavmae_status expect(cavmae__json *json, int kind, const char *what) {
    if (cavmae__json_peek(json) != kind) return fault(json, after_space(json), what);
    json->at = after_space(json);
    return CAVMAE_OK;
}

/* ---- Objects and arrays ---- */

cavmae_status cavmae__json_enter(cavmae__json *json, int kind) {
    CAVMAE__TRY(
        expect(json, kind, kind == CAVMAE__JSON_OBJECT ? "an object should be here" : "an array should be here"));
    if (json->depth == MAX_DEPTH) return fault(json, json->at, "nested more than 64 deep");
    json->depth++;
    json->at++;
    return CAVMAE_OK;
}

cavmae_status cavmae__json_next(cavmae__json *json, int kind, cavmae__json_string *key, int *more) {
    /* No value ends in an opening bracket, so one just before this place is the one that _enter took. */
    int first = json->at[-1] == kind;
    json->at = after_space(json);
    if (json->at == json->end) return fault(json, json->at, "the text ends within an object or array");
    if (*json->at == kind + 2) { /* '{' + 2 is '}', '[' + 2 is ']' */
        json->at++;
        json->depth--;
        *more = 0;
        return CAVMAE_OK;
    }
    if (!first) {
        if (*json->at != ',') return fault(json, json->at, "a comma or closing bracket should be here");
        json->at++;
    }
    if (kind == CAVMAE__JSON_OBJECT) {
        CAVMAE__TRY(cavmae__json_string_value(json, key));
        json->at = after_space(json);
        if (json->at == json->end || *json->at != ':') return fault(json, json->at, "a colon should be here");
        json->at++;
    }
    *more = 1;
    return CAVMAE_OK;
}

/* ---- Words and numbers ---- */

static cavmae_status word(cavmae__json *json, const char *text) {
    size_t length = strlen(text);
    if ((size_t)(json->end - json->at) < length || memcmp(json->at, text, length) != 0)
        return fault(json, json->at, "neither true, false nor null");
    json->at += length;
    return CAVMAE_OK;
}

static const char *after_digits(const cavmae__json *json, const char *at) {
    while (at < json->end && *at >= '0' && *at <= '9') at++;
    return at;
}

/* Takes a number by the grammar of RFC 8259; [*first, json->at) is its text. */
static cavmae_status number(cavmae__json *json, const char **first, int *integer) {
    CAVMAE__TRY(expect(json, CAVMAE__JSON_NUMBER, "a number should be here"));
    const char *at = json->at, *digits;
    *integer = 1;
    if (*at == '-') at++;
    digits = at;
    at = after_digits(json, at);
    if (at == digits) return fault(json, at, "a digit should be here");
    if (*digits == '0' && at - digits > 1) return fault(json, digits, "a number starts with 0");
    if (at < json->end && *at == '.') {
        *integer = 0;
        digits = ++at;
        at = after_digits(json, at);
        if (at == digits) return fault(json, at, "a digit should be here");
    }
    if (at < json->end && (*at == 'e' || *at == 'E')) {
        *integer = 0;
        at++;
        if (at < json->end && (*at == '+' || *at == '-')) at++;
        digits = at;
        at = after_digits(json, at);
        if (at == digits) return fault(json, at, "a digit should be here");
    }
    *first = json->at;
    json->at = at;
    return CAVMAE_OK;
}

cavmae_status cavmae__json_i64(cavmae__json *json, int64_t *out) {
    const char *at;
    int integer;
    int64_t value = 0;
    CAVMAE__TRY(number(json, &at, &integer));
    if (!integer) return fault(json, at, "an integer should be here, without fraction or exponent");
    int sign = *at == '-' ? -1 : 1;
    for (const char *digit = at + (sign < 0); digit < json->at; digit++)
        if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, sign * (*digit - '0'), &value))
            return fault(json, at, "an integer is past 64 bits");
    *out = value;
    return CAVMAE_OK;
}

cavmae_status cavmae__json_f64(cavmae__json *json, double *out) {
    char text[MAX_NUMBER + 1]; /* strtod needs the zero at the end, which a mapped file lacks */
    const char *first;
    int integer;
    CAVMAE__TRY(number(json, &first, &integer));
    size_t length = (size_t)(json->at - first);
    if (length > MAX_NUMBER) return fault(json, first, "a number has more than 512 characters");
    memcpy(text, first, length);
    text[length] = '\0';
    locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0); /* the program's may have a decimal comma */
    if (!plain) return cavmae__fail(CAVMAE_E_NOMEM, "%s: no memory for a locale", json->file);
    double value = strtod_l(text, NULL, plain);
    freelocale(plain);
    if (isinf(value)) return fault(json, first, "a number is past the range of a double");
    *out = value;
    return CAVMAE_OK;
}

/* ---- Strings ---- */

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* The four hex digits of \uXXXX at `at`; -1 if there are none. */
static int32_t hex_unit(const char *at, const char *end) {
    int32_t unit = 0;
    if (end - at < 6 || at[0] != '\\' || at[1] != 'u') return -1;
    for (int i = 2; i < 6; i++) {
        int digit = hex_digit(at[i]);
        if (digit < 0) return -1;
        unit = unit * 16 + digit;
    }
    return unit;
}

static size_t encode_utf8(uint32_t c, char out[4]) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3F));
        out[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3F));
    out[2] = (char)(0x80 | (c >> 6 & 0x3F));
    out[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}

/* The escape sequence at *at, which is moved past it, as UTF-8. Returns its length, 0 when it is none. */
static size_t escape(const char **at, const char *end, char out[4]) {
    static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    int32_t high, low;
    if (end - *at < 2) return 0;
    if ((*at)[1] != 'u') {
        const char *letter = memchr(letters, (*at)[1], sizeof letters - 1);
        if (!letter) return 0;
        out[0] = meanings[letter - letters];
        *at += 2;
        return 1;
    }
    high = hex_unit(*at, end);
    if (high < 0 || (high >= 0xDC00 && high <= 0xDFFF)) return 0;
    *at += 6;
    if (high < 0xD800 || high > 0xDBFF) return encode_utf8((uint32_t)high, out);
    low = hex_unit(*at, end);
    if (low < 0xDC00 || low > 0xDFFF) return 0;
    *at += 6;
    return encode_utf8(0x10000u + ((uint32_t)(high - 0xD800) << 10) + (uint32_t)(low - 0xDC00), out);
}

cavmae_status cavmae__json_string_value(cavmae__json *json, cavmae__json_string *out) {
    CAVMAE__TRY(expect(json, CAVMAE__JSON_STRING, "a string should be here"));
    const char *at = json->at + 1, *end = json->end;
    char ignored[4];
    int escaped = 0;
    while (at < end && *at != '"') {
        const char *start = at;
        if (*at == '\\') {
            escaped = 1;
            if (escape(&at, end, ignored) == 0) return fault(json, start, "a broken escape sequence in a string");
        } else if ((unsigned char)*at >= 0x80) {
            at += cavmae__utf8_length(at, (size_t)(end - at));
            if (at == start) return fault(json, at, "a string is not UTF-8");
        } else if ((unsigned char)*at < 0x20) {
            return fault(json, at, "a control character in a string");
        } else {
            at++;
        }
    }
    if (at == end) return fault(json, json->at, "a string has no end");
    *out = (cavmae__json_string){json->at + 1, (size_t)(at - json->at - 1), escaped};
    json->at = at + 1;
    return CAVMAE_OK;
}

int cavmae__json_is(const cavmae__json_string *string, const char *text) {
    const char *at = string->text, *end = at + string->length;
    char bytes[4];
    if (!string->escaped) return strlen(text) == string->length && memcmp(text, at, string->length) == 0;
    while (at < end) {
        size_t length = 1;
        if (*at == '\\')
            length = escape(&at, end, bytes);
        else
            bytes[0] = *at++;
        if (bytes[0] == '\0' || strncmp(text, bytes, length) != 0) return 0;
        text += length;
    }
    return *text == '\0';
}

cavmae_status cavmae__json_unescape(cavmae__json *json, const cavmae__json_string *string, char *out, size_t *length) {
    const char *at = string->text, *end = at + string->length;
    char *to = out;
    while (at < end) {
        if (*at != '\\') {
            *to++ = *at++;
            continue;
        }
        const char *start = at;
        size_t bytes = escape(&at, end, to); /* never longer than what it stands for */
        if (*to == '\0') return fault(json, start, "a string holds a zero byte");
        to += bytes;
    }
    *to = '\0';
    *length = (size_t)(to - out);
    return CAVMAE_OK;
}

/* ---- Any value ---- */

/* Recursion goes no deeper than MAX_DEPTH. */
cavmae_status cavmae__json_skip(cavmae__json *json) {
    cavmae__json_string string;
    const char *first;
    int kind = cavmae__json_peek(json), more, integer;
    switch (kind) {
    case CAVMAE__JSON_OBJECT:
    case CAVMAE__JSON_ARRAY:
        CAVMAE__TRY(cavmae__json_enter(json, kind));
        for (;;) {
            CAVMAE__TRY(cavmae__json_next(json, kind, kind == CAVMAE__JSON_OBJECT ? &string : NULL, &more));
            if (!more) return CAVMAE_OK;
            CAVMAE__TRY(cavmae__json_skip(json));
        }
    case CAVMAE__JSON_STRING: return cavmae__json_string_value(json, &string);
    case CAVMAE__JSON_NUMBER: return number(json, &first, &integer);
    default: break;
    }
    json->at = after_space(json);
    switch (kind) {
    case CAVMAE__JSON_TRUE: return word(json, "true");
    case CAVMAE__JSON_FALSE: return word(json, "false");
    case CAVMAE__JSON_NULL: return word(json, "null");
    default: return fault(json, json->at, "a value should be here");
    }
}

cavmae_status cavmae__json_end(cavmae__json *json) {
    json->at = after_space(json);
    return json->at == json->end ? CAVMAE_OK : fault(json, json->at, "something follows the end");
}
