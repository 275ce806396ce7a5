/* A configuration as JSON, as model files hold it: one object of name: value. */
#include <stdio.h>
#include <string.h>

#include "config.h"
#include "json.h"
#include "number.h"

enum { VALUE_SIZE = 512 }; /* longer ones no key takes */

/* Free text as a JSON string; values are checked to be numbers and words, so only free text needs escapes. */
static size_t write_json_string(char *out, const char *text) {
    size_t n = 0;
    out[n++] = '"';
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') out[n++] = '\\';
        if (c < 0x20)
            n += (size_t)snprintf(out + n, 8, "\\u%04x", c);
        else
            out[n++] = (char)c;
    }
    out[n++] = '"';
    return n;
}

static size_t write_value(const cavmae_config *config, const cavmae_key_info *key, char *out) {
    const char *text = "";
    char number[32];
    double real = 0;
    int64_t integer = 0;
    if (key->type == CAVMAE_TYPE_STR)
        return cavmae_config_get_str(config, key->key, &text) == CAVMAE_OK ? write_json_string(out, text) : 0;
    if (key->type == CAVMAE_TYPE_F64 && cavmae_config_get_f64(config, key->key, &real) == CAVMAE_OK) {
        cavmae__format_f64(number, real);
        return (size_t)snprintf(out, sizeof number, "%s", number);
    }
    return cavmae_config_get_i64(config, key->key, &integer) == CAVMAE_OK
               ? (size_t)snprintf(out, sizeof number, "%lld", (long long)integer)
               : 0;
}

cavmae_status cavmae__config_to_json(const cavmae_config *config, char **json) {
    cavmae_key_info key = {.struct_size = sizeof key};
    size_t n = 0, keys = (size_t)cavmae__config_key_count();
    char *text = cavmae__alloc(cavmae__config_context(config), keys * (6 * VALUE_SIZE + 64) + 1);
    if (!text) return CAVMAE_E_NOMEM;
    for (size_t i = 0; i < keys; i++) {
        cavmae_status status = cavmae_config_key_info((int32_t)i, &key);
        if (status != CAVMAE_OK) {
            cavmae__free(cavmae__config_context(config), text);
            return status;
        }
        n += (size_t)snprintf(text + n, 64, "%s\"%s\": ", i ? ", " : "{", key.name);
        n += write_value(config, &key, text + n);
    }
    memcpy(text + n, "}", 2);
    *json = text;
    return CAVMAE_OK;
}

/* The next value of the object as text, whatever its kind. */
static cavmae_status read_json_value(cavmae__json *json, char *out, size_t size) {
    if (cavmae__json_peek(json) == CAVMAE__JSON_STRING) {
        cavmae__json_string string;
        CAVMAE__TRY(cavmae__json_string_value(json, &string));
        if (string.length >= size)
            return cavmae__fail(CAVMAE_E_FORMAT, "%s: a value of %zu characters is too long", json->file,
                                string.length);
        size_t length;
        return cavmae__json_unescape(json, &string, out, &length);
    }
    const char *start = json->at;
    CAVMAE__TRY(cavmae__json_skip(json));
    while (start < json->at && strchr(" \t\r\n", *start)) start++;
    size_t length = (size_t)(json->at - start);
    if (length >= size)
        return cavmae__fail(CAVMAE_E_FORMAT, "%s: a value of %zu characters is too long", json->file, length);
    memcpy(out, start, length);
    out[length] = 0;
    return CAVMAE_OK;
}

cavmae_status cavmae__config_from_json(cavmae_context *context, const char *text, cavmae_config **out) {
    cavmae_config *config;
    cavmae_status status = CAVMAE_OK;
    CAVMAE__TRY(cavmae_config_create(context, NULL, &config));
    cavmae__json json;
    cavmae__json_open(&json, text, strlen(text), "configuration");
    CAVMAE__TRY_OUT(cavmae__json_enter(&json, CAVMAE__JSON_OBJECT));
    for (;;) {
        cavmae__json_string name;
        int more;
        char buffer[VALUE_SIZE];
        CAVMAE__TRY_OUT(cavmae__json_next(&json, CAVMAE__JSON_OBJECT, &name, &more));
        if (!more) break;
        char key[64];
        if (name.length < sizeof key) memcpy(key, name.text, name.length);
        key[name.length < sizeof key ? name.length : 0] = 0;
        CAVMAE__TRY_OUT(read_json_value(&json, buffer, sizeof buffer));
        status = cavmae_config_set(config, key, buffer);
        if (status == CAVMAE_E_NOT_FOUND)
            status = cavmae__fail(CAVMAE_E_UNSUPPORTED, "configuration: key '%.*s' is unknown to this version",
                                  (int)(name.length > 99 ? 99 : name.length), name.text);
        CAVMAE__TRY_OUT(status);
    }
    CAVMAE__TRY_OUT(cavmae__json_end(&json));
    *out = config;
    return CAVMAE_OK;
out:
    cavmae_config_free(config);
    return status == CAVMAE_E_ARG ? CAVMAE_E_FORMAT : status; /* the file's fault, not the caller's */
}
