/* NCCL, through the CUDA plug-in. */
#include "device_plugin.h"
#include "world_internal.h"

static cavmae_status plugin_of(cavmae_context *context, const cavmae__device_plugin **plugin,
                               cavmae__backend **backend) {
    *plugin = cavmae__context_device_plugin(context);
    if (!*plugin)
        return cavmae__fail(CAVMAE_E_UNSUPPORTED, "NCCL is for GPUs; the context's device is %s",
                            cavmae_context_device(context));
    return cavmae__context_backend(context, backend);
}

cavmae_status cavmae_nccl_id(cavmae_context *context, uint8_t *id) {
    const cavmae__device_plugin *plugin;
    cavmae__backend *backend;
    if (!context || !id) return cavmae__fail(CAVMAE_E_ARG, "cavmae_nccl_id: %s is NULL", context ? "id" : "context");
    CAVMAE__TRY(plugin_of(context, &plugin, &backend));
    return plugin->new_id(backend, id);
}

cavmae_status cavmae_world_create_nccl(cavmae_context *context, const cavmae_world_options *options, const uint8_t *id,
                                       cavmae_world **out) {
    cavmae_world_options o;
    const cavmae__device_plugin *plugin;
    cavmae__backend *backend;
    void *carrier = NULL;
    if (!context || !out)
        return cavmae__fail(CAVMAE_E_ARG, "cavmae_world_create_nccl: %s is NULL", context ? "out" : "context");
    CAVMAE__TRY(cavmae__world_options_in(options, 1, &o));
    if (!id && o.size > 1) return cavmae__fail(CAVMAE_E_ARG, "cavmae_world_create_nccl: id is NULL");
    CAVMAE__TRY(plugin_of(context, &plugin, &backend));
    const cavmae__carrier_options carrier_options = {.rank = o.rank, .size = o.size, .timeout = o.timeout, .id = id};
    if (o.size > 1) CAVMAE__TRY(plugin->open_carrier(backend, &carrier_options, &carrier));
    const cavmae__world_setup setup = {.name = "nccl",
                                       .rank = o.rank,
                                       .size = o.size,
                                       .timeout = o.timeout,
                                       .watch_dir = o.watch_dir,
                                       .on_device = 1,
                                       .device = carrier};
    return cavmae__world_make(context, &setup, out);
}
