/* embed [PLUGIN_DIR]: embeds a made-up sound, read from a WAV file by the media plug-in, with a new tiny model. */
#include <cavmae.h>
#include <math.h>
#include <stdio.h>

static void little_endian(unsigned char *to, unsigned long number, int bytes) {
    for (int i = 0; i < bytes; i++) to[i] = (unsigned char)(number >> 8 * i);
}

/* A second and a half of 440 Hz. */
static int write_sound(const char *path) {
    enum { RATE = 16000, SAMPLES = 3 * RATE / 2 };
    unsigned char head[44] = "RIFF....WAVEfmt ", sample[2];
    FILE *file = fopen(path, "wb");
    if (!file) return 0;
    little_endian(head + 4, 36 + 2 * SAMPLES, 4);
    little_endian(head + 16, 16, 4);
    little_endian(head + 20, 1, 2);
    little_endian(head + 22, 1, 2);
    little_endian(head + 24, RATE, 4);
    little_endian(head + 28, 2 * RATE, 4);
    little_endian(head + 32, 2, 2);
    little_endian(head + 34, 16, 2);
    for (int i = 0; i < 4; i++) head[36 + i] = (unsigned char)"data"[i];
    little_endian(head + 40, 2 * SAMPLES, 4);
    fwrite(head, 1, sizeof head, file);
    for (int i = 0; i < SAMPLES; i++) {
        little_endian(sample, (unsigned long)lrint(8000 * sin(440 * 6.283185307 * i / RATE)) & 0xFFFF, 2);
        fwrite(sample, 1, sizeof sample, file);
    }
    return fclose(file) == 0;
}

int main(int argc, char **argv) {
    const cavmae_context_options options = {.struct_size = sizeof options, .plugin_dir = argc > 1 ? argv[1] : NULL};
    cavmae_context *context = NULL;
    cavmae_config *config = NULL;
    cavmae_model *model = NULL;
    float audio[32];
    int64_t width = 0;
    double square = 0;
    const cavmae_embedding out = {.struct_size = sizeof out, .audio = audio};
    if (!write_sound("sound.wav")) return perror("sound.wav"), 1;
    if (cavmae_context_create(&options, &context) != CAVMAE_OK ||
        cavmae_config_create(context, "tiny", &config) != CAVMAE_OK ||
        cavmae_config_get_i64(config, CAVMAE_P_EMBED_DIM, &width) != CAVMAE_OK || width != 32 ||
        cavmae_model_create(config, &model) != CAVMAE_OK || cavmae_embed_file(model, "sound.wav", &out) != CAVMAE_OK)
        return printf("%s\n", cavmae_last_error()), 1;
    for (int i = 0; i < 32; i++) square += (double)audio[i] * audio[i];
    printf("%s; length of the embedding: %.4f\n", cavmae_build_info(), sqrt(square));
    cavmae_model_free(model);
    cavmae_config_free(config);
    cavmae_context_free(context);
    return !(fabs(square - 1) < 1e-4);
}
