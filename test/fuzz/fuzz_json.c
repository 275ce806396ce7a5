/* The pull parser: a walk that looks at every value finds a text good or bad as skipping it does. */
#define _GNU_SOURCE
#include "fuzz.h"
#include "json.h"

static cavmae_status walk_string(cavmae__json *json, const cavmae__json_string *string, int *zero) {
    size_t length = 0;
    char *out = malloc(string->length + 1);
    FUZZ_CHECK(out != NULL);
    cavmae_status status = cavmae__json_unescape(json, string, out, &length);
    if (status == CAVMAE_OK) FUZZ_CHECK(length <= string->length && strlen(out) == length);
    if (status == CAVMAE_OK) FUZZ_CHECK(cavmae__json_is(string, out));
    if (status != CAVMAE_OK) *zero = 1; /* the one thing that skipping lets pass: a string with "\u0000" */
    (void)cavmae__json_is(string, "data");
    free(out);
    return CAVMAE_OK;
}

static cavmae_status walk(cavmae__json *json, int *zero) {
    cavmae__json_string string;
    int kind = cavmae__json_peek(json), more;
    double real, again;
    int64_t integer;
    cavmae__json before = *json;
    cavmae_status status;
    switch (kind) {
    case CAVMAE__JSON_OBJECT:
    case CAVMAE__JSON_ARRAY:
        status = cavmae__json_enter(json, kind);
        while (status == CAVMAE_OK) {
            status = cavmae__json_next(json, kind, kind == CAVMAE__JSON_OBJECT ? &string : NULL, &more);
            if (status != CAVMAE_OK || !more) return status;
            if (kind == CAVMAE__JSON_OBJECT) status = walk_string(json, &string, zero);
            if (status == CAVMAE_OK) status = walk(json, zero);
        }
        return status;
    case CAVMAE__JSON_STRING:
        status = cavmae__json_string_value(json, &string);
        return status == CAVMAE_OK ? walk_string(json, &string, zero) : status;
    case CAVMAE__JSON_NUMBER:
        if (cavmae__json_i64(json, &integer) == CAVMAE_OK) {
            FUZZ_CHECK(cavmae__json_f64(&before, &again) == CAVMAE_OK && again == (double)integer);
            return CAVMAE_OK;
        }
        *json = before;
        if (cavmae__json_f64(json, &real) == CAVMAE_OK) {
            FUZZ_CHECK(real - real == 0);
            return CAVMAE_OK;
        }
        *json = before; /* too large, too long: still JSON */
        return cavmae__json_skip(json);
    default: return cavmae__json_skip(json);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = (const char *)data;
    cavmae__json json;
    int zero = 0;
    cavmae__json_open(&json, text, size, "input");
    cavmae_status skipped = cavmae__json_skip(&json);
    if (skipped == CAVMAE_OK) skipped = cavmae__json_end(&json);
    if (!fuzz_ok(skipped)) FUZZ_CHECK(skipped == CAVMAE_E_FORMAT);

    cavmae__json_open(&json, text, size, "input");
    cavmae_status walked = walk(&json, &zero);
    if (walked == CAVMAE_OK) walked = cavmae__json_end(&json);
    fuzz_ok(walked);
    if (!zero) FUZZ_CHECK(walked == skipped);
    return 0;
}
