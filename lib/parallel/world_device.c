/* Worlds of GPUs: the carrier is the plug-in's, in a stream of its own, and nobody on the host waits for it.
 *
 * What ranks are about to do cannot be compared before each collective: the host would have to wait. So the first of a
 * step, whose description begins with "step", is preceded by a gather of the ranks' descriptions, which stay on the device
 * until the host waits for something else anyway (cavmae__world_check); ranks that part in between are told of by the
 * watch thread, from the notes. */
#include <string.h>

#include "world_internal.h"

cavmae_status cavmae__world_device_open(cavmae_world *world) {
    CAVMAE__TRY(cavmae__context_backend(world->context, &world->backend));
    if (world->size == 1) return CAVMAE_OK;
    const cavmae__backend_ops *ops = world->backend->ops;
    CAVMAE__TRY(ops->alloc(world->backend, sizeof(cavmae__message), &world->device_text));
    return ops->alloc(world->backend, (size_t)world->size * sizeof(cavmae__message), &world->device_texts);
}

void cavmae__world_device_close(cavmae_world *world) {
    if (world->device) world->device->ops->close(world->device);
    if (world->device_texts) world->backend->ops->free(world->backend, world->device_texts);
    if (world->device_text) world->backend->ops->free(world->backend, world->device_text);
}

static cavmae_status begin(cavmae_world *world, const cavmae__collective *collective, const char *text) {
    pthread_mutex_lock(&world->lock);
    int64_t slot = ++world->begun % CAVMAE__WORLD_DEVICE_RING;
    world->device_ring[slot].patience = collective->patience > 1 ? collective->patience : 1;
    memcpy(world->device_ring[slot].text, text, CAVMAE__WORLD_TEXT);
    cavmae__note_begun(world, world->begun, text);
    pthread_mutex_unlock(&world->lock);
    cavmae_status status = world->device->ops->begin(world->device, collective);
    if (status == CAVMAE_OK) return CAVMAE_OK;
    char sentence[CAVMAE__WORLD_SENTENCE] = "world: ";
    strncat(sentence, cavmae_last_error(), sizeof sentence - 8);
    pthread_mutex_lock(&world->lock);
    cavmae__world_break(world, sentence); /* the others wait for it */
    pthread_mutex_unlock(&world->lock);
    return cavmae__world_result(world);
}

cavmae_status cavmae__world_device_gather_texts(cavmae_world *world, const char *text) {
    const cavmae__collective gather = {.kind = CAVMAE__ALL_GATHER,
                                       .dtype = CAVMAE_UINT8,
                                       .send = world->device_text,
                                       .data = world->device_texts,
                                       .count = sizeof(cavmae__message),
                                       .what = "what each rank is at"};
    cavmae__message message = {0};
    char described[CAVMAE__WORLD_TEXT];
    memcpy(message.text, text, sizeof message.text);
    cavmae__world_text(&gather, described);
    CAVMAE__TRY(cavmae__world_result(world));
    CAVMAE__TRY(world->backend->ops->upload(world->backend, world->device_text, &message, sizeof message));
    CAVMAE__TRY(begin(world, &gather, described));
    world->texts_gathered = 1;
    return CAVMAE_OK;
}

cavmae_status cavmae__world_device_begin(cavmae_world *world, const cavmae__collective *collective) {
    char text[CAVMAE__WORLD_TEXT];
    CAVMAE__TRY(cavmae__world_result(world));
    cavmae__world_text(collective, text);
    if (strncmp(collective->what, "step", 4) == 0) CAVMAE__TRY(cavmae__world_device_gather_texts(world, text));
    return begin(world, collective, text);
}

cavmae_status cavmae__world_device_compare(cavmae_world *world) {
    char sentence[CAVMAE__WORLD_SENTENCE];
    if (!world->texts_gathered) return CAVMAE_OK;
    cavmae_status status = world->backend->ops->download(world->backend, world->messages, world->device_texts,
                                                         (size_t)world->size * sizeof *world->messages);
    CAVMAE__TRY(cavmae__world_result(world)); /* before what came is believed */
    CAVMAE__TRY(status);
    world->texts_gathered = 0;
    if (cavmae__messages_agree(world->messages, world->size, sentence)) return CAVMAE_OK;
    pthread_mutex_lock(&world->lock);
    cavmae__world_break(world, sentence);
    pthread_mutex_unlock(&world->lock);
    return cavmae__world_result(world);
}
