/* Which device tests of the public API run on: the environment's CAVMAE_TEST_DEVICE, with its plug-in in
 * CAVMAE_TEST_PLUGIN_DIR; the CPU where they are not set. */
#ifndef CAVMAE_TEST_DEVICE_H
#define CAVMAE_TEST_DEVICE_H

#include <stdlib.h>
#include <string.h>

#include "cavmae.h"

/* Options of a context; 0 threads: one for each CPU. */
static inline cavmae_context_options test_options(int32_t threads) {
    return (cavmae_context_options){.struct_size = sizeof(cavmae_context_options),
                                    .threads = threads,
                                    .device = getenv("CAVMAE_TEST_DEVICE"),
                                    .plugin_dir = getenv("CAVMAE_TEST_PLUGIN_DIR")};
}

static inline int on_cpu(const cavmae_context *context) { return strcmp(cavmae_context_device(context), "cpu") == 0; }

#endif
