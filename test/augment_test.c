/* Augmentation below the loader: what each does, and how its random choices are distributed. Bounds on counts and means
 * are five standard deviations. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "augment.h"
#include "balance.h"
#include "check.h"
#include "mixup.h"
#include "order.h"

static cavmae__draw draw_number(int64_t number) { return (cavmae__draw){7, 2, number}; }

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Kolmogorov and Smirnov's largest distance between the samples and a distribution, times sqrt(count): above 2 once in
 * 1500 times. Sorts x. */
static double distance_from(double *x, int count, double (*cdf)(double)) {
    double largest = 0;
    qsort(x, (size_t)count, sizeof *x, by_value);
    for (int i = 0; i < count; i++) {
        double at = cdf(x[i]);
        largest = fmax(largest, fmax(at - (double)i / count, (i + 1.0) / count - at));
    }
    return largest * sqrt(count);
}

static double uniform_cdf(double x) { return x; }

/* ---- Noise and roll ---- */

static void test_noise(void) {
    enum { DRAWS = 400, LENGTH = 30 * 7 };
    double level_sum = 0, ratio_sum = 0;
    float x[LENGTH], again[LENGTH];
    int within = 1;
    for (int draw = 0; draw < DRAWS; draw++) {
        float largest = 0, sum = 0;
        memset(x, 0, sizeof x);
        cavmae__augment_noise(x, 30, 7, &(cavmae__draw){5, draw, 3});
        for (int i = 0; i < LENGTH; i++) {
            within &= x[i] >= 0 && x[i] < 0.1f;
            largest = fmaxf(largest, x[i]);
            sum += x[i];
        }
        level_sum += (double)largest;
        ratio_sum += (double)(sum / LENGTH / largest);
    }
    CHECK(within);
    CHECK_CLOSE(level_sum / DRAWS, 0.05, 0.005); /* U[0,1) / 10; five deviations of the mean of 400 are 0.007 */
    CHECK_CLOSE(ratio_sum / DRAWS, 0.5, 0.01);   /* U[0,1) within a sample */
    for (int i = 0; i < LENGTH; i++) x[i] = again[i] = 1;
    cavmae__augment_noise(x, 30, 7, &(cavmae__draw){5, 1, 3});
    cavmae__augment_noise(again, 30, 7, &(cavmae__draw){5, 1, 3});
    CHECK(memcmp(x, again, sizeof x) == 0 && x[0] > 1);
    for (int i = 0; i < LENGTH; i++) again[i] = 1;
    cavmae__augment_noise(again, 30, 7, &(cavmae__draw){5, 1, 4});
    CHECK(memcmp(x, again, sizeof x) != 0);
}

static void test_roll(void) {
    enum { T = 10, DRAWS = 20000 };
    int seen[2 * T] = {0}, within = 1;
    for (int64_t shift = -T; shift < T; shift++) {
        float x[T * 3];
        for (int i = 0; i < T * 3; i++) x[i] = (float)i;
        cavmae__augment_roll(x, T, 3, shift);
        for (int t = 0; t < T; t++)
            for (int f = 0; f < 3; f++) CHECK(x[(t + shift + T) % T * 3 + f] == (float)(t * 3 + f));
    }
    for (int draw = 0; draw < DRAWS; draw++) {
        int64_t shift = cavmae__roll_shift(T, &(cavmae__draw){1, draw / 100, draw % 100});
        within &= shift >= -T && shift < T;
        seen[(shift + 2 * T) % (2 * T)]++;
    }
    CHECK(within);
    for (int i = 0; i < 2 * T; i++) CHECK_CLOSE(seen[i], DRAWS / (2 * T), 5 * sqrt(DRAWS / (2.0 * T)));
}

/* ---- Masks ---- */

static void test_mask_distribution(void) {
    enum { DRAWS = 20000, LENGTH = 128, LIMIT = 48 };
    static double starts[DRAWS];
    int widths[LIMIT] = {0}, within = 1;
    double product = 0;
    for (int i = 0; i < DRAWS; i++) {
        cavmae__draw draw = draw_number(i);
        cavmae__stretch band = cavmae__mask_stretch(LENGTH, LIMIT, 0, &draw);
        cavmae__stretch time = cavmae__mask_stretch(1024, 192, 1, &draw);
        within &= band.start >= 0 && band.width >= 0 && band.width < LIMIT && band.start + band.width <= LENGTH;
        within &= time.start >= 0 && time.width >= 0 && time.width < 192 && time.start + time.width <= 1024;
        if (!within) break;
        widths[band.width]++;
        starts[i] = ((double)time.start + 0.5) / (1024 - (double)time.width);
        product += ((double)band.width - 23.5) * ((double)time.width - 95.5);
    }
    CHECK(within);
    for (int i = 0; i < LIMIT; i++) CHECK_CLOSE(widths[i], DRAWS / LIMIT, 5 * sqrt(DRAWS / LIMIT));
    CHECK(distance_from(starts, DRAWS, uniform_cdf) < 2);
    CHECK_CLOSE(product / DRAWS, 0, 5 * (48 * 192 / 12.0) / sqrt(DRAWS)); /* one axis does not know the other */
    for (int i = 0; i < 100; i++) {
        cavmae__draw draw = draw_number(i);
        CHECK(cavmae__mask_stretch(LENGTH, 0, 0, &draw).width == 0 && cavmae__mask_stretch(9, 1, 1, &draw).width == 0);
        cavmae__stretch all = cavmae__mask_stretch(5, 1000, 1, &draw);
        CHECK(all.start >= 0 && all.start + all.width <= 5);
    }
}

static void test_masks(void) {
    enum { T = 20, F = 12 };
    int masked = 0, right = 1;
    for (int i = 0; i < 200; i++) {
        float x[T * F];
        cavmae__draw draw = draw_number(i);
        cavmae__stretch band = cavmae__mask_stretch(F, 6, 0, &draw), time = cavmae__mask_stretch(T, 9, 1, &draw);
        for (int j = 0; j < T * F; j++) x[j] = (float)j;
        cavmae__augment_masks(x, T, F, 6, 9, -5, &draw);
        for (int j = 0; j < T * F; j++) {
            int t = j / F, f = j % F;
            int in =
                (f >= band.start && f < band.start + band.width) || (t >= time.start && t < time.start + time.width);
            right &= x[j] == (in ? -5.0f : (float)j);
            masked += in;
        }
    }
    CHECK(right);
    CHECK_CLOSE(masked / 200.0, T * F * (2.5 / F + 4.0 / T - 2.5 / F * 4.0 / T), 12);
}

/* ---- Mixup ---- */

static double arcsine_cdf(double x) { return 2 / M_PI * asin(sqrt(x)); } /* Beta(1/2, 1/2) */
static double beta2_cdf(double x) { return x * x * (3 - 2 * x); }

/* Beta(10, 10): the probability of 10 or more successes out of 19. */
static double beta10_cdf(double x) {
    double sum = 0, choose = 92378;
    for (int k = 10; k <= 19; k++) {
        sum += choose * pow(x, k) * pow(1 - x, 19 - k);
        choose = choose * (19 - k) / (k + 1);
    }
    return sum;
}

static void test_lambda(void) {
    enum { DRAWS = 20000 };
    static const struct {
        double alpha;
        double (*cdf)(double);
    } cases[] = {{10, beta10_cdf}, {0.5, arcsine_cdf}, {1, uniform_cdf}, {2, beta2_cdf}, {0.001, NULL}, {1e6, NULL}};
    static double x[DRAWS];
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        double alpha = cases[c].alpha, variance = 1 / (4 * (2 * alpha + 1)), sum = 0, squares = 0;
        int within = 1;
        for (int i = 0; i < DRAWS; i++) {
            cavmae__draw draw = draw_number(i);
            x[i] = cavmae__mixup_draw(1, alpha, 3, &draw).lambda;
            within &= x[i] >= 0 && x[i] <= 1;
            sum += x[i] - 0.5;
            squares += (x[i] - 0.5) * (x[i] - 0.5);
        }
        CHECK(within);
        CHECK_CLOSE(sum / DRAWS, 0, 5 * sqrt(variance / DRAWS));
        CHECK_CLOSE(squares / DRAWS, variance, 5 * variance * sqrt(2.0 / DRAWS)); /* kurtosis is at most 3 */
        if (cases[c].cdf) CHECK(distance_from(x, DRAWS, cases[c].cdf) < 2);
    }
}

static void test_partner(void) {
    enum { DRAWS = 21000, ENTRIES = 7 };
    int seen[ENTRIES] = {0}, mixed = 0, never = 0, always = 0;
    for (int i = 0; i < DRAWS; i++) {
        cavmae__draw draw = draw_number(i);
        cavmae__mixup m = cavmae__mixup_draw(0.3, 10, ENTRIES, &draw),
                      same = cavmae__mixup_draw(0.3, 10, ENTRIES, &draw);
        never += cavmae__mixup_draw(0, 10, ENTRIES, &draw).partner < 0;
        always += cavmae__mixup_draw(1, 10, ENTRIES, &draw).partner >= 0;
        if (!CHECK(m.partner >= -1 && m.partner < ENTRIES && m.partner == same.partner && m.lambda == same.lambda))
            return;
        if (m.partner < 0) continue;
        seen[m.partner]++;
        mixed++;
    }
    CHECK(never == DRAWS && always == DRAWS);
    CHECK_CLOSE(mixed, 0.3 * DRAWS, 5 * sqrt(0.3 * 0.7 * DRAWS));
    for (int i = 0; i < ENTRIES; i++) CHECK_CLOSE(seen[i], mixed / ENTRIES, 5 * sqrt((double)mixed / ENTRIES));
    cavmae__draw here = {7, 2, 5}, seed = {8, 2, 5}, epoch = {7, 3, 5}, number = {7, 2, 6};
    double lambda = cavmae__mixup_draw(1, 10, 7, &here).lambda;
    CHECK(cavmae__mixup_draw(1, 10, 7, &seed).lambda != lambda &&
          cavmae__mixup_draw(1, 10, 7, &epoch).lambda != lambda &&
          cavmae__mixup_draw(1, 10, 7, &number).lambda != lambda);
}

static void test_mix(void) {
    float own[] = {1, 2, 6}, longer[] = {5, 1, 1, 1}, shorter[] = {4, 8}, x[] = {1, 0}, y[] = {0, 0.5f};
    cavmae__mix_waveforms(own, 3, longer, 4, 0.75); /* means 3, 2 */
    static const float with_longer[] = {-0.75f, -1, 2};
    for (int i = 0; i < 3; i++) CHECK_CLOSE((double)own[i], (double)with_longer[i], 1e-6);
    float again[] = {1, 2, 6};
    cavmae__mix_waveforms(again, 3, shorter, 2, 0.75); /* means 3, 6; zeros follow */
    static const float with_shorter[] = {-2, -0.25f, 2.25f};
    for (int i = 0; i < 3; i++) CHECK_CLOSE((double)again[i], (double)with_shorter[i], 1e-6);
    cavmae__mix_values(x, y, 2, 0.25);
    CHECK_CLOSE((double)x[0], 0.25, 1e-6);
    CHECK_CLOSE((double)x[1], 0.375, 1e-6);
}

static void test_smoothing(void) {
    static const float labels[] = {0, 1, 0.25f, 0};
    /* eps / classes = 0.025. */
    static const double mixed[] = {0.025, 0.925, 0.25 * 0.9 + 0.025, 0.025},
                        plain[] = {0.025, 0.9, 0.25 * 0.9 + 0.75 * 0.025, 0.025};
    for (int between = 0; between < 2; between++) {
        float x[4];
        memcpy(x, labels, sizeof x);
        cavmae__smooth_labels(x, 4, 0.1, between);
        for (int i = 0; i < 4; i++) CHECK_CLOSE((double)x[i], between ? plain[i] : mixed[i], 1e-7);
    }
}

/* ---- Orders ---- */

/* All 24 permutations of 4 for the shuffle, all 6 cycles for pairs. */
static void test_orders(void) {
    enum { DRAWS = 24000 };
    int shuffled[256] = {0}, paired[256] = {0}, kinds[2] = {0};
    for (int i = 0; i < DRAWS; i++) {
        uint32_t a[4], b[4], again[4];
        cavmae__order_shuffle(a, 4, 5, i);
        cavmae__order_pairs(b, 4, (uint64_t)i);
        cavmae__order_pairs(again, 4, (uint64_t)i);
        CHECK(memcmp(b, again, sizeof b) == 0);
        shuffled[a[0] << 6 | a[1] << 4 | a[2] << 2 | a[3]]++;
        paired[b[0] << 6 | b[1] << 4 | b[2] << 2 | b[3]]++;
        CHECK(b[0] != 0 && b[b[0]] != 0 && b[b[b[0]]] != 0 && b[b[b[b[0]]]] == 0);
    }
    for (int i = 0; i < 256; i++) {
        if (shuffled[i]) CHECK_CLOSE(shuffled[i], DRAWS / 24, 5 * sqrt(DRAWS / 24));
        if (paired[i]) CHECK_CLOSE(paired[i], DRAWS / 6, 5 * sqrt(DRAWS / 6));
        kinds[0] += shuffled[i] > 0;
        kinds[1] += paired[i] > 0;
    }
    CHECK(kinds[0] == 24 && kinds[1] == 6);
}

/* ---- Balance ---- */

static char directory[] = "/tmp/cavmae-augment-XXXXXX";

static const char *write_file(const char *name, const char *text) {
    static char paths[2][64];
    char *path = paths[*name == 'l'];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    FILE *file = fopen(path, "w");
    if (!file || fputs(text, file) < 0 || fclose(file) != 0) exit(2);
    return path;
}

typedef struct data_set {
    cavmae_context *context;
    cavmae__labels *labels;
    cavmae__manifest *manifest;
} data_set;

static data_set open_data(const char *manifest) {
    data_set d = {0};
    CHECK_OK(cavmae_context_create(NULL, &d.context));
    CHECK_OK(cavmae__labels_open(d.context,
                                 write_file("labels.csv", "index,mid,display_name\n0,/m/0,a\n1,/m/1,b\n2,/m/2,c\n"
                                                          "3,/m/3,d\n4,/m/4,e\n"),
                                 &d.labels));
    CHECK_OK(cavmae__manifest_open(d.context, write_file("manifest.json", manifest), d.labels, 1, &d.manifest));
    return d;
}

static void close_data(data_set *d) {
    cavmae__manifest_free(d->manifest);
    cavmae__labels_free(d->labels);
    cavmae_context_free(d->context);
}

/* Entry i of 60: class a always; b every second, c every tenth, and d once; every sixth has none at all; e is never
 * there. Half the labels of entry 7 are worth 0.25. */
static uint32_t classes_of(int i) {
    if (i % 6 == 1 && i != 7) return 0;
    return 1u | (i % 2 ? 2u : 0) | (i % 10 == 7 ? 4u : 0) | (i == 44 ? 8u : 0);
}

static double label_weight(int i, int class) {
    if (!(classes_of(i) >> class & 1)) return 0;
    return i == 7 && class != 1 ? 0.25 : 1;
}

static void write_entries(char *text, size_t size) {
    size_t length = (size_t)snprintf(text, size, "{\"data\": [");
    for (int i = 0; i < 60; i++) {
        length += (size_t)snprintf(text + length, size - length,
                                   "%s{\"video_id\": \"v\", \"wav\": \"w\", \"labels\": ", i ? "," : "");
        if (i == 7)
            length += (size_t)snprintf(text + length, size - length, "{\"a\": 0.25, \"/m/1\": 1, \"2\": 2.5e-1}}");
        else
            length += (size_t)snprintf(text + length, size - length, "\"%s%s%s%s\"}", classes_of(i) & 1 ? "/m/0" : "",
                                       classes_of(i) & 2 ? ",/m/1" : "", classes_of(i) & 4 ? ",/m/2" : "",
                                       classes_of(i) & 8 ? ",/m/3" : "");
    }
    snprintf(text + length, size - length, "]}");
}

static void test_balance(void) {
    enum { N = 60, EPOCHS = 4000 };
    static char text[8192];
    double counts[4] = {0}, weights[N], total = 0;
    int seen[N] = {0};
    uint32_t order[N], again[N], moved = 0;
    write_entries(text, sizeof text);
    data_set d = open_data(text);
    cavmae__balance *balance = NULL;
    CHECK_OK(cavmae__balance_create(d.context, d.manifest, d.labels, &balance));
    for (int i = 0; i < N; i++)
        for (int c = 0; c < 4; c++) counts[c] += label_weight(i, c);
    for (int i = 0; i < N; i++) {
        weights[i] = 0;
        for (int c = 0; c < 4; c++) weights[i] += label_weight(i, c) * 1000 / (counts[c] + 0.01);
        total += weights[i];
    }
    for (int epoch = 0; epoch < EPOCHS; epoch++) {
        cavmae__balance_order(balance, order, 3, epoch);
        for (int i = 0; i < N; i++) seen[order[i]]++;
    }
    for (int i = 0; i < N; i++) {
        double expected = weights[i] / total * N * EPOCHS;
        if (weights[i] == 0)
            CHECK(seen[i] == 0);
        else
            CHECK_CLOSE(seen[i], expected, 5 * sqrt(expected));
    }
    CHECK(weights[44] > 0.2 * total && weights[1] == 0); /* one entry of a fifth of all, others of nothing */
    cavmae__balance_order(balance, again, 3, EPOCHS - 1);
    CHECK(memcmp(order, again, sizeof order) == 0);
    cavmae__balance_order(balance, again, 4, EPOCHS - 1);
    for (int i = 0; i < N; i++) moved += order[i] != again[i];
    CHECK(moved > 0);
    cavmae__balance_free(balance);
    cavmae__balance_free(NULL);
    close_data(&d);
}

static void test_balance_corners(void) {
    cavmae__balance *balance = NULL;
    uint32_t order[3];
    data_set d = open_data("{\"data\": [{\"video_id\": \"v\", \"wav\": \"w\"}, {\"video_id\": \"v\", \"wav\": \"w\", "
                           "\"labels\": {\"a\": 0}}]}");
    CHECK_STATUS(cavmae__balance_create(d.context, d.manifest, d.labels, &balance), CAVMAE_E_ARG);
    CHECK(!balance && strstr(cavmae_last_error(), "no entry of the manifest has a label"));
    close_data(&d);

    /* All alike: the table's every cell is one entry's. */
    d = open_data(
        "{\"data\": [{\"video_id\": \"v\", \"wav\": \"w\", \"labels\": \"a\"}, {\"video_id\": \"v\", \"wav\": "
        "\"w\", \"labels\": \"b\"}, {\"video_id\": \"v\", \"wav\": \"w\", \"labels\": \"c\"}]}");
    int seen[3] = {0};
    CHECK_OK(cavmae__balance_create(d.context, d.manifest, d.labels, &balance));
    for (int epoch = 0; epoch < 3000; epoch++) {
        cavmae__balance_order(balance, order, 1, epoch);
        for (int i = 0; i < 3; i++) seen[order[i]]++;
    }
    for (int i = 0; i < 3; i++) CHECK_CLOSE(seen[i], 3000, 5 * sqrt(3000));
    cavmae__balance_free(balance);
    close_data(&d);
}

int main(void) {
    if (!mkdtemp(directory)) return 2;
    test_noise();
    test_roll();
    test_mask_distribution();
    test_masks();
    test_lambda();
    test_partner();
    test_mix();
    test_smoothing();
    test_orders();
    test_balance();
    test_balance_corners();
    char remove[64];
    snprintf(remove, sizeof remove, "rm -r %s", directory);
    CHECK(system(remove) == 0);
    return check_summary("augment");
}
