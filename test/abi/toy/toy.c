#include "toy.h"

#include <stdlib.h>
#include <string.h>

struct toy_box {
    toy_options options;
    int64_t count;
    double sum;
};

toy_status toy_create(const toy_options *options, toy_box **out) {
    toy_box *box = calloc(1, sizeof *box);
    if (!box || !out) return TOY_E_ARG;
    if (options)
        memcpy(&box->options, options, options->struct_size < sizeof *options ? options->struct_size : sizeof *options);
    if (box->options.scale == 0) box->options.scale = 1;
    *out = box;
    return TOY_OK;
}

void toy_free(toy_box *box) { free(box); }

toy_status toy_put(toy_box *box, int32_t value) {
    box->count++;
    box->sum += value * box->options.scale;
    if (box->options.log) box->options.log(NULL, "put");
    return TOY_OK;
}

toy_status toy_each(const toy_box *box, toy_sink *sink, void *user) { return sink(user, (int32_t)box->sum); }

double toy_result(const toy_box *box) {
    return box->options.mode == TOY_MODE_MEAN && box->count ? box->sum / (double)box->count : box->sum;
}

int32_t toy_count(const toy_box *box) { return (int32_t)box->count; }
