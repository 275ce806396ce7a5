/* A plug-in of another version, which must be refused before it is asked for anything. */
#include "device_plugin.h"

static cavmae_status open_nothing(const cavmae__library *library, cavmae_context *context, int32_t number,
                                  void **backend) {
    (void)library, (void)context, (void)number, (void)backend;
    return CAVMAE_E_INTERNAL;
}

static void close_nothing(void *backend) { (void)backend; }

CAVMAE_API const cavmae__device_plugin *cavmae_cuda_plugin(void);

const cavmae__device_plugin *cavmae_cuda_plugin(void) {
    static const cavmae__device_plugin plugin = {.struct_size = sizeof plugin,
                                                 .library_size = sizeof(cavmae__library),
                                                 .version = "0.0.1",
                                                 .open = open_nothing,
                                                 .close = close_nothing};
    return &plugin;
}
