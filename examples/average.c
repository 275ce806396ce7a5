/* cavmae-average: one model file from the mean of several, as of a training's last epochs. */
#include <stdio.h>
#include <stdlib.h>

#include "program.h"

int main(int argc, char **argv) {
    const char *out = NULL;
    words files = {0};
    const option options[] = {
        {.name = "", .value = "FILE", .help = "models, checkpoints or .pth of the same shapes", .list = &files},
        {.name = "--out", .value = "FILE", .help = "the model file to write", .text = &out},
        {0}};
    read_options(argc, argv, "the mean of models' parameters", options);
    if (!out || !files.count) die("give --out, and the files to average");
    cavmae_context *context = open_context(NULL, 0, NULL);
    check(cavmae_average_models(context, (const char *const *)files.word, files.count, out));
    printf("%s: the mean of %d files\n", out, (int)files.count);
    cavmae_context_free(context);
    free(files.word);
    return 0;
}
