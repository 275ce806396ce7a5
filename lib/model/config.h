/* The configuration as the library's own code reads it: one plain struct, filled from the public keys. */
#ifndef CAVMAE_MODEL_CONFIG_H
#define CAVMAE_MODEL_CONFIG_H

#include "context.h"
#include "contract.h"

enum { CAVMAE__MAX_MILESTONES = 64 };

enum { CAVMAE__MODALITIES_AV, CAVMAE__MODALITIES_A, CAVMAE__MODALITIES_V };
enum { CAVMAE__SCOPE_LOCAL, CAVMAE__SCOPE_GLOBAL };
enum { CAVMAE__LOSS_MEAN, CAVMAE__LOSS_SUM };
enum { CAVMAE__V2A, CAVMAE__A2V, CAVMAE__BOTH };
enum { CAVMAE__MASK_UNSTRUCTURED, CAVMAE__MASK_TIME, CAVMAE__MASK_FREQUENCY, CAVMAE__MASK_TIME_FREQUENCY };
enum { CAVMAE__MASK_DOMAIN_MODALITY, CAVMAE__MASK_DOMAIN_JOINT };
enum { CAVMAE__ADAM, CAVMAE__ADAMW };
enum { CAVMAE__MULTISTEP, CAVMAE__COSINE };
enum { CAVMAE__BROKEN_ERROR, CAVMAE__BROKEN_SKIP };
enum { CAVMAE__HEAD_NORM_LINEAR, CAVMAE__HEAD_LINEAR };
enum { CAVMAE__INPUT_JOINT, CAVMAE__INPUT_SUM, CAVMAE__INPUT_CONCAT };
enum { CAVMAE__LOSS_BCE, CAVMAE__LOSS_CE };
enum { CAVMAE__FILL_ZERO, CAVMAE__FILL_MEAN };
enum { CAVMAE__SMOOTHING_REFERENCE, CAVMAE__SMOOTHING_NORMALISED };

/* Field names are the keys' names; words are the enums above, in the order the header lists them. */
typedef struct cavmae__options {
    /* model */
    int64_t image_size, image_channels, audio_frames, mel_bins, patch_size, embed_dim, num_heads;
    int64_t modality_depth, joint_depth, decoder_dim, decoder_heads, decoder_depth;
    double mlp_ratio, layer_norm_eps;
    int64_t trainable_pos, modalities, dtype /* CAVMAE_FLOAT32 or CAVMAE_BFLOAT16 */, seed;
    int64_t classes, decoder, head, head_input;
    /* input contract */
    int64_t sample_rate, audio_channel, resampler, audio_length;
    double audio_mean, audio_std;
    int64_t image_filter, clip_frames;
    cavmae__audio_contract audio; /* the same, as the front-end takes it */
    cavmae__image_contract image;
    /* objective */
    double mae_weight, contrast_weight, contrast_temperature;
    int64_t contrast_direction, norm_pix_loss;
    double mask_ratio_a, mask_ratio_v;
    int64_t mask_mode_a, mask_mode_v, mask_domain;
    int64_t loss, mode /* CAVMAE_MODE_* */;
    double modality_dropout;
    int64_t contrast_scope, contrast_shards, loss_reduce;
    /* training */
    int64_t optimizer;
    double lr, beta1, beta2, adam_eps, weight_decay, clip_norm;
    int64_t accumulate, recompute, schedule;
    int64_t milestone_count, milestones[CAVMAE__MAX_MILESTONES]; /* in updates */
    double gamma;
    int64_t warmup_steps, total_steps;
    double min_lr;
    int64_t milestone_unit;
    double head_lr_factor;
    int64_t freeze_base, epochs, average_from;
    int64_t chunk, reduce_dtype /* CAVMAE_FLOAT32 or CAVMAE_BFLOAT16 */;
    double bucket_mb;
    int64_t shard_optimizer;
    /* data */
    int64_t batch, shuffle, drop_last, noise, roll, frame, broken, loader_threads, queue;
    double mixup, mixup_alpha;
    int64_t freq_mask, time_mask, specaug_fill;
    double label_smoothing;
    int64_t smoothing_form, balanced, shuffle_pairs;
} cavmae__options;

/* Checks the whole config (as cavmae_config_check) and fills the struct. */
cavmae_status cavmae__config_options(const cavmae_config *config, cavmae__options *out);

/* Whether a model has modality m: 0 sound, 1 pictures. */
static inline int cavmae__has_modality(const cavmae__options *o, int m) {
    return o->modalities == CAVMAE__MODALITIES_AV || o->modalities == (m ? CAVMAE__MODALITIES_V : CAVMAE__MODALITIES_A);
}

/* Whether a mode (CAVMAE_MODE_*) looks at modality m. */
static inline int cavmae__mode_uses(int64_t mode, int m) {
    return mode == CAVMAE_MODE_MULTIMODAL ||
           (m ? mode == CAVMAE_MODE_VIDEO_ONLY || mode == CAVMAE_MODE_MISSING_VIDEO_ONLY
              : mode == CAVMAE_MODE_AUDIO_ONLY || mode == CAVMAE_MODE_MISSING_AUDIO_ONLY);
}

/* A head takes the decoder's place. */
static inline int cavmae__has_decoder(const cavmae__options *o) { return o->decoder && !o->classes; }

cavmae_context *cavmae__config_context(const cavmae_config *config);
cavmae_world *cavmae__config_world(const cavmae_config *config); /* not a new reference; NULL: alone */

int cavmae__config_key_count(void);

/* The config as one JSON object of name: value, all keys, and back (unknown names are an error that names them).
 * *json is the context's memory, the caller's to free. */
cavmae_status cavmae__config_to_json(const cavmae_config *config, char **json);
cavmae_status cavmae__config_from_json(cavmae_context *context, const char *json, cavmae_config **out);

#endif
