/* cavmae-scenes: a synthetic data set of things that look and sound, for trying libcavmae without any download.
 *
 * A clip shows one to four things of one kind that drift over a background; you hear them beat. What is seen tells what
 * is heard, and a model can learn it:
 *
 *     kind         circle, square, triangle, star, cross: sine, square wave, sawtooth, bell, hiss around a pitch
 *     size         continuous: the bigger, the lower
 *     count        1.5 beats a second for each thing
 *     background   black, white, pink, brown: none, or noise of that colour
 *
 * Place, hue, tilt, drift and the first beat's time are free: one cannot be told from the other. The clips for
 * validation have combinations of kind, size (four levels), count and background that no training clip has: those
 * whose hash is a multiple of 5, whatever the seed. Everything follows from the seed.
 *
 * Writes OUT/train.json, OUT/val.json, OUT/labels.csv, OUT/boxes.csv (where the things are in the middle frame),
 * OUT/audio/ID.wav and OUT/frames/frame_0..9/ID.jpg. */
#define _GNU_SOURCE /* M_PI */
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clip_store.h"
#include "program.h"

enum { KINDS = 5, SIZES = 4, COUNTS = 4, BACKGROUNDS = 4, FRAMES = STORE_FRAMES, RATE = STORE_RATE, QUALITY = 90 };
enum { CIRCLE, SQUARE, TRIANGLE, STAR, CROSS };
enum { BLACK, WHITE, PINK, BROWN };

static const char *const kind_labels[KINDS][2] = {{"circle", "Circle, sine"},
                                                  {"square", "Square, square wave"},
                                                  {"triangle", "Triangle, sawtooth"},
                                                  {"star", "Star, bell"},
                                                  {"cross", "Cross, hiss"}};
static const char *const size_labels[SIZES][2] = {
    {"tiny", "Tiny, very high"}, {"small", "Small, high"}, {"large", "Large, low"}, {"huge", "Huge, very low"}};
static const char *const count_labels[COUNTS][2] = {
    {"one", "One, slow"}, {"two", "Two, moderate"}, {"three", "Three, fast"}, {"four", "Four, very fast"}};
static const char *const background_labels[BACKGROUNDS][2] = {
    {"black", "Black, no noise"}, {"white", "White noise"}, {"pink", "Pink noise"}, {"brown", "Brown noise"}};
static const unsigned char background_colours[BACKGROUNDS][3] = {
    {16, 16, 20}, {240, 240, 236}, {240, 160, 184}, {104, 72, 44}};

static const double smallest = 0.08, biggest = 0.19; /* radius; the picture's side is 1 */
static const double lowest = 180, highest = 900;     /* Hz */

typedef struct settings {
    const char *out;
    int32_t clips, validation, seed, size;
    double seconds;
} settings;

typedef struct scene {
    int kind, count, background;
    double size; /* [0, 1): smallest to biggest */
    double x[COUNTS], y[COUNTS], drift_x[COUNTS], drift_y[COUNTS], angle[COUNTS], spin[COUNTS];
    unsigned char colour[3];
} scene;

/* ---- Random numbers: SplitMix64 (Steele, Lea and Flood, 2014) ---- */

static uint64_t random_bits(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static double uniform(uint64_t *state, double low, double high) {
    return low + (high - low) * (double)(random_bits(state) >> 11) * 0x1p-53;
}

static int below(uint64_t *state, int limit) { return (int)uniform(state, 0, limit); }

/* ---- What a clip shows ---- */

static double radius_of(const scene *s) { return smallest + (biggest - smallest) * s->size; }
static double pitch_of(const scene *s) { return highest * pow(lowest / highest, s->size); }
static int size_level(const scene *s) { return (int)(s->size * SIZES); }

static int held_out(const scene *s) {
    uint64_t combination =
        (uint64_t)(((s->kind * SIZES + size_level(s)) * COUNTS + s->count - 1) * BACKGROUNDS + s->background);
    return random_bits(&combination) % 5 == 0;
}

/* Things that do not touch at first; where there is no such place, closer and closer together. */
static void choose_places(scene *s, uint64_t *state) {
    double radius = radius_of(s);
    double apart = 2.2 * radius;
    for (int i = 0; i < s->count; i++) {
        s->x[i] = uniform(state, radius, 1 - radius);
        s->y[i] = uniform(state, radius, 1 - radius);
        for (int j = 0; j < i; j++) {
            if (hypot(s->x[i] - s->x[j], s->y[i] - s->y[j]) >= apart) continue;
            apart *= 0.995;
            i = -1; /* all again */
            break;
        }
    }
}

/* A bright hue from green to blue, far enough from the background to be seen. */
static void choose_colour(scene *s, uint64_t *state) {
    const unsigned char *background = background_colours[s->background];
    int distance;
    do {
        double hue = uniform(state, 2, 4), value = uniform(state, 0.7, 1);
        distance = 0;
        for (int c = 0; c < 3; c++) {
            double x = fabs(fmod(hue + 2 * c, 6) - 3) - 1; /* red, green, blue a third of the circle apart */
            s->colour[c] = (unsigned char)(255 * value * fmin(fmax(x, 0.1), 1));
            distance += abs(s->colour[c] - background[c]);
        }
    } while (distance < 220);
}

static void choose_scene(scene *s, int validation, uint64_t *state) {
    do {
        s->kind = below(state, KINDS);
        s->size = uniform(state, 0, 1);
        s->count = 1 + below(state, COUNTS);
        s->background = below(state, BACKGROUNDS);
    } while (held_out(s) != validation);
    choose_places(s, state);
    choose_colour(s, state);
    const double upright = s->kind == SQUARE ? -M_PI / 4 : -M_PI / 2; /* where a shape's first corner points */
    for (int i = 0; i < s->count; i++) {
        double direction = uniform(state, 0, 2 * M_PI), speed = uniform(state, 0.03, 0.09); /* sides a second */
        s->drift_x[i] = speed * cos(direction);
        s->drift_y[i] = speed * sin(direction);
        s->angle[i] = upright + uniform(state, -0.2, 0.2);
        s->spin[i] = uniform(state, -0.2, 0.2);
    }
}

/* ---- Pictures ---- */

/* Points at distance 1 of the centre with corners at `inner` between them; cos(pi / points) is a straight side. */
static int star_corners(double (*corners)[2], int points, double inner) {
    for (int i = 0; i < 2 * points; i++) {
        double r = i % 2 ? inner : 1;
        corners[i][0] = r * cos(M_PI * i / points);
        corners[i][1] = r * sin(M_PI * i / points);
    }
    return 2 * points;
}

static int cross_corners(double (*corners)[2]) {
    static const double arm[3][2] = {{0.36, 0.36}, {1, 0.36}, {1, -0.36}}; /* turned by a quarter four times */
    for (int i = 0; i < 12; i++) {
        double x = arm[i % 3][0], y = arm[i % 3][1];
        for (int quarter = i / 3; quarter > 0; quarter--) {
            double kept = x;
            x = y;
            y = -kept;
        }
        corners[i][0] = x;
        corners[i][1] = y;
    }
    return 12;
}

static int unit_corners(int kind, double (*corners)[2]) {
    switch (kind) {
    case SQUARE: return star_corners(corners, 4, cos(M_PI / 4));
    case TRIANGLE: return star_corners(corners, 3, cos(M_PI / 3));
    case STAR: return star_corners(corners, 5, 0.42);
    default: return cross_corners(corners);
    }
}

static void draw_thing(picture *p, const scene *s, int i, double seconds) {
    double x = (s->x[i] + s->drift_x[i] * seconds) * p->width, y = (s->y[i] + s->drift_y[i] * seconds) * p->height;
    double radius = radius_of(s) * p->width, angle = s->angle[i] + s->spin[i] * seconds;
    if (s->kind == CIRCLE) {
        picture_circle(p, x, y, radius, s->colour);
        return;
    }
    double corners[16][2];
    int count = unit_corners(s->kind, corners);
    for (int c = 0; c < count; c++) {
        double cx = corners[c][0], cy = corners[c][1];
        corners[c][0] = x + radius * (cx * cos(angle) - cy * sin(angle));
        corners[c][1] = y + radius * (cx * sin(angle) + cy * cos(angle));
    }
    picture_polygon(p, (const double(*)[2])corners, count, s->colour);
}

static void write_frames(const settings *o, const scene *s, const char *id) {
    picture p;
    if (!picture_create(&p, o->size, o->size)) die("no memory for a picture");
    for (int frame = 0; frame < FRAMES; frame++) {
        picture_fill(&p, background_colours[s->background]);
        for (int i = 0; i < s->count; i++) draw_thing(&p, s, i, o->seconds * frame / FRAMES);
        store_frame(o->out, id, frame, &p, QUALITY);
    }
    picture_free(&p);
}

/* ---- Sound ---- */

/* White noise, and what filters make of it: Kellet's approximation of 1/f, and a leaky sum. */
typedef struct noise {
    uint64_t state;
    double pink[3], brown;
} noise;

static double noise_sample(noise *n, int colour) {
    double white = uniform(&n->state, -1, 1);
    n->pink[0] = 0.99765 * n->pink[0] + white * 0.0990460;
    n->pink[1] = 0.96300 * n->pink[1] + white * 0.2965164;
    n->pink[2] = 0.57000 * n->pink[2] + white * 1.0526913;
    n->brown = 0.995 * n->brown + white * 0.1;
    switch (colour) {
    case WHITE: return 0.05 * white;
    case PINK: return 0.035 * (n->pink[0] + n->pink[1] + n->pink[2] + white * 0.1848);
    case BROWN: return 0.06 * n->brown;
    default: return white / 32768; /* silence as a recording has it */
    }
}

/* A kind's voice at `phase` periods, `age` seconds after the beat. */
static double voice(int kind, double phase, double age) {
    double turn = phase - floor(phase);
    switch (kind) {
    case SQUARE: return turn < 0.5 ? 0.6 : -0.6;
    case TRIANGLE: return 1.6 * turn - 0.8;
    case STAR: return sin(2 * M_PI * phase + 6 * exp(-8 * age) * sin(2 * M_PI * 1.41 * phase));
    default: return sin(2 * M_PI * phase);
    }
}

/* The cross's: white noise through a resonance at the pitch. */
static double hiss(double history[2], double pitch, noise *n) {
    const double pull = 0.985;
    double y = 2 * pull * cos(2 * M_PI * pitch / RATE) * history[0] - pull * pull * history[1] +
               0.06 * uniform(&n->state, -1, 1);
    history[1] = history[0];
    history[0] = y;
    return y / sin(2 * M_PI * pitch / RATE) * 0.5; /* the resonance is stronger the lower it is */
}

static void make_sound(const scene *s, int16_t *pcm, int samples, uint64_t *state) {
    double pitch = pitch_of(s), beat = 1 / (1.5 * s->count), history[2] = {0, 0};
    double first = uniform(state, 0, beat);
    noise n = {.state = random_bits(state)};
    for (int i = 0; i < samples; i++) {
        double seconds = (double)i / RATE, age = fmod(seconds + first, beat);
        double envelope = fmin(age / 0.006, 1) * exp(-age / 0.11);
        double tone = s->kind == CROSS ? hiss(history, pitch, &n) : voice(s->kind, pitch * seconds, age);
        double x = 0.5 * envelope * tone + noise_sample(&n, s->background);
        pcm[i] = (int16_t)lround(32767 * fmin(fmax(x, -1), 1));
    }
}

static void write_sound(const settings *o, const scene *s, const char *id, uint64_t *state) {
    int samples = (int)lround(o->seconds * RATE);
    int16_t *pcm = allocate((size_t)samples, sizeof *pcm);
    make_sound(s, pcm, samples, state);
    store_sound(o->out, id, pcm, samples);
    free(pcm);
}

/* ---- The data set ---- */

static FILE *open_in(const settings *o, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", o->out, name);
    FILE *file = fopen(path, "w");
    if (!file) die("cannot write %s: %s", path, strerror(errno));
    return file;
}

static void close_file(FILE *file, const char *name) {
    int broken = ferror(file);
    if (fclose(file) != 0 || broken) die("cannot write %s: %s", name, strerror(errno));
}

static void write_labels(const settings *o) {
    static const struct {
        const char *const (*names)[2];
        int count;
    } groups[] = {{kind_labels, KINDS}, {size_labels, SIZES}, {count_labels, COUNTS}, {background_labels, BACKGROUNDS}};
    FILE *file = open_in(o, "labels.csv");
    int index = 0;
    fprintf(file, "index,mid,display_name\n");
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
        for (int i = 0; i < groups[g].count; i++, index++)
            fprintf(file, "%d,%s,\"%s\"\n", index, groups[g].names[i][0], groups[g].names[i][1]);
    close_file(file, "labels.csv");
}

/* The squares around the things' circles, as far as they are in the picture. */
static void write_boxes(FILE *file, const settings *o, const scene *s, const char *id) {
    double seconds = o->seconds * (FRAMES / 2) / FRAMES, radius = radius_of(s);
    for (int i = 0; i < s->count; i++) {
        double at[2] = {s->x[i] + s->drift_x[i] * seconds, s->y[i] + s->drift_y[i] * seconds};
        if (fmax(at[0], at[1]) - radius >= 1 || fmin(at[0], at[1]) + radius <= 0) continue;
        fprintf(file, "%s", id);
        for (int corner = 0; corner < 4; corner++)
            fprintf(file, ",%.1f", o->size * fmin(fmax(at[corner % 2] + (corner < 2 ? -radius : radius), 0), 1));
        fprintf(file, "\n");
    }
}

/* Clips [begin, end), each from its own random numbers: the same whatever the others are. */
static void write_clips(const settings *o, const char *name, FILE *boxes, int begin, int end, int validation) {
    char path[4096], labels[256];
    snprintf(path, sizeof path, "%s/%s", o->out, name);
    FILE *file = open_manifest(path);
    for (int clip = begin; clip < end; clip++) {
        uint64_t state = (uint64_t)o->seed * 1000003 + (uint64_t)clip;
        scene s;
        char id[32];
        state = random_bits(&state);
        choose_scene(&s, validation, &state);
        snprintf(id, sizeof id, "scene%06d", clip);
        write_frames(o, &s, id);
        write_sound(o, &s, id, &state);
        write_boxes(boxes, o, &s, id);
        snprintf(labels, sizeof labels, "%s,%s,%s,%s", kind_labels[s.kind][0], size_labels[size_level(&s)][0],
                 count_labels[s.count - 1][0], background_labels[s.background][0]);
        add_to_manifest(file, clip == begin, id, labels);
    }
    close_manifest(file, path);
}

static double read_real(const char *name, const char *text) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end) die("%s: %s is not a number", name, text);
    return value;
}

static void read_settings(int argc, char **argv, settings *o) {
    const char *validation = "0.2", *seconds = "1.3";
    const option options[] = {
        {.name = "--out", .value = "DIR", .help = "where to write the data set", .text = &o->out},
        {.name = "--clips", .value = "N", .help = "clips in all (500)", .number = &o->clips},
        {.name = "--val",
         .value = "V",
         .help = "clips for validation: below 1 their share, else their number (0.2)",
         .text = &validation},
        {.name = "--seed", .value = "N", .help = "another seed, other clips (0)", .number = &o->seed},
        {.name = "--seconds", .value = "S", .help = "length of a clip (1.3)", .text = &seconds},
        {.name = "--size", .value = "N", .help = "width and height of the frames in pixels (96)", .number = &o->size},
        {0}};
    read_options(argc, argv, "writes a data set of shapes that sound", options);
    if (!o->out) die("--out is missing");
    if (o->clips < 1 || o->clips > 1000000) die("--clips: %d is not 1 to 1000000", (int)o->clips);
    double share = read_real("--val", validation);
    if (!(share >= 0 && share <= o->clips)) die("--val: %s of %d clips", validation, (int)o->clips);
    o->validation = (int32_t)lround(share < 1 ? share * o->clips : share);
    o->seconds = read_real("--seconds", seconds);
    if (!(o->seconds >= 0.1 && o->seconds <= 3600)) die("--seconds: %s is not 0.1 to 3600", seconds);
    if (o->size < 16 || o->size > 4096) die("--size: %d is not 16 to 4096", (int)o->size);
}

int main(int argc, char **argv) {
    settings o = {.clips = 500, .size = 96};
    read_settings(argc, argv, &o);
    int training = o.clips - o.validation;
    make_store(o.out);
    write_labels(&o);
    FILE *boxes = open_in(&o, "boxes.csv");
    fprintf(boxes, "video_id,x0,y0,x1,y1\n");
    write_clips(&o, "train.json", boxes, 0, training, 0);
    write_clips(&o, "val.json", boxes, training, o.clips, 1);
    close_file(boxes, "boxes.csv");
    printf("%s: %d clips to train on, %d of other combinations to validate\n", o.out, training, (int)o.validation);
    return 0;
}
