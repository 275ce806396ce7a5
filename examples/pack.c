/* cavmae-pack: a data set as one file, decoded, that every program takes in a manifest's place. Prints the mean and
 * deviation of its log-mel, to train with. frame=-2 packs all of a clip's frames, for training on random ones. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "program.h"

int main(int argc, char **argv) {
    const char *data = NULL, *labels = NULL, *out = NULL, *preset = "base";
    int32_t threads = 0;
    words settings = {0};
    const option options[] = {
        {.name = "--data", .value = "M.json", .help = "manifest, or a folder of media files", .text = &data},
        {.name = "--labels", .value = "L.csv", .help = "the manifest's classes, to pack labels too", .text = &labels},
        {.name = "--out", .value = "FILE", .help = "where to write the packed data set", .text = &out},
        {.name = "--preset", .value = "P", .help = "base, tiny or a recipe (base)", .text = &preset},
        {.name = "--set",
         .value = "key=value",
         .help = "cavmae-info --keys lists them; as of the models to be trained",
         .list = &settings},
        {.name = "--threads", .value = "N", .help = "0: one for each CPU (0)", .number = &threads},
        {0}};
    read_options(argc, argv, "a data set as one file", options);
    if (!data || !out) die("--data and --out are needed");

    cavmae_pack_report report = {.struct_size = sizeof report};
    cavmae_context *context = open_context(NULL, threads, NULL);
    cavmae_config *config = open_config(context, preset, &settings);
    check(cavmae_pack(config, data, labels, out, &report));
    printf("%s: %" PRId64 " clips with %d frames each, %.1f MB; %" PRId64 " left out\n", out, report.clips,
           (int)report.frames, (double)report.bytes * 1e-6, report.broken);
    if (report.audio_frames) printf("audio_mean=%.6g audio_std=%.6g\n", report.audio_mean, report.audio_std);
    cavmae_config_free(config);
    cavmae_context_free(context);
    free(settings.word);
    return 0;
}
