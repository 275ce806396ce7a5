/* lib/data below the loader: labels and manifests. */
#define _GNU_SOURCE
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "manifest.h"

/* ---- Files ---- */

static char directory[] = "/tmp/cavmae-data-XXXXXX";

static const char *in_directory(const char *name) {
    static char paths[64][256];
    static int turn;
    char *path = paths[turn++ % 64];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

static const char *write_file(const char *name, const char *text) {
    const char *path = in_directory(name);
    FILE *file = fopen(path, "w");
    if (!file || fputs(text, file) < 0 || fclose(file) != 0) exit(2);
    return path;
}

static const char *const labels_csv =
    "index,mid,display_name\n0,/m/a,\"Apple, red\"\r\n2,/m/c,\"say \"\"C\"\"\"\n1,\"/m/b\",B";

static cavmae_context *new_context(void) {
    cavmae_context *context = NULL;
    CHECK_OK(cavmae_context_create(NULL, &context));
    return context;
}

/* ---- Labels ---- */

static int32_t parse(const cavmae__labels *labels, const char *list, int32_t out[8]) {
    int32_t count = -1;
    return cavmae__labels_parse(labels, list, out, &count) == CAVMAE_OK ? count : -1;
}

static void test_labels(void) {
    cavmae_context *context = new_context();
    cavmae__labels *labels = NULL;
    int32_t found[8];
    CHECK_OK(cavmae__labels_open(context, write_file("labels.csv", labels_csv), &labels));
    CHECK(cavmae__labels_count(labels) == 3);
    CHECK(strcmp(cavmae__labels_display_name(labels, 0), "Apple, red") == 0);
    CHECK(strcmp(cavmae__labels_display_name(labels, 2), "say \"C\"") == 0);
    CHECK(!cavmae__labels_display_name(labels, 3) && !cavmae__labels_display_name(labels, -1));
    CHECK(cavmae__labels_find(labels, "/m/b", 4) == 1 && cavmae__labels_find(labels, "B", 1) == 1);
    CHECK(cavmae__labels_find(labels, "/m/", 3) == -1 && cavmae__labels_find(labels, "/m/bb", 5) == -1);
    CHECK(cavmae__labels_find(labels, "2", 1) == 2 && cavmae__labels_find(labels, "3", 1) == -1);
    CHECK(parse(labels, "/m/b,/m/c", found) == 2 && found[0] == 1 && found[1] == 2);
    CHECK(parse(labels, "B, Apple, red,0 ,", found) == 3 && found[0] == 1 && found[1] == 0 && found[2] == 0);
    CHECK(parse(labels, "", found) == 0 && parse(labels, ", ,", found) == 0);
    CHECK(parse(labels, "Apple", found) == -1 && strstr(cavmae_last_error(), "'Apple'"));
    cavmae__labels_free(labels);

    static const char *const bad[][2] = {
        {"", "fewer"},
        {"mid,index,display_name\n", "first line"},
        {"index,mid,display_name\n", "0 classes"},
        {"index,mid,display_name\n0,a\n", "line 2 has fewer"},
        {"index,mid,display_name\n0,a,b,c\n", "line 2 has more"},
        {"index,mid,display_name\n0,a,\"b\n", "line 2: a quote"},
        {"index,mid,display_name\n0,a,\"b\"c\n", "line 2: text after"},
        {"index,mid,display_name\n1,a,b\n", "line 2: index '1'"},
        {"index,mid,display_name\nx,a,b\n", "line 2: index 'x'"},
        {"index,mid,display_name\n0,a,b\n0,c,d\n", "line 3: index 0 was"},
        {"index,mid,display_name\n0,a,b\n1,b,d\n", "'b' names both"},
        {"index,mid,display_name\n0,,b\n", "line 2: a name is empty"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_STATUS(cavmae__labels_open(context, write_file("bad.csv", bad[i][0]), &labels), CAVMAE_E_FORMAT);
        if (!CHECK(strstr(cavmae_last_error(), bad[i][1]))) printf("  case %zu: %s\n", i, cavmae_last_error());
    }
    CHECK_STATUS(cavmae__labels_open(context, in_directory("none.csv"), &labels), CAVMAE_E_IO);
    cavmae_context_free(context);
}

/* ---- Manifest ---- */

static void test_manifest(void) {
    cavmae_context *context = new_context();
    cavmae__manifest *manifest = NULL;
    cavmae__item item = {0};
    const char *path = write_file(
        "good.json",
        "{\"version\": [1, {}], \"data\": [{\"wav\": \"\\/a\\u00e4.wav\", \"x\": null, \"video_id\": \"v\","
        "\"video_path\": \"p\", \"labels\": \"anything\"}\n,{\"video\": \"sub/v.mp4\", \"video_id\": \"\"}]}");
    CHECK_OK(cavmae__manifest_open(context, path, NULL, 1, &manifest));
    CHECK(cavmae__manifest_count(manifest) == 2);
    CHECK_OK(cavmae__manifest_item(manifest, 0, &item));
    CHECK(strcmp(item.id, "v") == 0 && strcmp(item.audio, "/a\xc3\xa4.wav") == 0 && item.label_count == 0);
    CHECK(strcmp(item.frames, in_directory("p")) == 0 && strcmp(item.video, item.audio) == 0);
    CHECK(strcmp(cavmae__item_frame(&item, 12), in_directory("p/frame_12/v.jpg")) == 0);
    CHECK_OK(cavmae__manifest_item(manifest, 1, &item));
    CHECK(!item.frames && strcmp(item.video, in_directory("sub/v.mp4")) == 0 && strcmp(item.audio, item.video) == 0);
    CHECK(truncate(path, 40) == 0);
    CHECK_STATUS(cavmae__manifest_item(manifest, 1, &item), CAVMAE_E_IO);
    CHECK(strstr(cavmae_last_error(), "cut short"));
    cavmae__item_free(manifest, &item);
    cavmae__manifest_free(manifest);

    static const char *const bad[][2] = {
        {"", "empty file"},
        {"[]", "object"},
        {"{}", "no entries"},
        {"{\"data\": []}", "no entries"},
        {"{\"data\": {}}", "array"},
        {"{\"data\": [{\"wav\": \"a\", \"video_id\": \"b\"}], \"data\": []}", "'data' is given twice"},
        {"{\"data\": [{\"wav\": \"a\", \"video_id\": \"b\"}]} x", "follows"},
        {"{\"data\": [{\"wav\": \"a\", \"video_id\": \"b\"}, {\"wav\": \"a\"}]}", "entry 1: 'video_id' is missing"},
        {"{\"data\": [{\"video_id\": \"b\"}]}", "entry 0 (b): 'wav' is missing"},
        {"{\"data\": [{\"video_id\": \"b\", \"video_path\": \"c\"}]}", "entry 0 (b): 'wav' is missing"},
        {"{\"data\": [{\"video_id\": \"b\", \"video_id\": \"c\"}]}", "entry 0 (b): 'video_id' is given twice"},
        {"{\"data\": [{\"video_id\": 5}]}", "entry 0: "},
        {"{\"data\": [{\"wav\": \"a\", \"video_id\": \"b\"}, 7]}", "entry 1: "},
        {"{\"data\": [{\"wav\": \"a\", \"video_id\": \"b\"", "entry 0 (b): "},
        {"{\"data\": [{\"wav\": \"a\", \"video_id\": \"b\", \"labels\": \"B,D\"}]}", "entry 0 (b): label 'D'"},
    };
    cavmae__labels *labels = NULL;
    CHECK_OK(cavmae__labels_open(context, write_file("labels.csv", labels_csv), &labels));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_STATUS(cavmae__manifest_open(context, write_file("bad.json", bad[i][0]), labels, 1, &manifest),
                     CAVMAE_E_FORMAT);
        if (!CHECK(strstr(cavmae_last_error(), bad[i][1]) && strstr(cavmae_last_error(), "bad.json: ")))
            printf("  case %zu: %s\n", i, cavmae_last_error());
    }
    cavmae__labels_free(labels);
    /* A model without sound. */
    CHECK_OK(cavmae__manifest_open(context, write_file("silent.json", bad[9][0]), NULL, 0, &manifest));
    cavmae__manifest_free(manifest);
    CHECK_STATUS(cavmae__manifest_open(context, write_file("bad.json", "{\"data\": [{\"video_id\": \"b\"}]}"), NULL, 0,
                                       &manifest),
                 CAVMAE_E_FORMAT);
    CHECK(strstr(cavmae_last_error(), "'video_path' is missing"));
    CHECK_STATUS(cavmae__manifest_open(context, directory, NULL, 1, &manifest), CAVMAE_E_FORMAT); /* no media in it */
    CHECK_STATUS(cavmae__manifest_open(context, in_directory("none.json"), NULL, 1, &manifest), CAVMAE_E_IO);
    cavmae_context_free(context);
}

int main(void) {
    if (!mkdtemp(directory)) return 2;
    test_labels();
    test_manifest();
    char remove[64];
    snprintf(remove, sizeof remove, "rm -r %s", directory);
    CHECK(system(remove) == 0);
    return check_summary("data");
}
