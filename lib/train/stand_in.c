/* A batch of zeros, to rehearse a step with. */
#include <string.h>

#include "trainer.h"

cavmae_status cavmae__stand_in_create(cavmae_trainer *t, cavmae_batch *out, float **memory) {
    const cavmae__options *o = &t->options;
    const int64_t audio = o->audio_frames * o->mel_bins, image = o->image_channels * o->image_size * o->image_size,
                  features = o->classes && o->freeze_base ? cavmae__head_width(o) : 0;
    CAVMAE__TRY(CAVMAE__NEW(t->model->context, memory, audio + image + features + o->classes));
    float *at = memset(*memory, 0, (size_t)(audio + image + features + o->classes) * sizeof *at);
    *out = (cavmae_batch){.struct_size = sizeof *out,
                          .count = 1,
                          .audio = at,
                          .image = at + audio,
                          .features = features ? at + audio + image : NULL,
                          .labels = at + audio + image + features,
                          .classes = (int32_t)o->classes};
    t->first = 0;
    t->world_count = cavmae_world_size(t->world);
    for (int m = 0; m < 2; m++)
        t->columns[m][0] = cavmae__trainer_uses(o, m) && !features
                               ? (int32_t)((m ? o->image_size : o->audio_frames) / o->patch_size)
                               : 0;
    return CAVMAE_OK;
}
