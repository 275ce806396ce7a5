/* Models with a head: what it sees, frozen encoders, several pictures of a clip, errors. */
#include "fill_by_hash.h"
#include "tiny.h"

#define HEAD SMALLEST " classes=5 lr=0.01 "

enum { CLIPS = 3, CLASSES = 5, WIDTH = 16, FRAMES = 13 };

static const float labels[CLIPS * CLASSES] = {1, 0, 0, 0.5f, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0.2f};

static cavmae_batch labelled(const tiny_inputs *in) {
    cavmae_batch batch = tiny_batch(in, CLIPS);
    batch.labels = labels;
    batch.classes = CLASSES;
    return batch;
}

static int near(const float *a, const float *b, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (!(fabsf(a[i] - b[i]) <= 1e-5f)) return 0;
    return 1;
}

/* Features of all clips in `mode`, [CLIPS, width]. */
static void features_of(cavmae_model *model, const cavmae_batch *batch, int32_t mode, float *features) {
    const cavmae_embedding out = {.struct_size = sizeof out, .mode = mode, .features = features};
    CHECK_OK(cavmae_embed(model, batch, &out));
}

/* The single streams' means, not normalised. */
static void pooled(cavmae_model *model, const cavmae_batch *batch, int m, float *mean) {
    enum { MOST_TOKENS = 9 };
    float tokens[CLIPS * MOST_TOKENS * WIDTH];
    cavmae_embedding out = {.struct_size = sizeof out};
    if (m)
        out.visual_tokens = tokens;
    else
        out.audio_tokens = tokens;
    CHECK_OK(cavmae_embed(model, batch, &out));
    int count = m ? 9 : 8;
    for (int i = 0; i < CLIPS; i++)
        for (int k = 0; k < WIDTH; k++) {
            double sum = 0;
            for (int t = 0; t < count; t++) sum += (double)tokens[(i * count + t) * WIDTH + k];
            mean[i * WIDTH + k] = (float)(sum / count);
        }
}

/* ---- What the head sees ---- */

static void test_inputs(void) {
    static const char *const kinds[] = {"joint", "sum", "concat"};
    float a[CLIPS * WIDTH], v[CLIPS * WIDTH], joint[CLIPS * WIDTH], got[CLIPS * 2 * WIDTH], expected[CLIPS * 2 * WIDTH];
    for (int kind = 0; kind < 3; kind++) {
        char settings[512];
        snprintf(settings, sizeof settings, HEAD "head_input=%s", kinds[kind]);
        tiny_training t = tiny_train(1, settings);
        tiny_inputs in = tiny_make(t.config, 0, CLIPS, NULL);
        const cavmae_batch batch = labelled(&in);
        const cavmae_embedding out = {.struct_size = sizeof out, .joint = joint};
        int width = kind == 2 ? 2 * WIDTH : WIDTH;
        CHECK_OK(cavmae_embed(t.model, &batch, &out));
        pooled(t.model, &batch, 0, a);
        pooled(t.model, &batch, 1, v);
        for (int i = 0; i < CLIPS; i++)
            for (int k = 0; k < WIDTH; k++) {
                float *row = expected + i * width;
                row[k] = kind == 0 ? joint[i * WIDTH + k] : a[i * WIDTH + k] + (kind == 1 ? v[i * WIDTH + k] : 0);
                if (kind == 2) row[WIDTH + k] = v[i * WIDTH + k];
            }
        features_of(t.model, &batch, 0, got);
        CHECK(near(got, expected, CLIPS * width));
        features_of(t.model, &batch, CAVMAE_MODE_AUDIO_ONLY, got);
        for (int i = 0; i < CLIPS; i++) CHECK(near(got + i * width, a + i * WIDTH, WIDTH));
        features_of(t.model, &batch, CAVMAE_MODE_VIDEO_ONLY, got);
        for (int i = 0; i < CLIPS; i++) CHECK(near(got + i * width + width - WIDTH, v + i * WIDTH, WIDTH));
        if (kind == 2) CHECK(got[0] == 0 && got[WIDTH - 1] == 0);
        tiny_release(&in);
        tiny_train_free(&t);
    }
}

/* A missing modality is not looked at, and need not be given. */
static void test_missing(void) {
    float full[CLIPS * WIDTH], alone[CLIPS * WIDTH], a[CLIPS * WIDTH];
    tiny_training t = tiny_train(1, HEAD);
    tiny_inputs in = tiny_make(t.config, 0, CLIPS, NULL);
    cavmae_batch batch = labelled(&in);
    CHECK_OK(fill_by_hash(t.model)); /* norms that differ */
    features_of(t.model, &batch, CAVMAE_MODE_MISSING_AUDIO_ONLY, full);
    pooled(t.model, &batch, 0, a);
    batch.image = NULL;
    features_of(t.model, &batch, CAVMAE_MODE_MISSING_AUDIO_ONLY, alone);
    CHECK(memcmp(full, alone, sizeof full) == 0);
    CHECK(!near(alone, a, CLIPS * WIDTH)); /* averaged with the unified stream */
    const cavmae_embedding joint = {
        .struct_size = sizeof joint, .mode = CAVMAE_MODE_MISSING_AUDIO_ONLY, .features = alone, .joint = full};
    batch.image = in.image;
    CHECK_STATUS(cavmae_embed(t.model, &batch, &joint), CAVMAE_E_ARG);
    tiny_release(&in);
    tiny_train_free(&t);
}

/* ---- Several pictures of a clip ---- */

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

/* Each picture with the clip's sound gives what a clip of one picture does, in any number of them. */
static void test_frames(void) {
    enum { PICTURE = 3 * 24 * 24, FEW = 2 };
    float *image = malloc(FEW * FRAMES * PICTURE * sizeof *image);
    float logits[FEW * FRAMES * CLASSES], one[FEW * CLASSES], joint[FEW * FRAMES * WIDTH], audio[FEW * WIDTH],
        joint_one[FEW * WIDTH], audio_one[FEW * WIDTH], features[FEW * FRAMES * WIDTH], scores[3][FEW * CLASSES];
    static float tokens[FEW * FRAMES * 17 * WIDTH], tokens_one[FEW * 17 * WIDTH];
    tiny_training t = tiny_train(2, HEAD);
    tiny_inputs in = tiny_make(t.config, 0, FEW, NULL);
    tiny_fill(image, FEW * FRAMES * PICTURE, 99);
    cavmae_batch batch = tiny_batch(&in, FEW);
    batch.image = image;
    batch.frames = FRAMES;
    for (int32_t average = 0; average < 3; average++) {
        const cavmae_embedding out = {.struct_size = sizeof out,
                                      .audio = audio,
                                      .joint = joint,
                                      .joint_tokens = tokens,
                                      .features = features,
                                      .logits = logits,
                                      .scores = scores[average],
                                      .average = average};
        CHECK_OK(cavmae_embed(t.model, &batch, &out));
    }
    for (int f = 0; f < FRAMES; f++) {
        float single[FEW * PICTURE];
        cavmae_batch each = tiny_batch(&in, FEW);
        for (int i = 0; i < FEW; i++)
            memcpy(single + i * PICTURE, image + (i * FRAMES + f) * PICTURE, PICTURE * sizeof *single);
        each.image = single;
        const cavmae_embedding out = {.struct_size = sizeof out,
                                      .audio = audio_one,
                                      .joint = joint_one,
                                      .joint_tokens = tokens_one,
                                      .logits = one};
        CHECK_OK(cavmae_embed(t.model, &each, &out));
        for (int i = 0; i < FEW; i++) {
            int row = i * FRAMES + f;
            CHECK(memcmp(logits + row * CLASSES, one + i * CLASSES, CLASSES * sizeof *one) == 0);
            CHECK(memcmp(joint + row * WIDTH, joint_one + i * WIDTH, WIDTH * sizeof *one) == 0);
            CHECK(memcmp(audio + i * WIDTH, audio_one + i * WIDTH, WIDTH * sizeof *one) == 0);
            CHECK(memcmp(tokens + row * 17 * WIDTH, tokens_one + i * 17 * WIDTH, 17 * WIDTH * sizeof *one) == 0);
        }
    }
    for (int i = 0; i < FEW; i++)
        for (int k = 0; k < CLASSES; k++) {
            double score = 0, logit = 0;
            for (int f = 0; f < FRAMES; f++) {
                double z = (double)logits[(i * FRAMES + f) * CLASSES + k];
                score += sigmoid(z) / FRAMES;
                logit += z / FRAMES;
            }
            CHECK_CLOSE(scores[CAVMAE_AVERAGE_SCORES][i * CLASSES + k], score, 1e-6);
            CHECK_CLOSE(scores[CAVMAE_AVERAGE_LOGITS][i * CLASSES + k], sigmoid(logit), 1e-6);
        }
    /* the mean features through the head, as a probe would see them */
    float mean[FEW * WIDTH] = {0};
    for (int r = 0; r < FEW * FRAMES; r++)
        for (int k = 0; k < WIDTH; k++) mean[r / FRAMES * WIDTH + k] += features[r * WIDTH + k] / FRAMES;
    cavmae_batch head = {
        .struct_size = sizeof head, .count = FEW, .features = mean, .labels = labels, .classes = CLASSES};
    cavmae_tensor *tensor;
    CHECK_OK(cavmae_finetune_evaluate(t.trainer, &head, NULL));
    if (CHECK_OK(cavmae_trainer_output(t.trainer, CAVMAE_OUT_LOGITS, &tensor))) {
        const float *z = cavmae_tensor_data(tensor);
        for (int i = 0; i < FEW * CLASSES; i++)
            CHECK_CLOSE(scores[CAVMAE_AVERAGE_FEATURES][i], sigmoid((double)z[i]), 1e-5);
        cavmae_tensor_free(tensor);
    }
    free(image);
    tiny_release(&in);
    tiny_train_free(&t);
}

/* ---- Frozen encoders ---- */

/* Training on features gives what training through the frozen encoder does; nothing but the head moves. */
static void test_probe(void) {
    float features[CLIPS * WIDTH];
    tiny_training through = tiny_train(1, HEAD "freeze_base=1"), direct = tiny_train(1, HEAD "freeze_base=1");
    tiny_inputs in = tiny_make(through.config, 0, CLIPS, NULL);
    const cavmae_batch batch = labelled(&in);
    cavmae_tensor *before, *after;
    cavmae_step_result a = {.struct_size = sizeof a}, b = {.struct_size = sizeof b};
    features_of(direct.model, &batch, 0, features);
    cavmae_batch cached = {
        .struct_size = sizeof cached, .count = CLIPS, .features = features, .labels = labels, .classes = CLASSES};
    CHECK_OK(cavmae_model_parameter(through.model, "blocks_u.0.mlp.fc1.weight", &before));
    for (int i = 0; i < 4; i++) {
        CHECK_OK(cavmae_finetune_step(through.trainer, &batch, &a));
        CHECK_OK(cavmae_finetune_step(direct.trainer, i == 2 ? &batch : &cached, &b)); /* both in one training */
        CHECK(a.loss == b.loss && a.updated && a.loss > 0);
    }
    CHECK(tiny_hash(through.model) == tiny_hash(direct.model));
    CHECK_OK(cavmae_model_parameter(direct.model, "blocks_u.0.mlp.fc1.weight", &after));
    CHECK(memcmp(cavmae_tensor_data(before), cavmae_tensor_data(after),
                 (size_t)cavmae_tensor_elements(before) * sizeof(float)) == 0);
    cavmae_tensor *none;
    CHECK_STATUS(cavmae_trainer_gradient(through.trainer, "norm.weight", &none), CAVMAE_E_NOT_FOUND);
    cavmae_tensor_free(before);
    cavmae_tensor_free(after);
    tiny_release(&in);
    tiny_train_free(&through);
    tiny_train_free(&direct);
}

/* ---- Modality dropout ---- */

static void test_dropout(void) {
    float a[CLIPS * WIDTH], v[CLIPS * WIDTH], both[CLIPS * WIDTH];
    int seen[3] = {0};
    tiny_training t = tiny_train(1, HEAD "modality_dropout=0.5 lr=0");
    tiny_inputs in = tiny_make(t.config, 0, CLIPS, NULL);
    const cavmae_batch batch = labelled(&in);
    features_of(t.model, &batch, CAVMAE_MODE_AUDIO_ONLY, a);
    features_of(t.model, &batch, CAVMAE_MODE_VIDEO_ONLY, v);
    features_of(t.model, &batch, CAVMAE_MODE_MULTIMODAL, both);
    for (int step = 0; step < 200; step++) {
        cavmae_tensor *tensor;
        CHECK_OK(cavmae_finetune_step(t.trainer, &batch, NULL));
        if (!CHECK_OK(cavmae_trainer_output(t.trainer, CAVMAE_OUT_FEATURES, &tensor))) break;
        const float *got = cavmae_tensor_data(tensor);
        for (int i = 0; i < CLIPS; i++, got += WIDTH) {
            const float *kinds[3] = {both + i * WIDTH, a + i * WIDTH, v + i * WIDTH};
            int kind = 0;
            while (kind < 3 && !near(got, kinds[kind], WIDTH)) kind++;
            if (CHECK(kind < 3)) seen[kind]++;
        }
        cavmae_tensor_free(tensor);
    }
    /* 600 draws: standard deviations of 12, 11, 11 */
    CHECK_CLOSE(seen[0], 300, 50);
    CHECK_CLOSE(seen[1], 150, 45);
    CHECK_CLOSE(seen[2], 150, 45);
    CHECK_OK(cavmae_finetune_evaluate(t.trainer, &batch, NULL)); /* shows all */
    cavmae_tensor *tensor;
    if (CHECK_OK(cavmae_trainer_output(t.trainer, CAVMAE_OUT_FEATURES, &tensor))) {
        CHECK(near(cavmae_tensor_data(tensor), both, CLIPS * WIDTH));
        cavmae_tensor_free(tensor);
    }
    tiny_release(&in);
    tiny_train_free(&t);
}

/* ---- The head learns; threads and resuming change nothing ---- */

static void test_learns(void) {
    tiny_training one = tiny_train(1, HEAD "head_lr_factor=10 lr=1e-3"),
                  three = tiny_train(3, HEAD "head_lr_factor=10 lr=1e-3");
    tiny_inputs in = tiny_make(one.config, 0, CLIPS, NULL);
    const cavmae_batch batch = labelled(&in);
    cavmae_step_result first = {.struct_size = sizeof first}, last = {.struct_size = sizeof last};
    CHECK_OK(cavmae_finetune_step(one.trainer, &batch, &first));
    for (int i = 0; i < 30; i++) CHECK_OK(cavmae_finetune_step(one.trainer, &batch, &last));
    for (int i = 0; i < 31; i++) CHECK_OK(cavmae_finetune_step(three.trainer, &batch, NULL));
    CHECK(last.loss < 0.8 * first.loss && last.accuracy == 1 && last.pairs == 0 && last.loss_mae == 0);
    CHECK(tiny_hash(one.model) == tiny_hash(three.model));
    tiny_release(&in);
    tiny_train_free(&one);
    tiny_train_free(&three);
}

/* ---- Errors ---- */

static void test_errors(void) {
    cavmae_step_result waited_for = {.struct_size = sizeof waited_for};
    float logits[CLIPS * CLASSES];
    tiny_training t = tiny_train(1, HEAD), plain = tiny_train(1, SMALLEST);
    tiny_inputs in = tiny_make(t.config, 0, CLIPS, NULL);
    cavmae_batch batch = labelled(&in);
    CHECK_STATUS(cavmae_pretrain_step(t.trainer, &batch, NULL), CAVMAE_E_STATE);
    CHECK_STATUS(cavmae_pretrain_evaluate(t.trainer, &batch, 0, NULL), CAVMAE_E_STATE);
    CHECK_STATUS(cavmae_finetune_step(plain.trainer, &batch, NULL), CAVMAE_E_STATE);
    CHECK_STATUS(cavmae_finetune_evaluate(plain.trainer, &batch, NULL), CAVMAE_E_STATE);
    batch.labels = NULL;
    CHECK_STATUS(cavmae_finetune_step(t.trainer, &batch, NULL), CAVMAE_E_ARG);
    batch.labels = labels;
    batch.classes = CLASSES - 1;
    CHECK_STATUS(cavmae_finetune_step(t.trainer, &batch, NULL), CAVMAE_E_SHAPE);
    batch.classes = CLASSES;
    batch.features = in.audio;
    CHECK_STATUS(cavmae_finetune_step(t.trainer, &batch, NULL), CAVMAE_E_ARG);
    batch.features = NULL;
    batch.frames = 2;
    CHECK_STATUS(cavmae_finetune_step(t.trainer, &batch, NULL), CAVMAE_E_ARG);
    batch.frames = 0;
    batch.image = NULL;
    CHECK_STATUS(cavmae_finetune_step(t.trainer, &batch, NULL), CAVMAE_E_ARG);
    cavmae_embedding out = {.struct_size = sizeof out, .logits = logits};
    CHECK_STATUS(cavmae_embed(t.model, &batch, &out), CAVMAE_E_ARG);
    batch.image = in.image;
    CHECK_STATUS(cavmae_embed(plain.model, &batch, &out), CAVMAE_E_ARG);
    out.mode = 6;
    CHECK_STATUS(cavmae_embed(t.model, &batch, &out), CAVMAE_E_ARG);
    out.mode = 0;
    out.average = 3;
    CHECK_STATUS(cavmae_embed(t.model, &batch, &out), CAVMAE_E_ARG);
    out.average = 0;
    batch.frames = -1;
    CHECK_STATUS(cavmae_embed(t.model, &batch, &out), CAVMAE_E_ARG);
    batch.frames = 0;
    in.image[7] = NAN;
    CHECK_STATUS(cavmae_embed(t.model, &batch, &out), CAVMAE_E_NOT_FINITE);
    CHECK_STATUS(cavmae_finetune_step(t.trainer, &batch, &waited_for), CAVMAE_E_NOT_FINITE);
    tiny_release(&in);
    tiny_train_free(&t);
    tiny_train_free(&plain);
}

static void test_configurations(void) {
    static const char *const wrong[] = {"modalities=a mode=videoonly", "modalities=v head_input=sum",
                                        "head_input=concat mode=missingaudioonly",
                                        "mode=audioonly modality_dropout=0.5", "classes=0 freeze_base=1"};
    cavmae_context *context = tiny_context(1);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        cavmae_config *config = tiny_config(context, HEAD);
        tiny_set(config, wrong[i]);
        CHECK_STATUS(cavmae_config_check(config), CAVMAE_E_ARG);
        cavmae_config_free(config);
    }
    cavmae_config *config = tiny_config(context, SMALLEST " decoder=0");
    cavmae_model *model = NULL;
    cavmae_trainer *trainer;
    cavmae_memory memory = {.struct_size = sizeof memory};
    CHECK_OK(cavmae_model_create(config, &model));
    CHECK_STATUS(cavmae_trainer_create(model, NULL, config, &trainer), CAVMAE_E_ARG); /* nothing to decode with */
    CHECK_STATUS(cavmae_memory_required(config, CAVMAE_TASK_FINETUNE, 1, &memory), CAVMAE_E_ARG);
    cavmae_model_free(model);
    cavmae_config_free(config);
    cavmae_context_free(context);
}

/* The published sizes. */
static void test_parameters(void) {
    static const struct {
        const char *settings;
        int64_t elements;
    } models[] = {{"classes=527", 164907000}, {"classes=309", 164739000}, {"decoder=0 modalities=a", 85700000}};
    cavmae_context *context = tiny_context(1);
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        cavmae_config *config;
        cavmae_memory memory = {.struct_size = sizeof memory};
        if (!CHECK_OK(cavmae_config_create(context, NULL, &config))) break;
        tiny_set(config, models[i].settings);
        CHECK_OK(cavmae_memory_required(config, i == 2 ? CAVMAE_TASK_EMBED : CAVMAE_TASK_FINETUNE, 1, &memory));
        CHECK_CLOSE((double)memory.elements, (double)models[i].elements, i == 2 ? 5e4 : 600);
        cavmae_config_free(config);
    }
    cavmae_context_free(context);
}

static void test_recipes(void) {
    static const struct {
        const char *recipe, *key, *value;
    } expected[] = {{"pretrain-paper", "epochs", "12"},   {"pretrain-base", "lr", "5e-05"},
                    {"pretrain-scale+", "batch", "108"},  {"pretrain-scale+120", "batch", "120"},
                    {"pretrain-scale++", "lr", "0.0002"}, {"finetune-as20k", "head_lr_factor", "100"},
                    {"finetune-as20k", "batch", "36"},    {"finetune-as2m", "balanced", "1"},
                    {"finetune-vggsound", "loss", "ce"},  {"finetune-vggsound", "classes", "309"}};
    cavmae_context *context = tiny_context(1);
    cavmae_config *config;
    const char *value;
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        if (!CHECK_OK(cavmae_config_create(context, expected[i].recipe, &config))) continue;
        CHECK_OK(cavmae_config_check(config));
        cavmae_key_info key = {.struct_size = sizeof key};
        for (int32_t k = 0; cavmae_config_key_info(k, &key) == CAVMAE_OK && strcmp(key.name, expected[i].key);) k++;
        CHECK_OK(cavmae_config_get_str(config, key.key, &value));
        CHECK(strcmp(value, expected[i].value) == 0);
        cavmae_config_free(config);
    }
    if (CHECK_OK(cavmae_config_create(context, "tiny", &config))) { /* a recipe leaves the model as it is */
        CHECK_OK(cavmae_config_apply(config, "finetune-as20k"));
        CHECK(tiny_value(config, CAVMAE_P_EMBED_DIM) == 32 && tiny_value(config, CAVMAE_P_CLASSES) == 527);
        CHECK_STATUS(cavmae_config_apply(config, "finetune"), CAVMAE_E_NOT_FOUND);
        CHECK_STATUS(cavmae_config_apply(config, NULL), CAVMAE_E_ARG);
        cavmae_config_free(config);
    }
    cavmae_context_free(context);
}

/* Milestones in epochs: the reference's epoch e has the rate of after e - 1 epochs. */
static void test_milestones(void) {
    tiny_training t = tiny_train(1, HEAD "milestones=1,2 milestone_unit=2 lr=0.5 gamma=0.5");
    static const double rates[] = {0.5, 0.5, 0.25, 0.25, 0.125, 0.125};
    tiny_inputs in = tiny_make(t.config, 0, CLIPS, NULL);
    const cavmae_batch batch = labelled(&in);
    for (int i = 0; i < 6; i++) {
        cavmae_step_result r = {.struct_size = sizeof r};
        CHECK_OK(cavmae_finetune_step(t.trainer, &batch, &r));
        CHECK(r.lr == rates[i]);
    }
    tiny_release(&in);
    tiny_train_free(&t);
}

int main(void) {
    test_inputs();
    test_missing();
    test_frames();
    test_probe();
    test_dropout();
    test_learns();
    test_errors();
    test_configurations();
    test_parameters();
    test_recipes();
    test_milestones();
    return check_summary("finetune");
}
