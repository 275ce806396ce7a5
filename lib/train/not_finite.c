/* Where a NaN came from. */
#include <math.h>

#include "trainer.h"

/* The first of `count` tensors at `data` + offsets that has a NaN or an infinity is named in the error. */
static cavmae_status is_finite(cavmae_trainer *t, const float *data, int64_t count, int *finite) {
    cavmae__network *n = t->network;
    cavmae__backend *backend = t->model->backend;
    double sum;
    const cavmae__sum_squares squares = {
        .count = count, .x = data, .sum = n->scalars + CAVMAE__SUM_SQUARES, .workspace = n->pass.workspace};
    CAVMAE__TRY(backend->ops->sum_squares(backend, &squares));
    CAVMAE__TRY(backend->ops->download(backend, &sum, squares.sum, sizeof sum));
    *finite = isfinite(sum);
    return CAVMAE_OK;
}

cavmae_status cavmae__explain_not_finite(cavmae_trainer *t, const char *what, double value) {
    static const char *const inputs[] = {"audio of the batch", "image of the batch"};
    const cavmae__parameters *list = &t->model->list;
    long long step = (long long)t->step + 1;
    int finite = 1;
    double totals[CAVMAE__TOTALS];
    CAVMAE__TRY(t->model->backend->ops->download(t->model->backend, totals, t->network->totals, sizeof totals));
    /* Of an evaluation that is no fault; without a world it is found before. */
    for (int m = 0; m < 2 && t->world && t->extent.decode && t->network->pass.gradients; m++)
        if (cavmae__has_modality(&t->options, m) && totals[CAVMAE__TOTAL_REMOVED_A + m] == 0)
            return cavmae__fail(CAVMAE_E_NOT_FINITE, "step %lld: %s is %g: no %s token of any rank is masked", step,
                                what, value, m ? "visual" : "audio");
    for (int m = 0; m < 2; m++) {
        const int64_t elements = t->elements[t->computed][m];
        if (!elements) continue;
        CAVMAE__TRY(is_finite(t, t->input[t->computed][m], elements, &finite));
        if (!finite)
            return cavmae__fail(CAVMAE_E_NOT_FINITE, "step %lld: %s is %g: there is a NaN or an infinity in the %s",
                                step, what, value, inputs[m]);
    }
    for (int64_t i = 0; i < list->count; i++) {
        CAVMAE__TRY(is_finite(t, t->model->values[i], list->items[i].elements, &finite));
        if (!finite)
            return cavmae__fail(CAVMAE_E_NOT_FINITE,
                                "step %lld: %s is %g: there is a NaN or an infinity in parameter '%s'", step, what,
                                value, list->items[i].name);
    }
    for (int64_t i = 0; t->gradients && i < list->count; i++) {
        if (!t->has_gradient[i]) continue;
        CAVMAE__TRY(is_finite(t, t->gradients + list->items[i].offset, list->items[i].elements, &finite));
        if (!finite)
            return cavmae__fail(CAVMAE_E_NOT_FINITE, "step %lld: %s is %g: the first such gradient is that of '%s'",
                                step, what, value, list->items[i].name);
    }
    return cavmae__fail(CAVMAE_E_NOT_FINITE, "step %lld: %s is %g, with finite inputs, parameters and gradients", step,
                        what, value);
}
