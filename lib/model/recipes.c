/* Presets: lists of keys that are set together. The reference's numbers are those of its scripts (egs/) where the paper
 * says nothing else. */
#include <string.h>

#include "config.h"

typedef struct recipe {
    const char *name;
    const char *const (*pairs)[2]; /* ends with {NULL, NULL} */
    const struct recipe *base;     /* set before; or NULL */
} recipe;

typedef const char *const pair[2];

static pair tiny[] = {{"image_size", "64"},    {"audio_frames", "128"}, {"embed_dim", "32"},   {"num_heads", "4"},
                      {"modality_depth", "3"}, {"joint_depth", "1"},    {"decoder_dim", "16"}, {"decoder_heads", "4"},
                      {"decoder_depth", "2"},  {"batch", "4"},          {NULL, NULL}};

/* egs/audioset/run_cavmae_pretrain_*.sh: halved after epochs 10, 15, 20; frames at random, noise and roll. */
static pair pretrain[] = {{"optimizer", "adam"},
                          {"lr", "5e-5"},
                          {"beta1", "0.95"},
                          {"beta2", "0.999"},
                          {"adam_eps", "1e-8"},
                          {"weight_decay", "5e-7"},
                          {"schedule", "multistep"},
                          {"milestones", "10,15,20,25"},
                          {"gamma", "0.5"},
                          {"mae_weight", "1"},
                          {"contrast_weight", "0.01"},
                          {"contrast_temperature", "0.05"},
                          {"contrast_direction", "v2a"},
                          {"norm_pix_loss", "1"},
                          {"mask_ratio_a", "0.75"},
                          {"mask_ratio_v", "0.75"},
                          {"mask_mode_a", "unstructured"},
                          {"batch", "48"},
                          {"epochs", "25"},
                          {"frame", "-2"},
                          {"noise", "1"},
                          {"roll", "1"},
                          {NULL, NULL}};
static pair pretrain_paper[] = {{"epochs", "12"}, {NULL, NULL}};
static pair pretrain_scale[] = {{"lr", "1e-4"}, {"batch", "108"}, {NULL, NULL}};
static pair pretrain_scale120[] = {{"lr", "1e-4"}, {"batch", "120"}, {NULL, NULL}};
static pair pretrain_scale256[] = {{"lr", "2e-4"}, {"batch", "256"}, {NULL, NULL}};

/* egs/audioset and egs/vggsound/run_cavmae_ft_*.sh. */
static pair finetune[] = {{"head", "norm_linear"},
                          {"head_input", "joint"},
                          {"mode", "multimodal"},
                          {"trainable_pos", "1"},
                          {"optimizer", "adam"},
                          {"beta1", "0.95"},
                          {"beta2", "0.999"},
                          {"adam_eps", "1e-8"},
                          {"weight_decay", "5e-7"},
                          {"schedule", "multistep"},
                          {"gamma", "0.5"},
                          {"frame", "-2"},
                          {"noise", "1"},
                          {"roll", "1"},
                          {"mixup", "0.5"},
                          {"mixup_alpha", "10"},
                          {"freq_mask", "48"},
                          {"time_mask", "192"},
                          {"specaug_fill", "zero"},
                          {"label_smoothing", "0.1"},
                          {"smoothing_form", "reference"},
                          {NULL, NULL}};
static pair finetune_as20k[] = {{"classes", "527"},
                                {"loss", "bce"},
                                {"lr", "5e-5"},
                                {"head_lr_factor", "100"},
                                {"batch", "36"},
                                {"epochs", "15"},
                                {"milestones", "5,6,7,8,9,10,11,12,13,14"},
                                {"average_from", "3"},
                                {"balanced", "0"},
                                {NULL, NULL}};
static pair finetune_as2m[] = {{"classes", "527"},
                               {"loss", "bce"},
                               {"lr", "1e-5"},
                               {"head_lr_factor", "50"},
                               {"batch", "48"},
                               {"epochs", "10"},
                               {"milestones", "2,3,4,5,6,7,8,9"},
                               {"average_from", "1"},
                               {"balanced", "1"},
                               {NULL, NULL}};
static pair finetune_vggsound[] = {{"classes", "309"},
                                   {"loss", "ce"},
                                   {"lr", "1e-4"},
                                   {"head_lr_factor", "10"},
                                   {"batch", "48"},
                                   {"epochs", "10"},
                                   {"milestones", "2,3,4,5,6,7,8,9"},
                                   {"average_from", "3"},
                                   {"balanced", "1"},
                                   {NULL, NULL}};

static const recipe pretrain_base = {"pretrain-base", pretrain, NULL}, finetune_base = {"finetune", finetune, NULL};
static const recipe recipes[] = {{"tiny", tiny, NULL},
                                 {"pretrain-base", pretrain, NULL},
                                 {"pretrain-paper", pretrain_paper, &pretrain_base},
                                 {"pretrain-scale+", pretrain_scale, &pretrain_base},
                                 {"pretrain-scale+120", pretrain_scale120, &pretrain_base},
                                 {"pretrain-scale++", pretrain_scale256, &pretrain_base},
                                 {"finetune-as20k", finetune_as20k, &finetune_base},
                                 {"finetune-as2m", finetune_as2m, &finetune_base},
                                 {"finetune-vggsound", finetune_vggsound, &finetune_base}};

static cavmae_status set_pairs(cavmae_config *config, const recipe *r) {
    if (r->base) CAVMAE__TRY(set_pairs(config, r->base));
    for (size_t i = 0; r->pairs[i][0]; i++) CAVMAE__TRY(cavmae_config_set(config, r->pairs[i][0], r->pairs[i][1]));
    return CAVMAE_OK;
}

cavmae_status cavmae_config_apply(cavmae_config *config, const char *name) {
    if (!config || !name) return cavmae__fail(CAVMAE_E_ARG, "config: config or recipe is NULL");
    for (size_t i = 0; i < sizeof recipes / sizeof recipes[0]; i++)
        if (strcmp(recipes[i].name, name) == 0) return set_pairs(config, &recipes[i]);
    return cavmae__fail(CAVMAE_E_NOT_FOUND,
                        "config: no preset is called '%s'; there are base, tiny, pretrain-paper, pretrain-base, "
                        "pretrain-scale+, pretrain-scale+120, pretrain-scale++, finetune-as20k, finetune-as2m, "
                        "finetune-vggsound",
                        name);
}
