#include "labels.h"

#include <string.h>

#include "mapped_file.h"

/* A batch holds a row of classes for each clip: more than this many are a file of another kind. */
enum { MAX_CLASSES = 1 << 20 };

typedef struct label {
    const char *mid, *display_name; /* mid NULL: no line had this index yet */
} label;

struct cavmae__labels {
    cavmae_context *context;
    char *text; /* the file, fields unquoted in place */
    label *classes;
    int32_t count;
    int32_t most_commas; /* in any display name */
    /* Open addressing: a name's place holds 1 + 2 * class, + 1 where it is the display name; 0 is free. */
    uint32_t *table;
    uint32_t table_mask;
};

/* ---- Table ---- */

static uint32_t hash(const char *text, size_t length) { /* FNV-1a */
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < length; i++) h = (h ^ (unsigned char)text[i]) * 16777619u;
    return h;
}

/* The place of a name, or the free one where it would be. */
static uint32_t *place_of(const cavmae__labels *labels, const char *name, size_t length) {
    for (uint32_t i = hash(name, length);; i++) {
        uint32_t *place = &labels->table[i & labels->table_mask];
        if (!*place) return place;
        const label *class = &labels->classes[(*place - 1) / 2];
        const char *text = (*place - 1) & 1 ? class->display_name : class->mid;
        if (strncmp(text, name, length) == 0 && !text[length]) return place;
    }
}

static cavmae_status insert(cavmae__labels *labels, const char *name, int32_t class, int is_display_name,
                            const char *path) {
    uint32_t *place = place_of(labels, name, strlen(name));
    if (*place && (int32_t)((*place - 1) / 2) != class)
        return cavmae__fail(CAVMAE_E_FORMAT, "%s: '%s' names both class %d and class %d", path, name,
                            (int)((*place - 1) / 2), (int)class);
    if (!*place) *place = 1 + 2 * (uint32_t) class + (uint32_t)is_display_name;
    return CAVMAE_OK;
}

static cavmae_status build_table(cavmae__labels *labels, const char *path) {
    uint32_t size = 4; /* a power of two, at most half full with two names for each class */
    while (size < 4 * (uint32_t)labels->count) size *= 2;
    labels->table = cavmae__alloc_zero(labels->context, size * sizeof *labels->table);
    if (!labels->table) return CAVMAE_E_NOMEM;
    labels->table_mask = size - 1;
    for (int32_t i = 0; i < labels->count; i++) {
        const label *class = &labels->classes[i];
        int32_t commas = 0;
        for (const char *at = class->display_name; (at = strchr(at, ',')); at++) commas++;
        if (commas > labels->most_commas) labels->most_commas = commas;
        CAVMAE__TRY(insert(labels, class->mid, i, 0, path));
        CAVMAE__TRY(insert(labels, class->display_name, i, 1, path));
    }
    return CAVMAE_OK;
}

/* ---- CSV ---- */

typedef struct csv {
    char *at;
    const char *path;
    int32_t line;
} csv;

/* Takes one field, unquoted in place and zero-terminated. */
static cavmae_status take_field(csv *file, char **field, int *last) {
    char *in = file->at, *out = in;
    *field = out;
    if (*in == '"') {
        for (in++; *in != '"' || *++in == '"'; in++) { /* a doubled quote stands for one */
            if (!*in)
                return cavmae__fail(CAVMAE_E_FORMAT, "%s: line %d: a quote is not closed", file->path, (int)file->line);
            *out++ = *in;
        }
    } else {
        while (*in && *in != ',' && *in != '\n' && *in != '\r') in++;
        out = in;
    }
    if (*in == '\r') in++;
    char stop = *in;
    if (stop && stop != ',' && stop != '\n')
        return cavmae__fail(CAVMAE_E_FORMAT, "%s: line %d: text after a closing quote", file->path, (int)file->line);
    *out = 0;
    *last = stop != ',';
    file->at = in + (stop != 0);
    return CAVMAE_OK;
}

/* The three fields of one line. */
static cavmae_status take_line(csv *file, char *fields[3]) {
    file->line++;
    for (int i = 0; i < 3; i++) {
        int last = 0;
        CAVMAE__TRY(take_field(file, &fields[i], &last));
        if (last != (i == 2))
            return cavmae__fail(CAVMAE_E_FORMAT, "%s: line %d has %s than the three fields index,mid,display_name",
                                file->path, (int)file->line, last ? "fewer" : "more");
    }
    return CAVMAE_OK;
}

/* -1: not a number below MAX_CLASSES. */
static int32_t parse_index(const char *text, size_t length) {
    int32_t value = 0;
    if (length == 0) return -1;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9') return -1;
        value = value * 10 + (text[i] - '0');
        if (value >= MAX_CLASSES) return -1;
    }
    return value;
}

static cavmae_status parse_csv(cavmae__labels *labels, const char *path) {
    csv file = {labels->text, path, 0};
    char *fields[3];
    CAVMAE__TRY(take_line(&file, fields));
    if (strcmp(fields[0], "index") || strcmp(fields[1], "mid") || strcmp(fields[2], "display_name"))
        return cavmae__fail(CAVMAE_E_FORMAT, "%s: the first line is not index,mid,display_name", path);

    int64_t lines = 0; /* at most: the last may lack its end, and a quoted name may hold some */
    for (const char *at = file.at; *at; lines++) {
        const char *end = strchr(at, '\n');
        if (!end) end = at + strlen(at) - 1;
        at = end + 1;
    }
    if (lines == 0 || lines > MAX_CLASSES)
        return cavmae__fail(CAVMAE_E_FORMAT, "%s: %lld classes; a labels file has 1 to %d", path, (long long)lines,
                            MAX_CLASSES);
    labels->classes = cavmae__alloc_zero(labels->context, (size_t)lines * sizeof *labels->classes);
    if (!labels->classes) return CAVMAE_E_NOMEM;

    int32_t count = 0, largest = -1;
    for (; *file.at; count++) {
        CAVMAE__TRY(take_line(&file, fields));
        int32_t index = parse_index(fields[0], strlen(fields[0]));
        if (index < 0 || index >= lines)
            return cavmae__fail(CAVMAE_E_FORMAT, "%s: line %d: index '%s' is not one of 0 to %lld", path,
                                (int)file.line, fields[0], (long long)lines - 1);
        if (labels->classes[index].mid)
            return cavmae__fail(CAVMAE_E_FORMAT, "%s: line %d: index %d was given before", path, (int)file.line,
                                (int)index);
        labels->classes[index] = (label){fields[1], fields[2]};
        if (!*fields[1] || !*fields[2])
            return cavmae__fail(CAVMAE_E_FORMAT, "%s: line %d: a name is empty", path, (int)file.line);
        if (index > largest) largest = index;
    }
    if (largest + 1 != count)
        return cavmae__fail(CAVMAE_E_FORMAT, "%s: the indices of %d classes reach %d", path, (int)count, (int)largest);
    labels->count = count;
    return CAVMAE_OK;
}

static cavmae_status read_text(cavmae__labels *labels, const char *path) {
    cavmae__mapped_file *file;
    CAVMAE__TRY(cavmae__mapped_file_open(labels->context, path, &file));
    size_t size = file->size;
    labels->text = cavmae__alloc(labels->context, size + 1);
    if (labels->text) {
        memcpy(labels->text, file->data, size);
        labels->text[size] = 0;
    }
    cavmae__mapped_file_unref(file);
    if (!labels->text) return CAVMAE_E_NOMEM;
    if (strlen(labels->text) != size) return cavmae__fail(CAVMAE_E_FORMAT, "%s: not a text file", path);
    return CAVMAE_OK;
}

cavmae_status cavmae__labels_open(cavmae_context *context, const char *path, cavmae__labels **out) {
    cavmae_status status;
    cavmae__labels *labels = cavmae__alloc_zero(context, sizeof *labels);
    if (!labels) return CAVMAE_E_NOMEM;
    labels->context = cavmae__context_ref(context);
    CAVMAE__TRY_OUT(read_text(labels, path));
    CAVMAE__TRY_OUT(parse_csv(labels, path));
    CAVMAE__TRY_OUT(build_table(labels, path));
    *out = labels;
    return CAVMAE_OK;
out:
    cavmae__labels_free(labels);
    return status;
}

void cavmae__labels_free(cavmae__labels *labels) {
    if (!labels) return;
    cavmae_context *context = labels->context;
    cavmae__free(context, labels->table);
    cavmae__free(context, labels->classes);
    cavmae__free(context, labels->text);
    cavmae__free(context, labels);
    cavmae__context_unref(context);
}

int32_t cavmae__labels_count(const cavmae__labels *labels) { return labels->count; }

const char *cavmae__labels_display_name(const cavmae__labels *labels, int32_t index) {
    return index >= 0 && index < labels->count ? labels->classes[index].display_name : NULL;
}

int32_t cavmae__labels_find(const cavmae__labels *labels, const char *name, size_t length) {
    uint32_t place = *place_of(labels, name, length);
    if (place) return (int32_t)((place - 1) / 2);
    int32_t index = parse_index(name, length);
    return index < labels->count ? index : -1;
}

/* ---- Lists of names ---- */

static int32_t find_trimmed(const cavmae__labels *labels, const char *begin, const char *end) {
    while (begin < end && *begin == ' ') begin++;
    while (begin < end && end[-1] == ' ') end--;
    return cavmae__labels_find(labels, begin, (size_t)(end - begin));
}

/* Names may hold commas themselves ("Male speech, man speaking"), so the longest run of pieces that is a name counts.
 * *end is then behind it, or behind the first piece when nothing is a name. */
static int32_t longest_name(const cavmae__labels *labels, const char *begin, const char **end) {
    int32_t class = find_trimmed(labels, begin, *end = begin + strcspn(begin, ","));
    const char *longer = *end;
    for (int32_t commas = 0; commas < labels->most_commas && *longer; commas++) {
        longer += 1 + strcspn(longer + 1, ",");
        int32_t found = find_trimmed(labels, begin, longer);
        if (found < 0) continue;
        class = found;
        *end = longer;
    }
    return class;
}

cavmae_status cavmae__labels_parse(const cavmae__labels *labels, const char *list, int32_t *out, int32_t *count) {
    int32_t found = 0;
    for (const char *at = list, *end; *at; at = *end ? end + 1 : end) {
        int32_t class = longest_name(labels, at, &end);
        if (class >= 0)
            out[found++] = class;
        else if (strspn(at, " ") < (size_t)(end - at))
            return cavmae__fail(CAVMAE_E_FORMAT, "label '%.*s' is not in the labels file", (int)(end - at), at);
    }
    *count = found;
    return CAVMAE_OK;
}
