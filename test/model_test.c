/* Parameters: names, starting values, files, and the memory that a task takes. */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <unistd.h>

#include "model.h"
#include "tiny.h"

static char directory[] = "/tmp/cavmae-model-test-XXXXXX";

static const char *in_directory(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

/* ---- Names ---- */

static uint64_t fnv1a(uint64_t hash, const char *text) {
    for (; *text; text++) hash = (hash ^ (unsigned char)*text) * 0x100000001B3u;
    return hash;
}

/* Of "name 4x3\n" of every parameter in order: as oracle.CAVMAE(...).named_parameters() gives it. */
static uint64_t hash_of_names(const cavmae__parameters *list) {
    uint64_t hash = 0xCBF29CE484222325u;
    char text[160];
    for (int64_t i = 0; i < list->count; i++) {
        const cavmae__parameter *p = &list->items[i];
        int length = snprintf(text, sizeof text, "%s ", p->name);
        for (int32_t d = 0; d < p->dims; d++)
            length +=
                snprintf(text + length, sizeof text - (size_t)length, "%s%lld", d ? "x" : "", (long long)p->shape[d]);
        snprintf(text + length, sizeof text - (size_t)length, "\n");
        hash = fnv1a(hash, text);
    }
    return hash;
}

static void test_names(void) {
    static const struct {
        const char *modalities;
        int64_t count, elements, trainable;
        uint64_t hash;
    } expected[] = {
        {"av", 647, 191036160, 190129920, 0xddc69568c749a94c},
        {"a", 417, 111763712, 111108352, 0x0b032bfe9d02196b},
        {"v", 417, 112015104, 111764224, 0x412846fe8c817169},
    };
    cavmae_context *context = tiny_context(1);
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        cavmae_config *config = NULL;
        cavmae__options options;
        cavmae__parameters list;
        CHECK_OK(cavmae_config_create(context, "base", &config));
        CHECK_OK(cavmae_config_set(config, "modalities", expected[i].modalities));
        CHECK_OK(cavmae__config_options(config, &options));
        CHECK_OK(cavmae__parameters_create(context, &options, &list));
        CHECK(list.count == expected[i].count && list.elements == expected[i].elements);
        CHECK(list.trainable_elements == expected[i].trainable && list.flat_elements >= list.elements);
        CHECK(hash_of_names(&list) == expected[i].hash);
        for (int64_t k = 1; k < list.count; k++) {
            CHECK(list.items[k].offset >= list.items[k - 1].offset + list.items[k - 1].elements);
            CHECK(list.items[k].offset % 16 == 0);
        }
        CHECK(cavmae__parameters_find(&list, "blocks_u.0.norm1_a.weight") >= 0);
        CHECK((cavmae__parameters_find(&list, "blocks_v.10.mlp.fc2.bias") >= 0) == (i != 1));
        CHECK(cavmae__parameters_find(&list, "blocks_u.1.norm1.weight") == -1);
        cavmae__parameters_free(context, &list);
        cavmae_config_free(config);
    }
    cavmae_context_free(context);
}

/* ---- Starting values ---- */

/* Mean, standard deviation and the largest absolute value. */
static void statistics(const float *x, int64_t count, double out[3]) {
    double sum = 0, square = 0, most = 0;
    for (int64_t i = 0; i < count; i++) {
        sum += x[i];
        square += (double)x[i] * x[i];
        most = fmax(most, fabs(x[i]));
    }
    out[0] = sum / (double)count;
    out[1] = sqrt(square / (double)count - out[0] * out[0]);
    out[2] = most;
}

static int all_are(const float *x, int64_t count, float value) {
    for (int64_t i = 0; i < count; i++)
        if (x[i] != value) return 0;
    return 1;
}

/* MAE's get_2d_sincos_pos_embed, from its definition: width's first half is of the column, the second of the row. */
static double position(int64_t width, int64_t row, int64_t column, int64_t i) {
    int64_t half = width / 2, quarter = width / 4, k = i % half;
    double angle = (double)(i < half ? column : row) * pow(10000, -(double)(k % quarter) / (double)quarter);
    return k < quarter ? sin(angle) : cos(angle);
}

static void check_initial(const char *name, const int64_t *shape, int32_t dims, const float *x, int64_t count) {
    double s[3];
    statistics(x, count, s);
    const char *end = name + strlen(name);
    if (strstr(name, "norm")) {
        CHECK(all_are(x, count, strstr(name, "weight") ? 1.0f : 0.0f));
    } else if (end - name > 5 && strcmp(end - 5, ".bias") == 0) {
        CHECK(all_are(x, count, 0));
    } else if (strstr(name, "pos_embed")) {
        int64_t columns = strstr(name, "embed_a") ? 16 : 8, rows = 8;
        double worst = 0;
        CHECK(dims == 3 && shape[1] == rows * columns);
        for (int64_t t = 0; t < rows * columns; t++)
            for (int64_t i = 0; i < shape[2]; i++)
                worst = fmax(worst, fabs(x[t * shape[2] + i] - position(shape[2], t / columns, t % columns, i)));
        CHECK_CLOSE(worst, 0, 6e-8);
    } else if (dims == 3) { /* tokens: normal(0, 0.02) */
        CHECK_CLOSE(s[0], 0, 0.02 * 4 / sqrt((double)count));
        CHECK_CLOSE(s[1], 0.02, 0.02 * 3 / sqrt((double)count));
    } else { /* xavier_uniform on [out, everything else] */
        double limit = sqrt(6.0 / (double)(shape[0] + count / shape[0]));
        CHECK(s[2] <= limit * (1 + 1e-6) && s[2] > limit * 0.995);
        CHECK_CLOSE(s[0], 0, limit * 2.5 / sqrt((double)count));
        CHECK_CLOSE(s[1], limit / sqrt(3), limit * 2 / sqrt((double)count));
    }
}

static void test_initial_values(void) {
    static const char settings[] = "audio_frames=128 mel_bins=64 patch_size=8 image_size=64 embed_dim=128 num_heads=4 "
                                   "modality_depth=1 decoder_dim=96 decoder_depth=1";
    cavmae_context *context = tiny_context(2);
    cavmae_config *config = tiny_config(context, settings);
    cavmae_model *model, *same, *other;
    CHECK_OK(cavmae_model_create(config, &model));
    int64_t count = cavmae_model_parameter_count(model), elements = 0;
    for (int64_t i = 0; i < count; i++) {
        cavmae_tensor *tensor;
        CHECK_OK(cavmae_model_parameter(model, cavmae_model_parameter_name(model, i), &tensor));
        check_initial(cavmae_model_parameter_name(model, i), cavmae_tensor_shape(tensor), cavmae_tensor_dims(tensor),
                      cavmae_tensor_data(tensor), cavmae_tensor_elements(tensor));
        elements += cavmae_tensor_elements(tensor);
        cavmae_tensor_free(tensor);
    }
    CHECK(cavmae_model_elements(model, 0) == elements);
    CHECK(cavmae_model_elements(model, 1) == elements - (128 + 64) * (128 + 96));
    CHECK(cavmae_model_parameter_name(model, count) == NULL && cavmae_model_parameter_name(model, -1) == NULL);
    CHECK_OK(cavmae_model_create(config, &same));
    CHECK_OK(cavmae_config_set(config, "seed", "1"));
    CHECK_OK(cavmae_model_create(config, &other));
    CHECK(tiny_hash(model) == tiny_hash(same) && tiny_hash(model) != tiny_hash(other));
    /* No two matrices of equal shape start alike. */
    cavmae_tensor *a, *b;
    CHECK_OK(cavmae_model_parameter(model, "blocks_a.0.mlp.fc1.weight", &a));
    CHECK_OK(cavmae_model_parameter(model, "blocks_v.0.mlp.fc1.weight", &b));
    const float *x = cavmae_tensor_data(a), *y = cavmae_tensor_data(b);
    CHECK(x[0] != y[0] && x[1] != y[1]);
    cavmae_model_free(model); /* its views keep it alive */
    CHECK(x[0] != y[0]);
    cavmae_tensor_free(a);
    cavmae_tensor_free(b);
    float value = 1;
    CHECK_STATUS(cavmae_model_set_parameter(same, "no.such", &value, 1), CAVMAE_E_NOT_FOUND);
    CHECK_STATUS(cavmae_model_set_parameter(same, "norm.bias", &value, 1), CAVMAE_E_SHAPE);
    CHECK_STATUS(cavmae_model_set_parameter(same, "norm.bias", NULL, 128), CAVMAE_E_ARG);
    CHECK(tiny_hash(same) != tiny_hash(other));
    cavmae_model_free(same);
    cavmae_model_free(other);
    cavmae_config_free(config);
    cavmae_context_free(context);
}

/* ---- Files ---- */

static void test_round_trip(void) {
    cavmae_context *context = tiny_context(1);
    cavmae_config *config = tiny_config(context, SMALLEST " lr=0.125 audio_mean=-4.5 dtype=bfloat16"), *back;
    cavmae_model *model, *loaded;
    cavmae_load_report report = {.struct_size = sizeof report};
    const char *path = in_directory("model");
    double mean = 0;
    float values[16];
    CHECK_OK(cavmae_model_create(config, &model));
    for (int i = 0; i < 16; i++) values[i] = (float)i - 0.0f;
    values[3] = -0.0f;
    values[4] = 1e-42f; /* a subnormal number keeps its bits, too */
    CHECK_OK(cavmae_model_set_parameter(model, "norm.bias", values, 16));
    CHECK_OK(cavmae_model_save(model, path));
    CHECK_OK(cavmae_model_load(context, path, 0, &report, &loaded));
    CHECK(report.matched == cavmae_model_parameter_count(model));
    CHECK(report.missing == 0 && report.unexpected == 0 && report.misshaped == 0);
    CHECK(tiny_hash(model) == tiny_hash(loaded));
    CHECK(loaded->flat == NULL && loaded->file != NULL); /* mapped, not copied */
    CHECK_OK(cavmae_model_config(loaded, &back));
    CHECK_OK(cavmae_config_get_f64(back, CAVMAE_P_AUDIO_MEAN, &mean));
    CHECK(mean == -4.5 && loaded->options.dtype == CAVMAE_BFLOAT16 && loaded->options.lr == 0.125);
    cavmae_config_free(back);

    /* Over the file that is mapped; then away from it. */
    CHECK_OK(cavmae_model_save(loaded, path));
    CHECK(tiny_hash(model) == tiny_hash(loaded));
    CHECK_OK(cavmae_model_set_parameter(loaded, "norm.bias", values, 16));
    CHECK(loaded->flat != NULL && loaded->file == NULL && tiny_hash(model) == tiny_hash(loaded));
    CHECK_OK(cavmae_model_set_parameter(loaded, "norm.weight", values, 16));
    CHECK(tiny_hash(model) != tiny_hash(loaded));
    cavmae_model_free(loaded);
    CHECK_OK(cavmae_model_load(context, path, 0, NULL, &loaded)); /* the file did not change */
    CHECK(tiny_hash(model) == tiny_hash(loaded));
    cavmae_model_free(loaded);
    loaded = NULL;
    CHECK_STATUS(cavmae_model_load(context, in_directory("missing"), 0, NULL, &loaded), CAVMAE_E_IO);
    CHECK_STATUS(cavmae_model_save(model, in_directory("no/such/folder")), CAVMAE_E_IO);
    CHECK_STATUS(cavmae_model_load(context, NULL, 0, NULL, &loaded), CAVMAE_E_ARG);
    report.struct_size = 0;
    CHECK_STATUS(cavmae_model_load(context, in_directory("model"), 0, &report, &loaded), CAVMAE_E_ARG);
    CHECK(loaded == NULL);
    cavmae_model_free(model);
    cavmae_config_free(config);
    cavmae_context_free(context);
}

/* Writes the model's file again without `missing`, with `misshaped` as one long row, and with `unexpected` added. */
static void rewrite(cavmae_context *context, const char *from, const char *to, const char *missing,
                    const char *misshaped, const char *unexpected) {
    enum { MOST = 200 };
    cavmae_safetensors *file;
    cavmae_tensor *tensors[MOST];
    const char *names[MOST], *name, *const keys[] = {"cavmae.config"};
    int64_t count = 0;
    CHECK_OK(cavmae_safetensors_open(context, from, &file));
    for (int64_t i = 0; (name = cavmae_safetensors_name(file, i)) != NULL; i++) {
        if (missing && strcmp(name, missing) == 0) continue;
        CHECK_OK(cavmae_safetensors_get(file, name, &tensors[count]));
        if (misshaped && strcmp(name, misshaped) == 0) {
            cavmae_tensor *flat;
            int64_t elements = cavmae_tensor_elements(tensors[count]);
            CHECK_OK(cavmae_tensor_create(context, CAVMAE_FLOAT32, 1, &elements, &flat));
            cavmae_tensor_free(tensors[count]);
            tensors[count] = flat;
        }
        names[count++] = name;
    }
    if (unexpected) {
        CHECK_OK(cavmae_safetensors_get(file, cavmae_safetensors_name(file, 0), &tensors[count]));
        names[count++] = unexpected;
    }
    const char *const values[] = {cavmae_safetensors_metadata(file, keys[0])};
    CHECK_OK(
        cavmae_safetensors_save(context, to, count, names, (const cavmae_tensor *const *)tensors, 1, keys, values));
    for (int64_t i = 0; i < count; i++) cavmae_tensor_free(tensors[i]);
    cavmae_safetensors_free(file);
}

/* The messages of a context, one a line. */
static void remember(void *user, int32_t level, const char *message) {
    char *all = user;
    (void)level;
    strncat(all, message, 4095 - strlen(all));
    strncat(all, "\n", 4095 - strlen(all));
}

static void test_strict(void) {
    enum { MISSING = CAVMAE_LOAD_ALLOW_MISSING, UNEXPECTED = CAVMAE_LOAD_ALLOW_UNEXPECTED };
    static const struct {
        const char *missing, *misshaped, *unexpected;
        uint32_t good; /* the flags that let it through; 8: none */
    } cases[] = {
        {"norm_a.bias", NULL, NULL, MISSING},
        {NULL, NULL, "cls_token", UNEXPECTED},
        {NULL, "decoder_embed.weight", NULL, 8},
        {"norm_a.bias", NULL, "cls_token", MISSING | UNEXPECTED},
        {"mask_token", "decoder_embed.weight", "cls_token", 8},
    };
    static char messages[4096];
    cavmae_context_options options = {.struct_size = sizeof options, .threads = 1, .log = remember};
    options.log_user = messages;
    options.log_level = CAVMAE_LOG_INFO;
    cavmae_context *context;
    CHECK_OK(cavmae_context_create(&options, &context));
    cavmae_config *config = tiny_config(context, SMALLEST);
    cavmae_model *model, *loaded;
    char path[300], changed[300];
    snprintf(path, sizeof path, "%s", in_directory("model"));
    snprintf(changed, sizeof changed, "%s", in_directory("changed"));
    CHECK_OK(cavmae_model_create(config, &model));
    CHECK_OK(cavmae_model_save(model, path));
    int64_t all = cavmae_model_parameter_count(model);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rewrite(context, path, changed, cases[i].missing, cases[i].misshaped, cases[i].unexpected);
        int missing = cases[i].missing != NULL, misshaped = cases[i].misshaped != NULL;
        for (uint32_t flags = 0; flags < 4; flags++) {
            cavmae_load_report report = {.struct_size = sizeof report};
            messages[0] = 0;
            loaded = NULL;
            cavmae_status status = cavmae_model_load(context, changed, flags, &report, &loaded);
            CHECK_STATUS(status, (cases[i].good & ~flags) == 0 ? CAVMAE_OK : CAVMAE_E_MISMATCH);
            CHECK(report.matched == all - missing - misshaped && report.missing == missing);
            CHECK(report.misshaped == misshaped && report.unexpected == (cases[i].unexpected != NULL));
            const char *names[3] = {cases[i].missing, cases[i].misshaped, cases[i].unexpected};
            for (int n = 0; n < 3; n++) CHECK(!names[n] || strstr(messages, names[n]));
            if (status != CAVMAE_OK) CHECK(strstr(cavmae_last_error(), changed) && loaded == NULL);
            /* What is missing starts as in a new model, and that had the same seed. */
            if (loaded && missing) CHECK(tiny_hash(loaded) == tiny_hash(model));
            cavmae_model_free(loaded);
        }
    }
    /* No model of this library. */
    const int64_t one = 1;
    cavmae_tensor *tensor;
    CHECK_OK(cavmae_tensor_create(context, CAVMAE_FLOAT32, 1, &one, &tensor));
    CHECK_OK(cavmae_safetensors_save(context, changed, 1, (const char *const[]){"x"},
                                     (const cavmae_tensor *const[]){tensor}, 0, NULL, NULL));
    CHECK_STATUS(cavmae_model_load(context, changed, 3, NULL, &loaded), CAVMAE_E_FORMAT);
    CHECK(strstr(cavmae_last_error(), changed) && strstr(cavmae_last_error(), "cavmae.config"));
    cavmae_tensor_free(tensor);
    cavmae_model_free(model);
    cavmae_config_free(config);
    cavmae_context_free(context);
}

static void write_bytes(const char *path, const char *bytes, size_t size) {
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, size, file) != size || fclose(file) != 0) exit(2);
}

/* Cut off, or one bit wrong: an error that names the file, or the same parameters (the configuration's training keys
 * may differ then), and never a crash. */
static void test_damage(void) {
    cavmae_context *context = tiny_context(1);
    cavmae_config *config = tiny_config(context, SMALLEST);
    cavmae_model *model, *loaded = NULL;
    char path[300];
    snprintf(path, sizeof path, "%s", in_directory("model"));
    CHECK_OK(cavmae_model_create(config, &model));
    CHECK_OK(cavmae_model_save(model, path));
    uint64_t hash = tiny_hash(model), header = 0;
    const char *broken = in_directory("changed");
    char *bytes = malloc(1 << 20);
    FILE *file = fopen(path, "rb");
    if (!bytes || !file) exit(2);
    size_t size = fread(bytes, 1, 1 << 20, file);
    fclose(file);
    memcpy(&header, bytes, sizeof header);
    CHECK(size < 1 << 20 && header > 1000 && header + 8 < size);
    int accepted = 0, unnamed = 0, changed = 0;
    const size_t cuts[] = {0, 1, 7, 8, 9, 100, (size_t)header, (size_t)header + 8, size / 2, size - 1};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        write_bytes(broken, bytes, cuts[i]);
        accepted += cavmae_model_load(context, broken, 3, NULL, &loaded) == CAVMAE_OK;
        unnamed += !strstr(cavmae_last_error(), broken);
    }
    CHECK(accepted == 0);
    for (size_t at = 0, turn = 0; at < size; at += at < header + 8 ? 17 : 613, turn++) {
        char mask = (char)(1 << turn % 8);
        bytes[at] ^= mask;
        write_bytes(broken, bytes, size);
        if (cavmae_model_load(context, broken, 0, NULL, &loaded) == CAVMAE_OK) {
            changed += tiny_hash(loaded) != hash || at >= header + 8;
            cavmae_model_free(loaded);
        } else {
            unnamed += !strstr(cavmae_last_error(), broken);
        }
        bytes[at] ^= mask;
    }
    CHECK(unnamed == 0);
    CHECK(changed == 0);
    free(bytes);
    cavmae_model_free(model);
    cavmae_config_free(config);
    cavmae_context_free(context);
}

/* ---- Memory ---- */

typedef struct meter {
    atomic_llong used, peak;
} meter;

static void *metered_alloc(void *user, size_t size) {
    meter *m = user;
    size_t *block = malloc(size + 16);
    if (!block) return NULL;
    *block = size;
    long long used = atomic_fetch_add(&m->used, (long long)size) + (long long)size, peak = m->peak;
    while (used > peak && !atomic_compare_exchange_weak(&m->peak, &peak, used)) {
    }
    return block + 16 / sizeof *block;
}

static void metered_free(void *user, void *memory) {
    meter *m = user;
    size_t *block = (size_t *)memory - 16 / sizeof *block;
    atomic_fetch_sub(&m->used, (long long)*block);
    free(block);
}

/* What is said beforehand is what is taken at the most, and hardly more. */
static void check_memory(const char *settings, int32_t task, int32_t clips) {
    meter m = {0};
    cavmae_context_options options = {
        .struct_size = sizeof options, .threads = 2, .alloc = metered_alloc, .free = metered_free};
    cavmae_context *context;
    cavmae_memory memory = {.struct_size = sizeof memory};
    cavmae_model *model;
    options.alloc_user = &m;
    CHECK_OK(cavmae_context_create(&options, &context));
    cavmae_config *config = tiny_config(context, settings);
    CHECK_OK(cavmae_memory_required(config, task, clips, &memory));
    CHECK(memory.total ==
          memory.parameters + memory.gradients + memory.moments + memory.activations + memory.workspace);
    long long before = m.used;
    m.peak = before;
    tiny_inputs in = tiny_make(config, 0, clips, NULL);
    const cavmae_batch batch = tiny_batch(&in, clips);
    CHECK_OK(cavmae_model_create(config, &model));
    if (task == CAVMAE_TASK_PRETRAIN) {
        cavmae_optimizer *optimizer;
        cavmae_trainer *trainer;
        CHECK_OK(cavmae_optimizer_create(model, config, &optimizer));
        CHECK_OK(cavmae_trainer_create(model, optimizer, config, &trainer));
        CHECK_OK(cavmae_pretrain_step(trainer, &batch, NULL));
        cavmae_trainer_free(trainer);
        cavmae_optimizer_free(optimizer);
    } else {
        float *rows = malloc((size_t)clips * 256 * sizeof *rows);
        cavmae_embedding out = {.struct_size = sizeof out, .audio = rows, .visual = rows, .joint = rows};
        CHECK_OK(cavmae_embed(model, &batch, &out));
        free(rows);
    }
    cavmae_model_free(model);
    tiny_release(&in);
    double ratio = (double)(m.peak - before) / (double)memory.total;
    if (!CHECK(ratio > 0.9 && ratio <= 1.0))
        printf("    %s: %lld of %lld\n", settings, m.peak - before, (long long)memory.total);
    cavmae_config_free(config);
    cavmae_context_free(context);
    CHECK(m.used == 0);
}

static void test_memory(void) {
#define MIDDLE "embed_dim=256 num_heads=8 decoder_dim=128 decoder_heads=8 batch=4"
    check_memory(MIDDLE, CAVMAE_TASK_PRETRAIN, 4);
    check_memory(MIDDLE " recompute=1", CAVMAE_TASK_PRETRAIN, 4);
    check_memory(MIDDLE " recompute=2", CAVMAE_TASK_PRETRAIN, 4);
    check_memory(MIDDLE " dtype=bfloat16 contrast_weight=0", CAVMAE_TASK_PRETRAIN, 4);
    check_memory(MIDDLE " mask_domain=joint contrast_weight=0", CAVMAE_TASK_PRETRAIN, 4);
    check_memory(MIDDLE " mae_weight=0", CAVMAE_TASK_PRETRAIN, 4);
    check_memory(MIDDLE " chunk=1", CAVMAE_TASK_PRETRAIN, 4);
    check_memory(MIDDLE " chunk=3 contrast_direction=both", CAVMAE_TASK_PRETRAIN, 4);
    check_memory(MIDDLE, CAVMAE_TASK_EMBED, 1);
    check_memory(MIDDLE, CAVMAE_TASK_EMBED, 20);
    cavmae_context *context = tiny_context(1);
    cavmae_config *config = NULL;
    cavmae_memory memory = {.struct_size = sizeof memory};
    CHECK_OK(cavmae_config_create(context, "base", &config));
    CHECK_OK(cavmae_memory_required(config, CAVMAE_TASK_PRETRAIN, 4, &memory));
    CHECK_CLOSE((double)memory.parameters, 191036160.0 * 4, 1e5);
    CHECK(memory.moments == 2 * memory.parameters && memory.gradients == memory.parameters);
    int64_t whole = memory.total;
    CHECK_OK(cavmae_config_set(config, "recompute", "1"));
    CHECK_OK(cavmae_memory_required(config, CAVMAE_TASK_PRETRAIN, 4, &memory));
    CHECK(memory.total < whole);
    CHECK_STATUS(cavmae_memory_required(config, 7, 4, &memory), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_memory_required(config, CAVMAE_TASK_EMBED, 0, &memory), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_memory_required(config, CAVMAE_TASK_PRETRAIN, INT32_MAX, &memory), CAVMAE_E_NOMEM);
    cavmae_config_free(config);
    cavmae_context_free(context);
}

int main(void) {
    if (!mkdtemp(directory)) return 1;
    test_names();
    test_initial_values();
    test_round_trip();
    test_strict();
    test_damage();
    test_memory();
    remove(in_directory("model"));
    remove(in_directory("changed"));
    rmdir(directory);
    return check_summary("model");
}
