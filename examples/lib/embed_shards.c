/* A shard that is there says in its metadata what it is: of which model, which clips, which sizes. One that says the same
 * as this run would is left as it is, so a restart goes on where a run ended. Ranks do not speak with one another: which
 * shards are whose follows from their numbers alone, and one that is behind, or gone, holds up nobody. */
#define _GNU_SOURCE
#include "embed_shards.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_SIZE = 4096, NAME_SIZE = 64 };

static const char METADATA[] = "cavmae.shard";

typedef struct maker {
    cavmae_context *context;
    cavmae_model *model;
    const corpus *corpus;
    const shard_folder *folder;
    output output;  /* with room for a shard */
    int64_t shards; /* in all */
    int64_t at;     /* the clip that the loader gives next; -1: not known */
    uint64_t model_hash;
} maker;

typedef struct shard {
    char name[NAME_SIZE], path[PATH_SIZE];
    char what[256]; /* that the metadata says */
    int64_t first, count;
} shard;

/* ---- What a shard is ---- */

static uint64_t mix(uint64_t sum, uint64_t word) {
    sum = (sum ^ word) * 0x9E3779B97F4A7C15u;
    return sum ^ sum >> 29;
}

static uint64_t mix_bytes(uint64_t sum, const void *data, size_t size) {
    const unsigned char *bytes = data;
    sum = mix(sum, size);
    for (size_t i = 0; i < size; i += sizeof(uint64_t)) {
        uint64_t word = 0;
        memcpy(&word, bytes + i, size - i < sizeof word ? size - i : sizeof word);
        sum = mix(sum, word);
    }
    return sum;
}

/* Of all parameters, and of the configuration that embeddings depend on. */
static uint64_t hash_model(cavmae_model *model) {
    uint64_t sum = 0;
    cavmae_config *config;
    cavmae_key_info key = {.struct_size = sizeof key};
    check(cavmae_model_config(model, &config));
    for (int32_t i = 0; cavmae_config_key_info(i, &key) == CAVMAE_OK && key.key < CAVMAE_P_MAE_WEIGHT; i++) {
        const char *value;
        check(cavmae_config_get_str(config, key.key, &value));
        sum = mix_bytes(mix_bytes(sum, key.name, strlen(key.name)), value, strlen(value));
    }
    cavmae_config_free(config);
    for (int64_t i = 0; i < cavmae_model_parameter_count(model); i++) {
        cavmae_tensor *values;
        check(cavmae_model_parameter(model, cavmae_model_parameter_name(model, i), &values));
        sum = mix_bytes(sum, cavmae_tensor_data(values), (size_t)cavmae_tensor_elements(values) * sizeof(float));
        cavmae_tensor_free(values);
    }
    return sum;
}

static const char *clip_name(const corpus *c, int64_t clip) {
    cavmae_loader_item item = {.struct_size = sizeof item};
    if (!c->loader) return c->files->word[clip];
    check(cavmae_loader_item_at(c->loader, clip, &item));
    return item.id ? item.id : "";
}

static shard shard_at(const maker *m, int64_t number) {
    shard s = {.first = number * m->folder->clips};
    int64_t left = m->corpus->count - s.first;
    s.count = left < m->folder->clips ? left : m->folder->clips;
    snprintf(s.name, sizeof s.name, "shard-%05lld-of-%05lld.safetensors", (long long)number, (long long)m->shards);
    if (snprintf(s.path, sizeof s.path, "%s/%s", m->folder->path, s.name) >= PATH_SIZE)
        die("%s is too long", m->folder->path);
    return s;
}

static void describe(const maker *m, shard *s) {
    uint64_t names = 0;
    for (int64_t i = s->first; i < s->first + s->count; i++) {
        const char *name = clip_name(m->corpus, i);
        names = mix_bytes(names, name, strlen(name));
    }
    snprintf(s->what, sizeof s->what,
             "model %016llx, %s of %lld rows of %lld, clips from %lld, %lld of %lld, named %016llx",
             (unsigned long long)m->model_hash, m->folder->kind, (long long)m->output.rows, (long long)m->output.dim,
             (long long)s->first, (long long)s->count, (long long)m->corpus->count, (unsigned long long)names);
}

/* Whether the shard is there, whole. One that is there and is something else ends the program. */
static int32_t is_there(const maker *m, shard *s) {
    cavmae_safetensors *file;
    describe(m, s);
    if (access(s->path, F_OK) != 0) return 0;
    if (cavmae_safetensors_open(m->context, s->path, &file) != CAVMAE_OK) {
        warn("%s; it is made anew", cavmae_last_error());
        return 0;
    }
    const char *what = cavmae_safetensors_metadata(file, METADATA);
    if (!what || strcmp(what, s->what) != 0)
        die("%s is another run's: it has \"%s\", not \"%s\"; give another folder", s->path,
            what ? what : "no such text", s->what);
    cavmae_safetensors_free(file);
    return 1;
}

/* ---- Making shards ---- */

static clip_list embed_clips(maker *m, const shard *s) {
    clip_list clips = {0};
    if (!m->corpus->loader) {
        for (; clips.count < s->count; clips.count++) {
            cavmae_embedding embedding = {.struct_size = sizeof embedding, .frames = m->corpus->frames};
            request(&embedding, &m->output, clips.count);
            check(cavmae_embed_file(m->model, clip_name(m->corpus, s->first + clips.count), &embedding));
        }
        return clips;
    }
    clips = new_clips(m->corpus->loader, s->count);
    if (m->at != s->first) check(cavmae_loader_seek(m->corpus->loader, s->first));
    while (clips.count < s->count) {
        int64_t before = clips.count;
        int32_t taken = embed_next(m->model, m->corpus->loader, &m->output, 1, s->count, &clips);
        if (!taken) die("clip %lld is missing", (long long)(s->first + clips.count));
        m->at = before + taken == clips.count ? s->first + clips.count : -1;
    }
    return clips;
}

static void make_shard(maker *m, const shard *s) {
    clip_list clips = embed_clips(m, s);
    save_clips(m->context, s->path, m->folder->kind, &m->output, &clips, METADATA, s->what);
    free_clips(&clips);
}

/* ---- The manifest ---- */

static int32_t all_there(const maker *m) {
    for (int64_t i = 0; i < m->shards; i++) { /* the names first, which costs little */
        shard s = shard_at(m, i);
        if (access(s.path, F_OK) != 0) return 0;
    }
    for (int64_t i = 0; i < m->shards; i++) {
        shard s = shard_at(m, i);
        if (!is_there(m, &s)) return 0;
    }
    return 1;
}

/* To be freed. */
static char *manifest_text(const maker *m) {
    char *text = NULL;
    size_t size;
    FILE *to = open_memstream(&text, &size);
    if (!to) die("no memory");
    fprintf(to, "{\"cavmae.shards\": 1, \"model\": \"%016llx\", \"kind\": \"%s\", \"dim\": %lld, \"clips\": %lld, ",
            (unsigned long long)m->model_hash, m->folder->kind, (long long)m->output.dim, (long long)m->corpus->count);
    fprintf(to, "\"shards\": [");
    for (int64_t i = 0; i < m->shards; i++) {
        shard s = shard_at(m, i);
        fprintf(to, "%s\n{\"file\": \"%s\", \"first\": %lld, \"count\": %lld}", i ? "," : "", s.name,
                (long long)s.first, (long long)s.count);
    }
    fprintf(to, "]}\n");
    if (fclose(to) != 0) die("no memory");
    return text;
}

/* Where a manifest is there, it is this run's. */
static void check_manifest(const char *path, const char *text) {
    size_t length = strlen(text);
    FILE *from = fopen(path, "r");
    if (!from) return;
    char *found = allocate(length + 1, 1);
    size_t read = fread(found, 1, length + 1, from);
    fclose(from);
    if (read != length || memcmp(found, text, length) != 0) die("%s is another run's; give another folder", path);
    free(found);
}

/* Two ranks may both be the last; they write the same. */
static void write_manifest(const maker *m, const char *path, const char *text) {
    char temporary[PATH_SIZE + 32];
    snprintf(temporary, sizeof temporary, "%s.%d-%ld.tmp", path, (int)m->folder->rank, (long)getpid());
    FILE *to = fopen(temporary, "w");
    if (!to) die("cannot write %s: %s", temporary, strerror(errno));
    int failed = fputs(text, to) < 0 || fflush(to) != 0 || fsync(fileno(to)) != 0;
    failed |= fclose(to) != 0;
    if (failed || rename(temporary, path) != 0) {
        int reason = errno;
        unlink(temporary);
        die("cannot write %s: %s", path, strerror(reason));
    }
    printf("%s: %lld clips in %lld shards\n", path, (long long)m->corpus->count, (long long)m->shards);
}

void embed_shards(cavmae_context *context, cavmae_model *model, const corpus *c, const output *one,
                  const shard_folder *folder) {
    maker m = {.context = context, .model = model, .corpus = c, .folder = folder, .output = *one, .at = -1};
    int64_t most = c->count < folder->clips ? c->count : folder->clips;
    if (mkdir(folder->path, 0777) != 0 && errno != EEXIST)
        die("cannot make the directory %s: %s", folder->path, strerror(errno));
    m.shards = (c->count + folder->clips - 1) / folder->clips;
    m.output.values = allocate((size_t)(most * one->rows * one->dim), sizeof *m.output.values);
    m.model_hash = hash_model(model);
    char path[PATH_SIZE], *manifest = manifest_text(&m);
    snprintf(path, sizeof path, "%s/manifest.json", folder->path);
    check_manifest(path, manifest);
    int64_t end = m.shards * (folder->rank + 1) / folder->ranks;
    for (int64_t i = m.shards * folder->rank / folder->ranks; i < end; i++) {
        shard s = shard_at(&m, i);
        if (is_there(&m, &s))
            printf("%s: %lld clips, there already\n", s.path, (long long)s.count);
        else
            make_shard(&m, &s);
        fflush(stdout);
    }
    free(m.output.values);
    if (all_there(&m)) write_manifest(&m, path, manifest);
    free(manifest);
}
