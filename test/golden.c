/* Golden cases: runs what a file of shared/oracle describes through the public API, and compares with what the file
 * expects.
 *
 *   golden [--device D] [--plugin-dir DIR] [--dtype float32|bfloat16] [--matmul M] [--exact-gelu 1] [--threads N] FILE...
 *
 * For each file it prints one line for every group of tensors: how many, the worst error, its tolerance, and the tensor
 * that has it. Exits with 1 when anything is out of tolerance, was not computed, or cannot be read. Cases are made
 * by make_golden.py and make_dsp_golden.py; parameters are not in the files but follow from their names. */
#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"
#include "fill_by_hash.h"
#include "golden_file.h"

/* ---- Pretraining ---- */

/* The ratio that leaves as many tokens as the mask's first row does: the half guards against its rounding. */
static int set_ratio(golden *g, const char *key, const array *mask) {
    int64_t tokens = mask->shape[1], kept = 0;
    char text[40];
    for (int64_t i = 0; i < tokens; i++) kept += !((const uint8_t *)mask->data)[i];
    snprintf(text, sizeof text, "%.17g", 1 - ((double)kept + 0.5) / (double)tokens);
    return set(g, key, text);
}

static void compare_losses(golden *g, const cavmae_step_result *result) {
    const struct {
        const char *name;
        double value;
    } losses[] = {{"expect.loss", result->loss},
                  {"expect.loss_mae", result->loss_mae},
                  {"expect.loss_mae_a", result->loss_mae_a},
                  {"expect.loss_mae_v", result->loss_mae_v},
                  {"expect.loss_c", result->loss_c}};
    for (size_t i = 0; i < sizeof losses / sizeof *losses; i++) {
        if (!has(g, losses[i].name)) {
            if (losses[i].value != 0)
                failure(g, "%s is %g, but the case has no such loss", losses[i].name, losses[i].value);
            continue;
        }
        array expected = read_floats(g, losses[i].name);
        if (expected.data && *(float *)expected.data == 0 && losses[i].value != 0)
            failure(g, "%s is %g, not exactly 0", losses[i].name, losses[i].value);
        free(expected.data);
        compare_scalar(g, "loss, step 1", losses[i].name, losses[i].value);
    }
    if (has(g, "expect.c_acc")) compare_scalar(g, "accuracy", "expect.c_acc", result->accuracy);
}

static void compare_outputs(golden *g, cavmae_trainer *trainer) {
    static const struct {
        const char *name;
        int32_t which;
    } outputs[] = {{"expect.pred_a", CAVMAE_OUT_PRED_A},
                   {"expect.pred_v", CAVMAE_OUT_PRED_V},
                   {"expect.pooled_a", CAVMAE_OUT_POOLED_A},
                   {"expect.pooled_v", CAVMAE_OUT_POOLED_V}};
    for (size_t i = 0; i < sizeof outputs / sizeof *outputs; i++) {
        cavmae_tensor *tensor;
        if (!has(g, outputs[i].name) || !ok(g, cavmae_trainer_output(trainer, outputs[i].which, &tensor))) continue;
        compare(g, "output", outputs[i].name + 7, outputs[i].name, cavmae_tensor_data(tensor),
                cavmae_tensor_elements(tensor));
        cavmae_tensor_free(tensor);
    }
}

/* "blocks_a" of "blocks_a.0.norm1.weight". */
static const char *part_of(const char *parameter, char part[32]) {
    size_t length = strcspn(parameter, ".");
    snprintf(part, 32, "%.*s", length < 31 ? (int)length : 31, parameter);
    return part;
}

static void compare_gradient(golden *g, const char *parameter, const float *got, int64_t count) {
    char name[200], part[32];
    int found = 0;
    part_of(parameter, part);
    snprintf(name, sizeof name, "grad.%s", parameter);
    if (has(g, name)) {
        compare(g, "grad", part, name, got, count);
        found = 1;
    }
    snprintf(name, sizeof name, "gradnorm.%s", parameter);
    if (has(g, name)) {
        double sum = 0;
        for (int64_t i = 0; i < count; i++) sum += (double)got[i] * got[i];
        float norm = (float)sqrt(sum);
        compare(g, "gradnorm", part, name, &norm, 1);
        found = 1;
    }
    snprintf(name, sizeof name, "gradhead.%s", parameter);
    if (has(g, name)) {
        compare(g, "gradhead", part, name, got, count < 8 ? count : 8);
        found = 1;
    }
    for (int64_t i = 0; !found && i < count; i++)
        if (got[i] != 0) {
            failure(g, "%s has a gradient, which the case does not", parameter);
            found = 1;
        }
}

static void compare_gradients(golden *g, cavmae_model *model, cavmae_trainer *trainer) {
    const char *name;
    for (int64_t i = 0; (name = cavmae_model_parameter_name(model, i)) != NULL; i++) {
        cavmae_tensor *gradient;
        cavmae_status status = cavmae_trainer_gradient(trainer, name, &gradient);
        if (status == CAVMAE_E_NOT_FOUND) continue; /* if it is expected, the report will miss it */
        if (!ok(g, status)) continue;
        compare_gradient(g, name, cavmae_tensor_data(gradient), cavmae_tensor_elements(gradient));
        cavmae_tensor_free(gradient);
    }
}

static void compare_parameters(golden *g, cavmae_model *model) {
    char prefix[40], part[32];
    const char *name;
    snprintf(prefix, sizeof prefix, "step.%lld.param.", (long long)g->steps);
    for (int64_t i = 0; (name = cavmae_safetensors_name(g->file, i)) != NULL; i++) {
        cavmae_tensor *view;
        if (strncmp(name, prefix, strlen(prefix)) != 0 ||
            !ok(g, cavmae_model_parameter(model, name + strlen(prefix), &view)))
            continue;
        compare(g, "parameter", part_of(name + strlen(prefix), part), name, cavmae_tensor_data(view),
                cavmae_tensor_elements(view));
        cavmae_tensor_free(view);
    }
}

/* A step of pretraining or fine-tuning. */
typedef cavmae_status step_function(cavmae_trainer *, const cavmae_batch *, cavmae_step_result *);

static void compare_first_step(golden *g, const cavmae_step_result *result, cavmae_trainer *trainer) {
    if (has(g, "expect.logits")) {
        cavmae_tensor *logits;
        if (ok(g, cavmae_trainer_output(trainer, CAVMAE_OUT_LOGITS, &logits))) {
            compare(g, "output", "logits", "expect.logits", cavmae_tensor_data(logits), cavmae_tensor_elements(logits));
            cavmae_tensor_free(logits);
        }
        compare_scalar(g, "loss, step 1", "expect.loss", result->loss);
        return;
    }
    compare_losses(g, result);
    compare_outputs(g, trainer);
}

static void take_steps(golden *g, cavmae_model *model, cavmae_trainer *trainer, const cavmae_batch *batch,
                       step_function *take) {
    for (int64_t step = 1; step <= (g->steps > 0 ? g->steps : 1); step++) {
        cavmae_step_result result = {.struct_size = sizeof result};
        char name[40];
        if (!ok(g, take(trainer, batch, &result))) return;
        if (step == 1) {
            compare_first_step(g, &result, trainer);
            compare_gradients(g, model, trainer);
        }
        snprintf(name, sizeof name, "step.%lld.loss", (long long)step);
        if (g->steps > 0) compare_scalar(g, step == 1 ? "loss, step 1" : "loss, later", name, result.loss);
    }
    compare_parameters(g, model);
}

static void run_pretrain(golden *g) {
    array audio = read_floats(g, "input.audio"), image = read_floats(g, "input.image");
    array mask_a = read_array(g, "input.mask_a", CAVMAE_UINT8, 1),
          mask_v = read_array(g, "input.mask_v", CAVMAE_UINT8, 1);
    cavmae_model *model = NULL;
    cavmae_optimizer *optimizer = NULL;
    cavmae_trainer *trainer = NULL;
    const char *modalities = "";
    if (audio.data && image.data && mask_a.data && mask_v.data &&
        ok(g, cavmae_config_get_str(g->config, CAVMAE_P_MODALITIES, &modalities))) {
        cavmae_batch batch = {.struct_size = sizeof batch, .count = (int32_t)audio.shape[0]};
        int alone = strcmp(modalities, "av") != 0, use_a = strcmp(modalities, "v") != 0,
            use_v = strcmp(modalities, "a") != 0;
        if (use_a) batch.audio = audio.data, batch.mask_a = mask_a.data;
        if (use_v) batch.image = image.data, batch.mask_v = mask_v.data;
        if ((!alone || set(g, "contrast_weight", "0")) && set_ratio(g, "mask_ratio_a", &mask_a) &&
            set_ratio(g, "mask_ratio_v", &mask_v) &&
            ok(g, cavmae_config_set_i64(g->config, CAVMAE_P_BATCH, batch.count)) &&
            ok(g, cavmae_model_create(g->config, &model)) && ok(g, fill_by_hash(model)) &&
            ok(g, cavmae_optimizer_create(model, g->config, &optimizer)) &&
            ok(g, cavmae_trainer_create(model, optimizer, g->config, &trainer)))
            take_steps(g, model, trainer, &batch, cavmae_pretrain_step);
    }
    cavmae_trainer_free(trainer);
    cavmae_optimizer_free(optimizer);
    cavmae_model_free(model);
    free(audio.data);
    free(image.data);
    free(mask_a.data);
    free(mask_v.data);
}

/* ---- Fine-tuning ---- */

/* Extraction gives the logits that training sees. */
static void compare_embedded_logits(golden *g, cavmae_model *model, const cavmae_batch *batch, int64_t classes) {
    float *logits = calloc((size_t)(batch->count * classes) + 1, sizeof *logits);
    if (!logits) exit(2);
    const cavmae_embedding out = {.struct_size = sizeof out, .logits = logits};
    if (ok(g, cavmae_embed(model, batch, &out)))
        compare(g, "output", "logits", "expect.logits", logits, batch->count * classes);
    free(logits);
}

static void run_finetune(golden *g) {
    array audio = read_floats(g, "input.audio"), image = read_floats(g, "input.image"),
          labels = read_floats(g, "input.labels");
    cavmae_model *model = NULL;
    cavmae_optimizer *optimizer = NULL;
    cavmae_trainer *trainer = NULL;
    if (audio.data && image.data && labels.data) {
        const cavmae_batch batch = {.struct_size = sizeof batch,
                                    .count = (int32_t)audio.shape[0],
                                    .audio = audio.data,
                                    .image = image.data,
                                    .labels = labels.data,
                                    .classes = (int32_t)labels.shape[1]};
        if (ok(g, cavmae_config_set_i64(g->config, CAVMAE_P_BATCH, batch.count)) &&
            ok(g, cavmae_model_create(g->config, &model)) && ok(g, fill_by_hash(model))) {
            compare_embedded_logits(g, model, &batch, labels.shape[1]);
            if (ok(g, cavmae_optimizer_create(model, g->config, &optimizer)) &&
                ok(g, cavmae_trainer_create(model, optimizer, g->config, &trainer)))
                take_steps(g, model, trainer, &batch, cavmae_finetune_step);
        }
    }
    cavmae_trainer_free(trainer);
    cavmae_optimizer_free(optimizer);
    cavmae_model_free(model);
    free(audio.data);
    free(image.data);
    free(labels.data);
}

/* ---- Embedding ---- */

/* The lowest cosine between a row that was computed and the expected one, which must not be under `bound`. */
static void compare_cosines(golden *g, const char *name, const float *got, double bound) {
    array expected = read_floats(g, name);
    const float *wanted = expected.data;
    const int64_t width = expected.shape[expected.dims - 1];
    double lowest = 1;
    mark(g, name);
    for (int64_t row = 0; wanted && row < expected.count; row += width) {
        double product = 0, a = 0, b = 0;
        for (int64_t i = row; i < row + width; i++) {
            product += (double)got[i] * (double)wanted[i];
            a += (double)got[i] * (double)got[i];
            b += (double)wanted[i] * (double)wanted[i];
        }
        const double cosine = product / sqrt(a * b);
        if (!(cosine >= lowest)) lowest = cosine;
    }
    printf("          %-31s lowest cosine of a row %.7f, 1 - cosine %.2e\n", name, lowest, 1 - lowest);
    if (!(lowest >= bound)) failure(g, "%s: a row's cosine is %.6f, under %g", name, lowest, bound);
    free(expected.data);
}

static void run_features(golden *g) {
    enum { OUTPUTS = 6 };
    static const char *const names[OUTPUTS] = {"expect.embed_a",  "expect.embed_v",  "expect.embed_av",
                                               "expect.tokens_a", "expect.tokens_v", "expect.tokens_av"};
    array audio = read_floats(g, "input.audio"), image = read_floats(g, "input.image");
    float *outputs[OUTPUTS] = {0};
    int64_t counts[OUTPUTS] = {0};
    cavmae_model *model = NULL;
    if (audio.data && image.data && ok(g, cavmae_model_create(g->config, &model)) && ok(g, fill_by_hash(model))) {
        for (int i = 0; i < OUTPUTS; i++) {
            if (!has(g, names[i])) continue;
            array expected = read_floats(g, names[i]);
            counts[i] = expected.count;
            outputs[i] = calloc((size_t)expected.count + 1, sizeof(float));
            free(expected.data);
            if (!outputs[i]) exit(2);
        }
        cavmae_batch batch = {
            .struct_size = sizeof batch, .count = (int32_t)audio.shape[0], .audio = audio.data, .image = image.data};
        cavmae_embedding out = {.struct_size = sizeof out,
                                .audio = outputs[0],
                                .visual = outputs[1],
                                .joint = outputs[2],
                                .audio_tokens = outputs[3],
                                .visual_tokens = outputs[4],
                                .joint_tokens = outputs[5]};
        if (ok(g, cavmae_embed(model, &batch, &out)))
            for (int i = 0; i < OUTPUTS; i++)
                if (outputs[i]) {
                    if (!g->fp8) compare(g, "output", names[i] + 7, names[i], outputs[i], counts[i]);
                    compare_cosines(g, names[i], outputs[i], g->fp8 ? 0.99 : 0.9999);
                }
    }
    for (int i = 0; i < OUTPUTS; i++) free(outputs[i]);
    cavmae_model_free(model);
    free(audio.data);
    free(image.data);
}

/* ---- Front-end ---- */

static void compare_sound(golden *g, const char *name, const float *got, int64_t count) {
    compare(g, "fbank, mean", name + 7, name, got, count);
    compare(g, "fbank, largest", name + 7, name, got, count);
}

static void run_audio(golden *g) {
    array pcm = read_floats(g, "input.pcm");
    cavmae_tensor *prepared = NULL;
    if (!pcm.data) return;
    int64_t frames = cavmae_fbank_frames(pcm.count, (int32_t)g->rate), bins = 128;
    float *fbank = calloc((size_t)(frames * bins) + 1, sizeof *fbank);
    if (!fbank) exit(2);
    if (ok(g, cavmae_fbank(g->context, pcm.data, pcm.count, (int32_t)g->rate, (int32_t)bins, fbank)))
        compare_sound(g, "expect.fbank", fbank, frames * bins);
    if (ok(g, cavmae_config_set_i64(g->config, CAVMAE_P_SAMPLE_RATE, g->rate)) &&
        ok(g, cavmae_prepare_audio(g->config, pcm.data, pcm.count, 1, (int32_t)g->rate, &prepared)))
        compare_sound(g, "expect.audio", cavmae_tensor_data(prepared), cavmae_tensor_elements(prepared));
    cavmae_tensor_free(prepared);
    free(fbank);
    free(pcm.data);
}

static void run_image(golden *g) {
    static const double std[3] = {0.229, 0.224, 0.225};
    static const char name[] = "expect.image";
    array rgb = read_array(g, "input.rgb", CAVMAE_UINT8, 1), expected = read_floats(g, name);
    int64_t plane = g->size * g->size;
    float *image = calloc((size_t)(3 * plane) + 1, sizeof *image);
    if (!image) exit(2);
    if (rgb.data && expected.data && ok(g, cavmae_config_set_i64(g->config, CAVMAE_P_IMAGE_SIZE, g->size)) &&
        ok(g, cavmae_prepare_image(g->config, rgb.data, (int32_t)rgb.shape[1], (int32_t)rgb.shape[0], 0, image))) {
        compare(g, "image, mean", NULL, name, image, 3 * plane);
        for (int c = 0; c < 3 && expected.count == 3 * plane; c++) {
            const float *e = (const float *)expected.data + c * plane;
            add_error(group_of(g, "image, levels", NULL), name,
                      measured(LARGEST, image + c * plane, e, plane) * 255 * std[c]);
        }
    }
    free(image);
    free(rgb.data);
    free(expected.data);
}

/* ---- Metrics ---- */

static void run_metrics(golden *g) {
    array scores = read_floats(g, "input.scores"), targets = read_floats(g, "input.targets");
    array similarity = read_floats(g, "input.similarity"),
          target = read_array(g, "input.class", CAVMAE_INT64, sizeof(int64_t));
    if (scores.data && targets.data && similarity.data && target.data) {
        int64_t count = scores.shape[0], classes = scores.shape[1];
        double *average_precision = calloc((size_t)classes, sizeof(double)),
               *auc = calloc((size_t)classes, sizeof(double)), accuracy;
        float *as_float = calloc((size_t)classes, sizeof *as_float);
        cavmae_class_metrics metrics = {.struct_size = sizeof metrics};
        cavmae_retrieval_metrics retrieval = {.struct_size = sizeof retrieval};
        if (!average_precision || !auc || !as_float) exit(2);
        if (ok(g, cavmae_classification_metrics(g->context, scores.data, targets.data, count, (int32_t)classes,
                                                average_precision, auc, &metrics))) {
            for (int64_t i = 0; i < classes; i++) as_float[i] = (float)average_precision[i];
            compare(g, "metric", NULL, "expect.average_precision", as_float, classes);
            for (int64_t i = 0; i < classes; i++) as_float[i] = (float)auc[i];
            compare(g, "metric", NULL, "expect.auc", as_float, classes);
            compare_scalar(g, "metric", "expect.map", metrics.mean_average_precision);
            compare_scalar(g, "metric", "expect.dprime", metrics.d_prime);
        }
        if (ok(g, cavmae_top1_accuracy(scores.data, target.data, count, (int32_t)classes, &accuracy)))
            compare_scalar(g, "metric", "expect.accuracy", accuracy);
        if (ok(g, cavmae_retrieval_from_similarity(similarity.data, similarity.shape[0], &retrieval))) {
            compare_scalar(g, "metric", "expect.r1", retrieval.r1);
            compare_scalar(g, "metric", "expect.r5", retrieval.r5);
            compare_scalar(g, "metric", "expect.r10", retrieval.r10);
            compare_scalar(g, "metric", "expect.median_rank", retrieval.median_rank);
        }
        free(average_precision);
        free(auc);
        free(as_float);
    }
    free(scores.data);
    free(targets.data);
    free(similarity.data);
    free(target.data);
}

/* ---- The program ---- */

static void run_case(golden *g, const char *path) {
    static const struct {
        const char *kind;
        void (*run)(golden *);
    } kinds[] = {{"pretrain", run_pretrain}, {"finetune", run_finetune}, {"features", run_features},
                 {"audio", run_audio},       {"image", run_image},       {"metrics", run_metrics}};
    if (!ok(g, cavmae_safetensors_open(g->context, path, &g->file))) return;
    const char *kind = cavmae_safetensors_metadata(g->file, "kind");
    const char *config = cavmae_safetensors_metadata(g->file, "config"),
               *options = cavmae_safetensors_metadata(g->file, "options");
    size_t i = 0;
    while (i < sizeof kinds / sizeof *kinds && (!kind || strcmp(kind, kinds[i].kind) != 0)) i++;
    if (i == sizeof kinds / sizeof *kinds || !config || !options) {
        failure(g, "unsupported kind: %s", kind ? kind : "(none)");
        return;
    }
    if (!ok(g, cavmae_config_create(g->context, "base", &g->config)) || !set(g, "dtype", g->dtype)) return;
    if (apply_config(g, config) && apply_options(g, options)) kinds[i].run(g);
}

int main(int argc, char **argv) {
    cavmae_context_options options = test_options(0);
    cavmae_context *context;
    const char *dtype = "float32";
    int at = 1, failed = 0, files = 0;
    for (; at + 1 < argc && !strncmp(argv[at], "--", 2); at += 2) {
        if (!strcmp(argv[at], "--device"))
            options.device = argv[at + 1];
        else if (!strcmp(argv[at], "--plugin-dir"))
            options.plugin_dir = argv[at + 1];
        else if (!strcmp(argv[at], "--matmul"))
            options.matmul = argv[at + 1];
        else if (!strcmp(argv[at], "--exact-gelu"))
            options.exact_gelu = atoi(argv[at + 1]);
        else if (!strcmp(argv[at], "--dtype"))
            dtype = argv[at + 1];
        else if (!strcmp(argv[at], "--threads"))
            options.threads = atoi(argv[at + 1]);
        else
            break;
    }
    if (at >= argc || !strncmp(argv[at], "--", 2)) {
        fprintf(stderr, "usage: golden [--device D] [--plugin-dir DIR] [--dtype float32|bfloat16] [--matmul M] "
                        "[--exact-gelu 1] [--threads N] FILE...\n");
        return 2;
    }
    if (cavmae_context_create(&options, &context) != CAVMAE_OK) {
        fprintf(stderr, "golden: %s\n", cavmae_last_error());
        return 2;
    }
    for (; at < argc; at++, files++) {
        golden *g = calloc(1, sizeof *g);
        if (!g) return 2;
        g->context = context;
        g->dtype = dtype;
        g->bfloat16 = !strcmp(dtype, "bfloat16");
        g->fp8 = options.matmul && !strcmp(options.matmul, "fp8");
        printf("%s\n", argv[at]);
        run_case(g, argv[at]);
        report(g);
        failed += g->failures != 0;
        cavmae_config_free(g->config);
        cavmae_safetensors_free(g->file);
        free(g);
        fflush(stdout);
    }
    cavmae_context_free(context);
    printf("golden (%s): %d passed, %d failed\n", dtype, files - failed, failed);
    return failed != 0;
}
