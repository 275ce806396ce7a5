/* The configuration as the library's own code reads it: one plain struct, filled from the public keys. */
#ifndef CAVMAE_MODEL_CONFIG_H
#define CAVMAE_MODEL_CONFIG_H

#include "context.h"
#include "contract.h"

enum { CAVMAE__MAX_MILESTONES = 64 };

enum { CAVMAE__MODALITIES_AV, CAVMAE__MODALITIES_A, CAVMAE__MODALITIES_V };
enum { CAVMAE__V2A, CAVMAE__A2V, CAVMAE__BOTH };
enum { CAVMAE__MASK_UNSTRUCTURED, CAVMAE__MASK_TIME, CAVMAE__MASK_FREQUENCY, CAVMAE__MASK_TIME_FREQUENCY };
enum { CAVMAE__MASK_DOMAIN_MODALITY, CAVMAE__MASK_DOMAIN_JOINT };
enum { CAVMAE__ADAM, CAVMAE__ADAMW };
enum { CAVMAE__MULTISTEP, CAVMAE__COSINE };
enum { CAVMAE__BROKEN_ERROR, CAVMAE__BROKEN_SKIP };

/* Field names are the keys' names; words are the enums above, in the order the header lists them. */
typedef struct cavmae__options {
    /* model */
    int64_t image_size, image_channels, audio_frames, mel_bins, patch_size, embed_dim, num_heads;
    int64_t modality_depth, joint_depth, decoder_dim, decoder_heads, decoder_depth;
    double mlp_ratio, layer_norm_eps;
    int64_t trainable_pos, modalities, dtype /* CAVMAE_FLOAT32 or CAVMAE_BFLOAT16 */, seed;
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
    /* training */
    int64_t optimizer;
    double lr, beta1, beta2, adam_eps, weight_decay, clip_norm;
    int64_t accumulate, recompute, schedule;
    int64_t milestone_count, milestones[CAVMAE__MAX_MILESTONES];
    double gamma;
    int64_t warmup_steps, total_steps;
    double min_lr;
    /* data */
    int64_t batch, shuffle, drop_last, noise, roll, frame, broken, loader_threads, queue;
} cavmae__options;

/* Checks the whole config (as cavmae_config_check) and fills the struct. */
cavmae_status cavmae__config_options(const cavmae_config *config, cavmae__options *out);

cavmae_context *cavmae__config_context(const cavmae_config *config);

/* The config as one JSON object of name: value, all keys, and back (unknown names are an error that names them).
 * *json is the context's memory, the caller's to free. */
cavmae_status cavmae__config_to_json(const cavmae_config *config, char **json);
cavmae_status cavmae__config_from_json(cavmae_context *context, const char *json, cavmae_config **out);

#endif
