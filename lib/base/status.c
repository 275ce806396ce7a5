#include "status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { TEXT_SIZE = 512 };

static _Thread_local char error_text[TEXT_SIZE];

void cavmae__no_controls(char *message) {
    for (char *at = message; *at; at++)
        if ((unsigned char)*at < ' ' || *at == 0x7F) *at = '?';
}

cavmae_status cavmae__fail(cavmae_status code, const char *format, ...) {
    char text[TEXT_SIZE]; /* apart, because the arguments may point into error_text */
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    cavmae__no_controls(text);
    memcpy(error_text, text, sizeof text);
    return code;
}

cavmae_status cavmae__fail_prefix(cavmae_status code, const char *format, ...) {
    char prefix[TEXT_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(prefix, sizeof prefix, format, arguments);
    va_end(arguments);
    return cavmae__fail(code, "%s: %s", prefix, error_text);
}

const char *cavmae_last_error(void) { return error_text; }

const char *cavmae_status_str(cavmae_status status) {
    switch (status) {
    case CAVMAE_OK: return "ok";
    case CAVMAE_E_ARG: return "bad argument";
    case CAVMAE_E_NOMEM: return "out of memory";
    case CAVMAE_E_SHAPE: return "sizes do not fit together";
    case CAVMAE_E_IO: return "file cannot be opened, read or written";
    case CAVMAE_E_FORMAT: return "file is damaged or of an unknown kind";
    case CAVMAE_E_NOT_FOUND: return "not found";
    case CAVMAE_E_MISMATCH: return "file does not match the model";
    case CAVMAE_E_UNSUPPORTED: return "not supported";
    case CAVMAE_E_MEDIA: return "media cannot be decoded";
    case CAVMAE_E_BACKEND: return "device or plug-in not available";
    case CAVMAE_E_CANCELLED: return "cancelled";
    case CAVMAE_E_NOT_FINITE: return "not a finite number";
    case CAVMAE_E_PEER: return "another rank failed or is missing";
    case CAVMAE_E_STATE: return "call does not fit the object's state";
    case CAVMAE_E_INTERNAL: return "internal fault";
    default: return "unknown status";
    }
}
