/* lib/io/media.c with decoders of its own, good and bad; then libcavmae-media.so on files that the test writes, and
 * on a video where one lies beside the tree. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "failing_allocator.h"
#include "media.h"

static const char video[] = "../shared/media/00W1lcxW-WU_40.000.mp4";
static char directory[] = "/tmp/cavmae-media-test-XXXXXX";

static const char *in_directory(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

static cavmae_context *context_for(const char *plugin_dir) {
    cavmae_context_options options = {.struct_size = sizeof options, .plugin_dir = plugin_dir};
    cavmae_context *context;
    if (!CHECK_OK(cavmae_context_create(&options, &context))) exit(1);
    return context;
}

/* ---- Decoders of the test's own ---- */

enum {
    GOOD,
    SILENT,
    EMPTY,
    OTHER_RATE,
    OTHER_CHANNELS,
    NO_CHANNELS,
    REFUSES,
    SPEECHLESS,
    POSITIVE,
    DEAF,
    TOO_MANY,
    NEGATIVE,
    TOO_FEW,
    OTHER_SIZE,
    NO_PIXELS,
    THIN_ROWS,
    BEHAVIOURS
};

static cavmae_status refuse(int how, const char *path, char *error, size_t error_size) {
    if (how == REFUSES) snprintf(error, error_size, "%s: refused", path);
    return how == REFUSES ? CAVMAE_E_IO : how == SPEECHLESS ? CAVMAE_E_MEDIA : how == POSITIVE ? 7 : CAVMAE_OK;
}

static cavmae_status own_probe(void *user, const cavmae_source *source, cavmae_media_info *info, char *error,
                               size_t error_size) {
    int how = *(int *)user;
    CHECK(info->struct_size == sizeof *info && info->width == 0);
    info->audio_channels = 2;
    info->seconds = 1.5;
    return refuse(how, source->path, error, error_size);
}

static cavmae_status own_audio(void *user, const cavmae_source *source, cavmae_audio_sink *sink, void *arg, char *error,
                               size_t error_size) {
    int how = *(int *)user;
    float piece[2 * 700];
    for (int i = 0; i < 300 && how != SILENT; i++) {
        for (int s = 0; s < 1400; s++) piece[s] = (float)(i * 1400 + s);
        cavmae_status status = sink(arg, piece, how == EMPTY ? 0 : 700,
                                    how == NO_CHANNELS                ? 0
                                    : how == OTHER_CHANNELS && i == 9 ? 1
                                                                      : 2,
                                    how == OTHER_RATE && i == 9 ? 8000 : 16000);
        if (status != CAVMAE_OK && how != DEAF) return status;
    }
    return refuse(how, source->path, error, error_size);
}

static cavmae_status own_frames(void *user, const cavmae_source *source, const double *seconds, int32_t count,
                                cavmae_frame_sink *sink, void *arg, char *error, size_t error_size) {
    int how = *(int *)user;
    uint8_t rgb[4 * 16];
    for (int32_t i = count - 1; i >= (how == TOO_FEW ? 1 : 0); i--) { /* in no particular order */
        memset(rgb, (int)seconds[i], sizeof rgb);
        cavmae_status status =
            sink(arg,
                 how == TOO_MANY   ? count
                 : how == NEGATIVE ? -1
                                   : i,
                 how == NO_PIXELS ? NULL : rgb, how == OTHER_SIZE && i == 0 ? 4 : 5, 4, how == THIN_ROWS ? 14 : 16);
        if (status != CAVMAE_OK && how != DEAF) return status;
    }
    return refuse(how, source->path, error, error_size);
}

static void test_own_decoder(void) {
    cavmae_context *context = context_for("/no/such/directory");
    cavmae_media_info info = {.struct_size = sizeof info};
    cavmae_tensor *tensor = NULL;
    int32_t rate = 0;
    int how = GOOD;
    double seconds[] = {1, 2, 3}, falling[] = {2, 1}, nan[] = {NAN};
    cavmae_decoder decoder = {sizeof decoder, 1, &how, own_probe, own_audio, own_frames};

    CHECK_STATUS(cavmae_media_probe(context, "x", &info), CAVMAE_E_BACKEND);
    CHECK(strstr(cavmae_last_error(), "libcavmae-media.so") != NULL);
    CHECK_STATUS(cavmae_media_audio(context, "x", &tensor, &rate), CAVMAE_E_BACKEND);
    CHECK_STATUS(cavmae_media_frames(context, "x", seconds, 3, &tensor), CAVMAE_E_BACKEND);

    CHECK_STATUS(cavmae_context_set_decoder(context, NULL), CAVMAE_E_ARG);
    decoder.version = 2;
    CHECK_STATUS(cavmae_context_set_decoder(context, &decoder), CAVMAE_E_UNSUPPORTED);
    decoder.version = 1;
    decoder.audio = NULL;
    CHECK_STATUS(cavmae_context_set_decoder(context, &decoder), CAVMAE_E_ARG);
    decoder.audio = own_audio;
    CHECK_OK(cavmae_context_set_decoder(context, &decoder));

    CHECK_OK(cavmae_media_probe(context, "x", &info));
    CHECK(info.struct_size == sizeof info && info.audio_channels == 2 && info.seconds == 1.5);
    CHECK_OK(cavmae_media_audio(context, "x", &tensor, &rate));
    CHECK(rate == 16000 && cavmae_tensor_dims(tensor) == 2 && cavmae_tensor_dtype(tensor) == CAVMAE_FLOAT32);
    CHECK(cavmae_tensor_shape(tensor)[0] == 210000 && cavmae_tensor_shape(tensor)[1] == 2);
    const float *pcm = cavmae_tensor_data(tensor);
    int wrong = 0;
    for (int i = 0; i < 420000; i++) wrong += pcm[i] != (float)i;
    CHECK(wrong == 0);
    cavmae_tensor_free(tensor);
    CHECK_OK(cavmae_media_frames(context, "x", seconds, 3, &tensor));
    CHECK(cavmae_tensor_dims(tensor) == 4 && cavmae_tensor_dtype(tensor) == CAVMAE_UINT8);
    const int64_t *shape = cavmae_tensor_shape(tensor);
    CHECK(shape[0] == 3 && shape[1] == 4 && shape[2] == 5 && shape[3] == 3);
    const uint8_t *rgb = cavmae_tensor_data(tensor);
    for (int i = 0; i < 180; i++) CHECK(rgb[i] == 1 + i / 60);
    cavmae_tensor_free(tensor);

    tensor = NULL;
    rate = 0;
    for (how = SILENT; how < BEHAVIOURS; how++) {
        cavmae_status expected = how == REFUSES ? CAVMAE_E_IO : CAVMAE_E_MEDIA;
        if (how < DEAF) {
            CHECK_STATUS(cavmae_media_audio(context, "dir/x.mp4", &tensor, &rate), expected);
            CHECK(strncmp(cavmae_last_error(), "dir/x.mp4: ", 11) == 0);
        }
        if (how > DEAF || how == REFUSES || how == SPEECHLESS) {
            CHECK_STATUS(cavmae_media_frames(context, "dir/x.mp4", seconds, 3, &tensor), expected);
            CHECK(strncmp(cavmae_last_error(), "dir/x.mp4: ", 11) == 0);
        }
    }
    CHECK(tensor == NULL && rate == 0);
    how = GOOD;
    CHECK_STATUS(cavmae_media_frames(context, "x", seconds, 0, &tensor), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_media_frames(context, "x", falling, 2, &tensor), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_media_frames(context, "x", nan, 1, &tensor), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_media_frames(context, NULL, seconds, 1, &tensor), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_media_audio(context, "x", &tensor, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_media_probe(context, "x", NULL), CAVMAE_E_ARG);
    cavmae_context_free(context);
}

/* Every allocation fails once; what a decoder does after a sink refused it does not matter. */
static int32_t end_after(void *user) { return --*(int *)user < 0; }

/* Decoding is ended between pieces of sound, and between pictures. */
static void test_cancel(void) {
    int how = GOOD, questions = 1000;
    const cavmae_context_options options = {
        .struct_size = sizeof options, .cancel = end_after, .cancel_user = &questions};
    const cavmae_decoder decoder = {sizeof decoder, 1, &how, own_probe, own_audio, own_frames};
    double seconds[] = {1, 2, 3};
    cavmae_context *context;
    cavmae_tensor *tensor = NULL;
    int32_t rate = 0;
    if (!CHECK_OK(cavmae_context_create(&options, &context))) exit(1);
    CHECK_OK(cavmae_context_set_decoder(context, &decoder));
    questions = 100;
    CHECK_STATUS(cavmae_media_audio(context, "x", &tensor, &rate), CAVMAE_E_CANCELLED);
    CHECK(questions == -1);
    questions = 2;
    CHECK_STATUS(cavmae_media_frames(context, "x", seconds, 3, &tensor), CAVMAE_E_CANCELLED);
    CHECK(questions == -1 && tensor == NULL);
    cavmae_context_free(context);
}

static void test_memory(void) {
    failing_allocator allocator = {0};
    cavmae_context_options options = failing_options(&allocator);
    cavmae_context *context;
    cavmae_tensor *tensor;
    int32_t rate;
    double seconds[] = {1, 2, 3};
    CHECK_OK(cavmae_context_create(&options, &context));
    long blocks = atomic_load(&allocator.blocks);
    for (int how = GOOD; how <= DEAF; how += DEAF) {
        cavmae_decoder decoder = {sizeof decoder, 1, &how, own_probe, own_audio, own_frames};
        CHECK_OK(cavmae_context_set_decoder(context, &decoder));
        for (int frames = 0; frames < 2; frames++) {
            cavmae_status status = CAVMAE_E_NOMEM;
            int failures = -1;
            for (long at = 1; status == CAVMAE_E_NOMEM && at < 100; at++, failures++) {
                allocator.fail_at = atomic_load(&allocator.calls) + at;
                status = frames ? cavmae_media_frames(context, "x", seconds, 3, &tensor)
                                : cavmae_media_audio(context, "x", &tensor, &rate);
                if (status == CAVMAE_OK) cavmae_tensor_free(tensor);
                CHECK(atomic_load(&allocator.blocks) == blocks);
            }
            CHECK_OK(status);
            CHECK(failures >= 4);
        }
    }
    cavmae_context_free(context);
    CHECK(atomic_load(&allocator.blocks) == 0);
}

/* ---- The plug-in ---- */

static void put_u32(FILE *file, uint32_t value) { CHECK(fwrite(&value, 4, 1, file) == 1); }

/* A WAV file of `samples` 16-bit stereo samples at 8 kHz: left counts up, right down. */
static void write_wav(const char *path, int samples) {
    FILE *file = fopen(path, "wb");
    uint32_t size = (uint32_t)samples * 4;
    if (!CHECK(file != NULL)) return;
    fputs("RIFF", file);
    put_u32(file, 36 + size);
    fputs("WAVEfmt ", file);
    put_u32(file, 16);
    put_u32(file, 2u << 16 | 1); /* 2 channels of PCM */
    put_u32(file, 8000);
    put_u32(file, 8000 * 4);
    put_u32(file, 16u << 16 | 4);
    fputs("data", file);
    put_u32(file, size);
    for (int i = 0; i < samples; i++) put_u32(file, (uint32_t)(uint16_t)(int16_t)-i << 16 | (uint16_t)(int16_t)i);
    fclose(file);
}

static void test_sound(cavmae_context *context) {
    cavmae_media_info info = {.struct_size = sizeof info};
    cavmae_tensor *tensor;
    int32_t rate;
    double second = 0;
    const char *path = in_directory("sound:%d.wav"); /* neither a protocol nor a pattern */
    write_wav(path, 12345);
    CHECK_OK(cavmae_media_probe(context, path, &info));
    CHECK(info.audio_channels == 2 && info.audio_rate == 8000 && info.width == 0 && info.height == 0 && !info.still);
    CHECK_CLOSE(info.seconds, 12345 / 8000.0, 1e-3);
    CHECK_OK(cavmae_media_audio(context, path, &tensor, &rate));
    CHECK(rate == 8000 && cavmae_tensor_shape(tensor)[0] == 12345 && cavmae_tensor_shape(tensor)[1] == 2);
    const float *pcm = cavmae_tensor_data(tensor);
    int wrong = 0;
    for (int i = 0; i < 12345; i++) wrong += pcm[2 * i] != (float)i / 32768 || pcm[2 * i + 1] != (float)-i / 32768;
    CHECK(wrong == 0);
    cavmae_tensor_free(tensor);
    CHECK_STATUS(cavmae_media_frames(context, path, &second, 1, &tensor), CAVMAE_E_MEDIA);
    CHECK(strstr(cavmae_last_error(), "sound:%d.wav: no video track") != NULL);

    /* Cut short, it gives what is there. */
    CHECK(truncate(path, 44 + 4 * 5000 + 3) == 0);
    CHECK_OK(cavmae_media_audio(context, path, &tensor, &rate));
    CHECK(cavmae_tensor_shape(tensor)[0] == 5000);
    cavmae_tensor_free(tensor);
    CHECK(truncate(path, 44) == 0);
    CHECK_STATUS(cavmae_media_audio(context, path, &tensor, &rate), CAVMAE_E_MEDIA);
    CHECK(truncate(path, 0) == 0);
    CHECK_STATUS(cavmae_media_audio(context, path, &tensor, &rate), CAVMAE_E_FORMAT);
    CHECK_STATUS(cavmae_media_probe(context, path, &info), CAVMAE_E_FORMAT);
    unlink(path);
    CHECK_STATUS(cavmae_media_audio(context, path, &tensor, &rate), CAVMAE_E_IO);
    CHECK(strstr(cavmae_last_error(), "sound:%d.wav: cannot open: No such file") != NULL);
    CHECK_STATUS(cavmae_media_audio(context, directory, &tensor, &rate), CAVMAE_E_IO);
}

/* A play list is text: it must not make the decoder open what it names. */
static void test_play_list(cavmae_context *context) {
    cavmae_tensor *tensor;
    int32_t rate;
    write_wav(in_directory("a.wav"), 100);
    FILE *file = fopen(in_directory("list.m3u8"), "w");
    fprintf(file, "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n%s/a.wav\n#EXT-X-ENDLIST\n", directory);
    fclose(file);
    CHECK_STATUS(cavmae_media_audio(context, in_directory("list.m3u8"), &tensor, &rate), CAVMAE_E_FORMAT);
    unlink(in_directory("list.m3u8"));
    unlink(in_directory("a.wav"));
}

/* A PPM picture of a gradient. */
static void test_picture(cavmae_context *context) {
    enum { WIDTH = 37, HEIGHT = 21 };
    cavmae_media_info info = {.struct_size = sizeof info};
    cavmae_tensor *tensor;
    uint8_t pixels[HEIGHT * WIDTH * 3];
    double seconds[] = {-1, 0, 100};
    const char *path = in_directory("picture.ppm");
    FILE *file = fopen(path, "wb");
    for (int i = 0; i < HEIGHT * WIDTH * 3; i++) pixels[i] = (uint8_t)(i * 7);
    fprintf(file, "P6\n%d %d\n255\n", WIDTH, HEIGHT);
    CHECK(fwrite(pixels, sizeof pixels, 1, file) == 1);
    fclose(file);
    CHECK_OK(cavmae_media_probe(context, path, &info));
    CHECK(info.width == WIDTH && info.height == HEIGHT && info.still && info.seconds == 0 && info.frame_rate == 0);
    CHECK(info.audio_channels == 0);
    CHECK_OK(cavmae_media_frames(context, path, seconds, 3, &tensor));
    const int64_t *shape = cavmae_tensor_shape(tensor);
    CHECK(shape[0] == 3 && shape[1] == HEIGHT && shape[2] == WIDTH);
    const uint8_t *rgb = cavmae_tensor_data(tensor);
    for (int i = 0; i < 3; i++) CHECK(memcmp(rgb + (size_t)i * sizeof pixels, pixels, sizeof pixels) == 0);
    cavmae_tensor_free(tensor);
    unlink(path);
}

static void *decode_in_thread(void *arg) {
    cavmae_tensor *tensor;
    double seconds[] = {1, 5, 9};
    return cavmae_media_frames(arg, video, seconds, 3, &tensor) == CAVMAE_OK ? tensor
                                                                             : NULL; /* CHECK is for one thread */
}

static void test_video(cavmae_context *context) {
    enum { FRAME = 256 * 144 * 3, COUNT = 7 };
    cavmae_media_info info = {.struct_size = sizeof info};
    cavmae_tensor *all, *golden;
    cavmae_safetensors *file;
    double seconds[COUNT] = {-1, 0, 1, 4.96, 5, 9, 1000};
    if (access(video, R_OK) != 0) {
        printf("media: %s is not here: left out\n", video);
        return;
    }
    CHECK_OK(cavmae_media_probe(context, video, &info));
    CHECK(info.audio_channels == 2 && info.audio_rate == 44100 && info.width == 256 && info.height == 144 &&
          !info.still);
    CHECK_CLOSE(info.frame_rate, 12.5, 1e-9);
    CHECK_CLOSE(info.seconds, 10.024, 1e-6);

    /* Frames 0, 13, 62, 63, 113 and the last one, whatever else is asked for. */
    CHECK_OK(cavmae_media_frames(context, video, seconds, COUNT, &all));
    const uint8_t *frames = cavmae_tensor_data(all);
    CHECK(memcmp(frames, frames + FRAME, FRAME) == 0);
    for (int i = 0; i < COUNT; i++) {
        uint8_t *rgb;
        int32_t width, height;
        CHECK_OK(cavmae__media_frame(context, video, seconds[i], &rgb, &width, &height));
        CHECK(width == 256 && height == 144 && memcmp(rgb, frames + (size_t)i * FRAME, FRAME) == 0);
        cavmae__free(context, rgb);
        if (i > 1) CHECK(memcmp(frames + (size_t)i * FRAME, frames + (size_t)(i - 1) * FRAME, FRAME) != 0);
    }

    /* "ffmpeg -ss 5" gives the first frame at or after 5 s; at 12.5 frames a second that is the one of 5.04 s. */
    CHECK_OK(cavmae_safetensors_open(context, "../shared/golden/image_00W1lcxW-WU_40_000.safetensors", &file));
    CHECK_OK(cavmae_safetensors_get(file, "input.rgb", &golden));
    const uint8_t *expected = cavmae_tensor_data(golden);
    int64_t difference = 0;
    for (int i = 0; i < FRAME; i++) difference += abs(expected[i] - frames[4 * FRAME + i]);
    CHECK_CLOSE((double)difference / FRAME, 0, 0.5);
    cavmae_safetensors_free(file);
    cavmae_tensor_free(golden);

    pthread_t threads[4];
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, decode_in_thread, context);
    for (int i = 0; i < 4; i++) {
        void *result;
        pthread_join(threads[i], &result);
        if (!CHECK(result != NULL)) continue;
        const uint8_t *rgb = cavmae_tensor_data(result);
        CHECK(memcmp(rgb, frames + 2 * FRAME, FRAME) == 0 && memcmp(rgb + 2 * FRAME, frames + 5 * FRAME, FRAME) == 0);
        cavmae_tensor_free(result);
    }
    cavmae_tensor_free(all);
}

int main(void) {
    if (!mkdtemp(directory)) return 1;
    test_own_decoder();
    test_cancel();
    test_memory();
    cavmae_context *context = context_for(TEST_LIB_DIR);
    test_sound(context);
    test_play_list(context);
    test_picture(context);
    test_video(context);
    CHECK_STATUS(cavmae_context_set_decoder(context, NULL), CAVMAE_E_STATE);
    cavmae_context_free(context);
    CHECK(rmdir(directory) == 0);
    return check_summary("media");
}
