/* Heat maps against the embeddings that they are made of; enlarging and boxes against numbers worked out by hand. */
#include "failing_allocator.h"
#include "tiny.h"

enum { CLIPS = 19, MEL = 16, WIDTH = 16, CELLS = 9 }; /* more clips than are taken at once */

static cavmae_model *make_model(cavmae_context *context, const char *settings) {
    cavmae_config *config = tiny_config(context, settings);
    cavmae_model *model = NULL;
    if (!CHECK_OK(cavmae_model_create(config, &model))) exit(1);
    cavmae_config_free(config);
    return model;
}

/* ---- Heat ---- */

static void test_heat(void) {
    cavmae_context *context = tiny_context(2);
    cavmae_config *config = tiny_config(context, SMALLEST);
    cavmae_model *model = make_model(context, SMALLEST);
    int32_t frames[CLIPS];
    for (int i = 0; i < CLIPS; i++) frames[i] = 8 + 8 * (i % 3);
    tiny_inputs in = tiny_make(config, 0, CLIPS, frames);
    const cavmae_batch batch = tiny_batch(&in, CLIPS);
    float audio[CLIPS * WIDTH], tokens[CLIPS * CELLS * WIDTH], heat[CLIPS * CELLS];
    const cavmae_embedding out = {.struct_size = sizeof out, .audio = audio, .visual_tokens = tokens};
    CHECK_OK(cavmae_embed(model, &batch, &out));
    CHECK_OK(cavmae_localize(model, &batch, heat));
    double worst = 0, least = 1, most = -1;
    for (int i = 0; i < CLIPS * CELLS; i++) {
        double product = 0, a = 0, b = 0;
        for (int k = 0; k < WIDTH; k++) {
            const double x = (double)audio[i / CELLS * WIDTH + k], y = (double)tokens[i * WIDTH + k];
            product += x * y;
            a += x * x;
            b += y * y;
        }
        worst = fmax(worst, fabs(product / sqrt(a * b) - heat[i]));
        least = fmin(least, (double)heat[i]);
        most = fmax(most, (double)heat[i]);
    }
    CHECK_CLOSE(worst, 0, 1e-6);
    CHECK(most - least > 0.01 && most < 1 && least > -1);

    /* all clips as configured, one by one */
    tiny_release(&in);
    in = tiny_make(config, 3, 2, NULL);
    const cavmae_batch both = tiny_batch(&in, 2);
    cavmae_batch second = tiny_batch(&in, 1);
    second.audio += 32 * MEL;
    second.image += 3 * 24 * 24;
    CHECK_OK(cavmae_localize(model, &both, heat));
    CHECK_OK(cavmae_localize(model, &second, heat + 2 * CELLS));
    CHECK(!memcmp(heat + CELLS, heat + 2 * CELLS, CELLS * sizeof *heat));

    /* errors */
    cavmae_batch bad = both;
    CHECK_STATUS(cavmae_localize(NULL, &both, heat), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_localize(model, NULL, heat), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_localize(model, &both, NULL), CAVMAE_E_ARG);
    bad.image = NULL;
    CHECK_STATUS(cavmae_localize(model, &bad, heat), CAVMAE_E_ARG);
    bad = both;
    bad.audio = NULL;
    CHECK_STATUS(cavmae_localize(model, &bad, heat), CAVMAE_E_ARG);
    bad = both;
    bad.count = -1;
    CHECK_STATUS(cavmae_localize(model, &bad, heat), CAVMAE_E_ARG);
    bad.count = 0;
    CHECK_OK(cavmae_localize(model, &bad, heat));
    in.image[5] = NAN;
    CHECK_STATUS(cavmae_localize(model, &both, heat), CAVMAE_E_NOT_FINITE);
    cavmae_model *single = make_model(context, SMALLEST " modalities=v");
    CHECK_STATUS(cavmae_localize(single, &both, heat), CAVMAE_E_ARG);
    cavmae_model_free(single);
    tiny_release(&in);
    cavmae_model_free(model);
    cavmae_config_free(config);
    cavmae_context_free(context);
}

/* Several pictures of a clip: as many maps, each as if it were the only one. */
static void test_pictures(void) {
    enum { N = 2 };
    cavmae_context *context = tiny_context(1);
    cavmae_config *config = tiny_config(context, SMALLEST);
    cavmae_model *model = make_model(context, SMALLEST);
    tiny_inputs in = tiny_make(config, 0, CLIPS * N, NULL);
    cavmae_batch batch = tiny_batch(&in, CLIPS);
    float heat[CLIPS * N * CELLS], one[CELLS];
    batch.frames = N;
    CHECK_OK(cavmae_localize(model, &batch, heat));
    int wrong = 0;
    for (int i = 0; i < CLIPS * N; i++) {
        cavmae_batch single = tiny_batch(&in, 1);
        single.audio += i / N * 32 * MEL;
        single.image += i * 3 * 24 * 24;
        CHECK_OK(cavmae_localize(model, &single, one));
        wrong += memcmp(one, heat + i * CELLS, sizeof one) != 0;
    }
    CHECK(wrong == 0);
    tiny_release(&in);
    cavmae_model_free(model);
    cavmae_config_free(config);
    cavmae_context_free(context);
}

/* ---- Enlarging ---- */

static void test_resize(void) {
    static const float heat[2][3] = {{0, 4, 2}, {8, 0, -2}};
    float out[4][7], same[2][3], small[1][1];
    CHECK_OK(cavmae_heatmap_resize(heat[0], 2, 3, 4, 7, out[0]));
    /* columns lie at (x + 0.5) * 3 / 7 - 0.5, rows at -0.25 (0), 0.25, 0.75, 1.25 (1) */
    CHECK_CLOSE(out[0][0], 0, 1e-6);
    CHECK_CLOSE(out[0][1], 4 * (1.5 * 3 / 7 - 0.5), 1e-6);
    CHECK_CLOSE(out[0][3], 4, 1e-6);
    CHECK_CLOSE(out[0][6], 2, 1e-6);
    CHECK_CLOSE(out[1][0], 2, 1e-6);
    CHECK_CLOSE(out[2][0], 6, 1e-6);
    CHECK_CLOSE(out[2][6], -1, 1e-6);
    CHECK_CLOSE(out[3][4], -2 * (4.5 * 3 / 7 - 1.5), 1e-6);
    CHECK_CLOSE(out[1][3], 3, 1e-6);
    CHECK_OK(cavmae_heatmap_resize(heat[0], 2, 3, 2, 3, same[0]));
    CHECK(!memcmp(same, heat, sizeof heat));
    CHECK_OK(cavmae_heatmap_resize(heat[0], 2, 3, 1, 1, small[0]));
    CHECK_CLOSE(small[0][0], 2, 1e-6);
    CHECK_STATUS(cavmae_heatmap_resize(NULL, 2, 3, 4, 7, out[0]), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_heatmap_resize(heat[0], 2, 3, 4, 7, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_heatmap_resize(heat[0], 0, 3, 4, 7, out[0]), CAVMAE_E_SHAPE);
    CHECK_STATUS(cavmae_heatmap_resize(heat[0], 2, -3, 4, 7, out[0]), CAVMAE_E_SHAPE);
    CHECK_STATUS(cavmae_heatmap_resize(heat[0], 2, 3, 0, 7, out[0]), CAVMAE_E_SHAPE);
    CHECK_STATUS(cavmae_heatmap_resize(heat[0], 2, 3, 4, INT32_MAX, out[0]), CAVMAE_E_SHAPE);
}

/* ---- Boxes ---- */

enum { SAMPLES = 4, ROWS = 3, COLUMNS = 4 };

/* With a threshold of 0.5 the first is hot in its left half, the second in one cell, the third in all but one, the last
 * is the same everywhere. */
static const float maps[SAMPLES][ROWS][COLUMNS] = {{{9, 8, 1, 1}, {9, 8, 1, 1}, {9, 5, 4.9f, 1}},
                                                   {{-1, -1, -1, -1}, {-1, -1, 3, -1}, {-1, -1, -1, -1}},
                                                   {{1, 1, 1, 1}, {1, 1, 1, 1}, {1, 1, 1, 0}},
                                                   {{2, 2, 2, 2}, {2, 2, 2, 2}, {2, 2, 2, 2}}};

static void test_boxes(void) {
    /* cells are pixels; the first: 6 hot, 4 in the box, 2 in both; the second: 1 hot, 2 in it; the third: 11 and 1 */
    static const double boxes[SAMPLES][4] = {{1, 1, 3, 3}, {1.6, 0.7, 3.4, 2.6}, {0, 0, 1, 1}, {0, 0, 4, 3}};
    cavmae_context *context = tiny_context(1);
    cavmae_localization_metrics m = {.struct_size = sizeof m};
    double iou[SAMPLES];
    CHECK_OK(cavmae_localization_from_boxes(context, maps[0][0], SAMPLES, ROWS, COLUMNS, ROWS, COLUMNS, boxes, NULL,
                                            0.5, iou, &m));
    CHECK_CLOSE(iou[0], 2.0 / 8, 1e-12);
    CHECK_CLOSE(iou[1], 1.0 / 2, 1e-12); /* the box has the centres (2.5, 1.5) and (2.5, 2.5) */
    CHECK_CLOSE(iou[2], 1.0 / 11, 1e-12);
    CHECK_CLOSE(iou[3], 0, 0);
    CHECK_CLOSE(m.mean_iou, (0.25 + 0.5 + 1.0 / 11) / 4, 1e-12);
    CHECK_CLOSE(m.success, 0.25, 0);
    /* reached by 0.25, 0.5, 1/11, 0: all 4 at 0; 3 at .05; 2 up to .25; 1 up to .5 */
    CHECK_CLOSE(m.auc, (0.5 * 4 + 3 + 4 * 2 + 5 * 1) / 20 / 4, 1e-12);

    /* other thresholds: 4.9 is 0.4875 of the way from 1 to 9 */
    CHECK_OK(cavmae_localization_from_boxes(context, maps[0][0], 1, ROWS, COLUMNS, ROWS, COLUMNS, boxes, NULL, 0.48,
                                            iou, &m));
    CHECK_CLOSE(iou[0], 3.0 / 8, 1e-12);
    CHECK_OK(
        cavmae_localization_from_boxes(context, maps[0][0], 1, ROWS, COLUMNS, ROWS, COLUMNS, boxes, NULL, 0, NULL, &m));
    CHECK_CLOSE(m.mean_iou, 4.0 / 12, 1e-12);
    CHECK_CLOSE(m.success, 0, 0);

    /* several boxes are their union, in the next sample's too; what lies outside of the picture is cut off */
    static const double many[5][4] = {{-9, -9, 1, 99}, {0, 0, 2, 3}, {0, 0, 1, 1}, {2, 1, 3, 2}, {50, 50, 60, 60}};
    static const int32_t counts[3] = {2, 2, 1};
    CHECK_OK(cavmae_localization_from_boxes(context, maps[0][0], 3, ROWS, COLUMNS, ROWS, COLUMNS, many, counts, 0.5,
                                            iou, &m));
    CHECK_CLOSE(iou[0], 1, 0);
    CHECK_CLOSE(iou[1], 0.5, 1e-12);
    CHECK_CLOSE(iou[2], 0, 0);
    CHECK_CLOSE(m.success, 2.0 / 3, 1e-12);
    CHECK_CLOSE(m.auc, (0.5 * 3 + 10 * 2 + 9 * 1 + 0.5 * 1) / 20 / 3, 1e-12);

    /* enlarged: a step between two cells has its middle between their centres */
    static const float step[1][2] = {{0, 1}};
    static const double half[1][4] = {{50, 0, 100, 10}};
    CHECK_OK(cavmae_localization_from_boxes(context, step[0], 1, 1, 2, 10, 100, half, NULL, 0.5, NULL, &m));
    CHECK_CLOSE(m.mean_iou, 1, 0);
    CHECK_CLOSE(m.auc, 1, 1e-12);
    CHECK_OK(cavmae_localization_from_boxes(context, step[0], 1, 1, 2, 10, 100, half, NULL, 0.75, NULL, &m));
    CHECK_CLOSE(m.mean_iou, 38.0 / 50, 1e-12); /* (x + 0.5) / 50 - 0.5 >= 0.75 from x = 62 on */
    cavmae_context_free(context);
}

static void test_box_errors(void) {
    cavmae_context *context = tiny_context(1);
    cavmae_localization_metrics m = {.struct_size = sizeof m};
    float heat[SAMPLES][ROWS][COLUMNS];
    double boxes[SAMPLES][4] = {{0, 0, 1, 1}, {0, 0, 1, 1}, {0, 0, 1, 1}, {0, 0, 1, 1}};
    int32_t counts[SAMPLES] = {1, 1, 1, 1};
    const double(*fixed)[4] = (const double(*)[4])boxes;
    memcpy(heat, maps, sizeof heat);
#define TRY(context, heat, count, rows, boxes, threshold, out)                                                         \
    cavmae_localization_from_boxes(context, heat, count, rows, COLUMNS, ROWS, COLUMNS, boxes, counts, threshold, NULL, \
                                   out)
    CHECK_OK(TRY(context, heat[0][0], SAMPLES, ROWS, fixed, 0.5, &m));
    CHECK_STATUS(TRY(NULL, heat[0][0], SAMPLES, ROWS, fixed, 0.5, &m), CAVMAE_E_ARG);
    CHECK_STATUS(TRY(context, NULL, SAMPLES, ROWS, fixed, 0.5, &m), CAVMAE_E_ARG);
    CHECK_STATUS(TRY(context, heat[0][0], 0, ROWS, fixed, 0.5, &m), CAVMAE_E_ARG);
    CHECK_STATUS(TRY(context, heat[0][0], SAMPLES, 0, fixed, 0.5, &m), CAVMAE_E_SHAPE);
    CHECK_STATUS(TRY(context, heat[0][0], SAMPLES, ROWS, NULL, 0.5, &m), CAVMAE_E_ARG);
    CHECK_STATUS(TRY(context, heat[0][0], SAMPLES, ROWS, fixed, 1.5, &m), CAVMAE_E_ARG);
    CHECK_STATUS(TRY(context, heat[0][0], SAMPLES, ROWS, fixed, NAN, &m), CAVMAE_E_ARG);
    CHECK_STATUS(TRY(context, heat[0][0], SAMPLES, ROWS, fixed, 0.5, NULL), CAVMAE_E_ARG);
    boxes[3][2] = 0;
    CHECK_STATUS(TRY(context, heat[0][0], SAMPLES, ROWS, fixed, 0.5, &m), CAVMAE_E_ARG);
    boxes[3][2] = NAN;
    CHECK_STATUS(TRY(context, heat[0][0], SAMPLES, ROWS, fixed, 0.5, &m), CAVMAE_E_ARG);
    boxes[3][2] = 1e300;
    CHECK_OK(TRY(context, heat[0][0], SAMPLES, ROWS, fixed, 0.5, &m));
    counts[1] = 0;
    CHECK_STATUS(TRY(context, heat[0][0], SAMPLES, ROWS, fixed, 0.5, &m), CAVMAE_E_ARG);
    counts[1] = 1;
    heat[2][1][1] = INFINITY;
    CHECK_STATUS(TRY(context, heat[0][0], SAMPLES, ROWS, fixed, 0.5, &m), CAVMAE_E_NOT_FINITE);
    m.struct_size = 4;
    CHECK_STATUS(TRY(context, heat[0][0], SAMPLES, ROWS, fixed, 0.5, &m), CAVMAE_E_ARG);
    cavmae_context_free(context);
}

/* ---- Memory ---- */

static void test_no_memory(void) {
    static const double boxes[2][4] = {{0, 0, 1, 1}, {0, 0, 1, 1}};
    failing_allocator allocator = {0};
    cavmae_context_options options = failing_options(&allocator);
    cavmae_context *context = NULL;
    options.threads = 1;
    CHECK_OK(cavmae_context_create(&options, &context));
    cavmae_config *config = tiny_config(context, SMALLEST);
    cavmae_model *model = make_model(context, SMALLEST);
    tiny_inputs in = tiny_make(config, 0, 2, NULL);
    const cavmae_batch batch = tiny_batch(&in, 2);
    float heat[2 * CELLS];
    cavmae_localization_metrics m = {.struct_size = sizeof m};
    CHECK_OK(cavmae_localize(model, &batch, heat));
    const long blocks = allocator.blocks;
    long fails[2] = {0, 0};
    for (int call = 0; call < 2; call++)
        for (cavmae_status status = CAVMAE_E_NOMEM; status == CAVMAE_E_NOMEM; fails[call]++) {
            allocator.calls = 0;
            allocator.fail_at = fails[call] + 1;
            status = call ? cavmae_localization_from_boxes(context, heat, 2, 3, 3, 24, 24, boxes, NULL, 0.5, NULL, &m)
                          : cavmae_localize(model, &batch, heat);
            CHECK(status == CAVMAE_OK || status == CAVMAE_E_NOMEM);
            CHECK(allocator.blocks == blocks);
        }
    allocator.fail_at = 0;
    CHECK(fails[0] > 4 && fails[1] == 4);
    tiny_release(&in);
    cavmae_model_free(model);
    cavmae_config_free(config);
    cavmae_context_free(context);
    CHECK(allocator.blocks == 0);
}

int main(void) {
    test_heat();
    test_pictures();
    test_resize();
    test_boxes();
    test_box_errors();
    test_no_memory();
    return check_summary("localize");
}
