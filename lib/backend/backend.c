#include "backend.h"

#include "context_internal.h"

static void close_backend(void *backend) {
    cavmae__backend *b = backend;
    b->ops->close(b);
}

/* Another device's was opened with the context. */
cavmae_status cavmae__context_backend(cavmae_context *context, cavmae__backend **out) {
    cavmae_status status = CAVMAE_OK;
    cavmae__backend *backend;
    pthread_mutex_lock(&context->lock);
    if (!context->backend) {
        CAVMAE__TRY_OUT(cavmae__cpu_backend_open(context, &backend));
        context->backend = backend;
        context->backend_close = close_backend;
    }
    backend = context->backend;
    if (backend->ops->struct_size != sizeof *backend->ops)
        CAVMAE__TRY_OUT(
            cavmae__fail(CAVMAE_E_BACKEND, "the %s plug-in is of another build than this library", backend->ops->name));
    *out = backend;
out:
    pthread_mutex_unlock(&context->lock);
    return status;
}

cavmae_status cavmae_context_device_info(cavmae_context *context, const char **out) {
    cavmae__backend *backend;
    if (!context || !out) return cavmae__fail(CAVMAE_E_ARG, "context or out is NULL");
    CAVMAE__TRY(cavmae__context_backend(context, &backend));
    *out = backend->ops->info(backend);
    return CAVMAE_OK;
}
