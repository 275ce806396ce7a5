/* Checkpoints, into a trainer of the smallest model; one that is refused leaves the trainer's counts alone. */
#define _GNU_SOURCE
#include "fuzz.h"

/* "name=value" pairs; those of test/fuzz/corpus/checkpoint. */
static const char *const settings[][2] = {
    {"audio_frames", "2"},   {"mel_bins", "2"},       {"patch_size", "1"},   {"image_size", "2"},
    {"image_channels", "1"}, {"image_mean", "0"},     {"image_std", "1"},    {"embed_dim", "4"},
    {"num_heads", "1"},      {"modality_depth", "0"}, {"joint_depth", "1"},  {"decoder_dim", "4"},
    {"decoder_heads", "1"},  {"decoder_depth", "0"},  {"mlp_ratio", "0.25"}, {"mask_ratio_a", "0.5"},
    {"mask_ratio_v", "0.5"}, {"batch", "1"},          {"accumulate", "3"},   {"norm_pix_loss", "0"},
    {"modalities", "a"},     {"classes", "1"},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cavmae_context *context = fuzz_context(FUZZ_MEMORY);
    cavmae_config *config = NULL;
    cavmae_model *model = NULL;
    cavmae_optimizer *optimizer = NULL;
    cavmae_trainer *trainer = NULL;
    FUZZ_CHECK(cavmae_config_create(context, "tiny", &config) == CAVMAE_OK);
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        FUZZ_CHECK(cavmae_config_set(config, settings[i][0], settings[i][1]) == CAVMAE_OK);
    FUZZ_CHECK(cavmae_model_create(config, &model) == CAVMAE_OK);
    FUZZ_CHECK(cavmae_optimizer_create(model, config, &optimizer) == CAVMAE_OK);
    FUZZ_CHECK(cavmae_trainer_create(model, optimizer, config, &trainer) == CAVMAE_OK);
    if (!fuzz_ok(cavmae_checkpoint_load(trainer, NULL, fuzz_path(data, size))))
        FUZZ_CHECK(cavmae_optimizer_updates(optimizer) == 0);
    FUZZ_CHECK(cavmae_optimizer_updates(optimizer) >= 0 && cavmae_optimizer_lr(optimizer) >= 0);
    cavmae_trainer_free(trainer);
    cavmae_optimizer_free(optimizer);
    cavmae_model_free(model);
    cavmae_config_free(config);
    fuzz_end(context);
    return 0;
}
