#include "backend.h"

#include "context_internal.h"

#include <string.h>

static void close_backend(void *backend) {
    cavmae__backend *b = backend;
    b->ops->close(b);
}

static cavmae_status open_backend(cavmae_context *context, cavmae__backend **out) {
    if (strcmp(context->device, "cpu") == 0) return cavmae__cpu_backend_open(context, out);
    return cavmae__fail(CAVMAE_E_BACKEND, "device \"%s\": this library has no backend for it", context->device);
}

cavmae_status cavmae__context_backend(cavmae_context *context, cavmae__backend **out) {
    cavmae_status status = CAVMAE_OK;
    cavmae__backend *backend;
    pthread_mutex_lock(&context->lock);
    if (!context->backend) {
        CAVMAE__TRY_OUT(open_backend(context, &backend));
        context->backend = backend;
        context->backend_close = close_backend;
    }
    *out = context->backend;
out:
    pthread_mutex_unlock(&context->lock);
    return status;
}
