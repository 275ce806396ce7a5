/* Media files straight to embeddings. */
#include "inputs.h"
#include "record.h"

/* ---- What is needed ---- */

void cavmae__embed_needs(const cavmae_model *model, const cavmae_embedding *out, int *sound, int *pictures) {
    int64_t mode = out->mode ? out->mode : model->options.mode;
    int joint = out->joint || out->joint_tokens, head = out->features || out->logits || out->scores;
    *sound = joint || out->audio || out->audio_tokens || (head && cavmae__mode_uses(mode, 0));
    *pictures = joint || out->visual || out->visual_tokens || (head && cavmae__mode_uses(mode, 1));
}

cavmae_status cavmae__picture_count(const cavmae_model *model, int32_t frames, int32_t *count) {
    if (frames < 0) return cavmae__fail(CAVMAE_E_ARG, "embed: frames is %d", (int)frames);
    if (model->options.image_channels != 3)
        return cavmae__fail(CAVMAE_E_UNSUPPORTED, "embed: the model takes %lld channels, a picture of a file has 3",
                            (long long)model->options.image_channels);
    *count = frames ? frames : 1;
    return CAVMAE_OK;
}

double cavmae__picture_time(const cavmae_model *model, int32_t frames, int32_t picture, double seconds) {
    int64_t of = frames ? frames : model->options.clip_frames;
    return seconds * (double)(frames ? picture : of / 2) / (double)of;
}

/* ---- Pictures ---- */

typedef struct easel {
    cavmae_model *model;
    const int32_t *slots;
    float *images;
} easel;

static cavmae_status prepare_picture(void *sink, int32_t index, const uint8_t *rgb, int32_t width, int32_t height,
                                     int64_t stride) {
    const easel *e = sink;
    const cavmae__options *o = &e->model->options;
    int64_t slot = e->slots ? e->slots[index] : index;
    return cavmae__prepare_image(e->model->context, &o->image, rgb, width, height, stride,
                                 e->images + slot * o->image_channels * o->image_size * o->image_size);
}

cavmae_status cavmae__load_pictures(cavmae_model *model, const cavmae_source *source, const double *seconds,
                                    const int32_t *slots, int32_t count, float *images) {
    easel e = {model, slots, images};
    return cavmae__media_pictures(model->context, source, seconds, count, prepare_picture, &e);
}

/* Pictures of the whole file; *images is the caller's to free. */
static cavmae_status load_images(cavmae_model *model, const cavmae_source *source, int32_t frames, float **images) {
    const cavmae__options *o = &model->options;
    cavmae_media_info info = {.struct_size = sizeof info};
    int32_t count = 0;
    double *seconds = NULL;
    float *prepared = NULL;
    cavmae_status status = cavmae__picture_count(model, frames, &count);
    if (status != CAVMAE_OK) return cavmae__fail_prefix(status, "%s", source->path);
    CAVMAE__TRY(cavmae_media_probe_source(model->context, source, &info));
    CAVMAE__TRY_OUT(CAVMAE__NEW(model->context, &seconds, count));
    for (int32_t i = 0; i < count; i++) seconds[i] = cavmae__picture_time(model, frames, i, info.seconds);
    size_t elements = (size_t)(o->image_channels * o->image_size * o->image_size);
    prepared = cavmae__alloc_array(model->context, (size_t)count, elements * sizeof *prepared);
    if (!prepared) status = CAVMAE_E_NOMEM;
    if (status == CAVMAE_OK) status = cavmae__load_pictures(model, source, seconds, NULL, count, prepared);
    if (status == CAVMAE_OK) *images = prepared;
out:
    if (status != CAVMAE_OK) cavmae__free(model->context, prepared);
    cavmae__free(model->context, seconds);
    return status;
}

/* ---- Sound ---- */

/* *audio is the caller's to free. */
static cavmae_status load_audio(cavmae_model *model, const cavmae_source *source, float **audio, int64_t *frames) {
    float *pcm;
    int64_t samples;
    int32_t channels, rate;
    CAVMAE__TRY(cavmae__media_audio_source(model->context, source, &pcm, &samples, &channels, &rate));
    cavmae_status status =
        cavmae__prepare_audio(model->context, &model->options.audio, pcm, samples, channels, rate, audio, frames);
    cavmae__free(model->context, pcm);
    return status == CAVMAE_OK ? status : cavmae__fail_prefix(status, "%s", source->path);
}

/* ---- Both ---- */

cavmae_status cavmae_embed_source(cavmae_model *model, const cavmae_source *source, const cavmae_embedding *out) {
    cavmae_source from;
    cavmae_embedding own;
    float *audio = NULL, *images = NULL;
    int64_t frames = 0;
    int sound, pictures;
    cavmae_status status = CAVMAE_OK;
    if (!model) return cavmae__fail(CAVMAE_E_ARG, "embed source: model is NULL");
    CAVMAE__TRY(cavmae__source_in(&from, source));
    CAVMAE__TRY(cavmae__record_in(&own, sizeof own, out));
    cavmae__embed_needs(model, &own, &sound, &pictures);
    if (sound) CAVMAE__TRY_OUT(load_audio(model, &from, &audio, &frames));
    if (pictures) CAVMAE__TRY_OUT(load_images(model, &from, own.frames, &images));
    const int32_t audio_frames = (int32_t)frames;
    const cavmae_batch batch = {.struct_size = sizeof batch,
                                .count = 1,
                                .audio = audio,
                                .image = images,
                                .audio_frames = audio ? &audio_frames : NULL,
                                .frames = own.frames};
    own.struct_size = sizeof own;
    status = cavmae_embed(model, &batch, &own);
    if (status != CAVMAE_OK) status = cavmae__fail_prefix(status, "%s", from.path);
out:
    cavmae__free(model->context, audio);
    cavmae__free(model->context, images);
    return status;
}

cavmae_status cavmae_embed_file(cavmae_model *model, const char *path, const cavmae_embedding *out) {
    const cavmae_source source = cavmae__source_at(path);
    return cavmae_embed_source(model, &source, out);
}
