/* What a device's plug-in and the library that opens it know of each other. The plug-in links nothing of the library:
 * what it needs of it comes in a table. Both must be of the same version: what they exchange is not a stable ABI. */
#ifndef CAVMAE_BASE_DEVICE_PLUGIN_H
#define CAVMAE_BASE_DEVICE_PLUGIN_H

#include "context.h"

/* Of the library, for the plug-in. */
typedef struct cavmae__library {
    cavmae_status (*fail)(cavmae_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));
    void *(*alloc)(cavmae_context *context, size_t size); /* as cavmae__alloc */
    void (*free)(cavmae_context *context, void *memory);
    void (*log)(cavmae_context *context, int32_t level, const char *format, ...) __attribute__((format(printf, 3, 4)));
    const char *(*last_error)(void);
    const char *(*tuning_file)(const cavmae_context *context); /* NULL: choices are not measured */
} cavmae__library;

/* Of the plug-in: what its one symbol, a function without arguments, returns. */
typedef struct cavmae__device_plugin {
    uint32_t struct_size, library_size; /* of this record and of cavmae__library, as it was built */
    const char *version;                /* cavmae_version_string() of the library it was built with */
    /* Opens device `number` as a cavmae__backend. BACKEND: no driver, no such device, a library that is missing. */
    cavmae_status (*open)(const cavmae__library *library, cavmae_context *context, int32_t number, void **backend);
    void (*close)(void *backend);
    /* NCCL, opened when first asked for. id [CAVMAE_NCCL_ID_SIZE]. */
    cavmae_status (*new_id)(void *backend, uint8_t *id);
    /* A rank's cavmae__carrier, of cavmae__carrier_options: collective. */
    cavmae_status (*open_carrier)(void *backend, const void *options, void **carrier);
} cavmae__device_plugin;

typedef const cavmae__device_plugin *cavmae__device_plugin_get(void);

#endif
