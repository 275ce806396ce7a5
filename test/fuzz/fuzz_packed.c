/* Packed data sets, as they are and with their checksums put right, behind which a reader must be as careful: every
 * clip of one that opens can be read, or says why not. */
#define _GNU_SOURCE
#include <stddef.h>

#include "checksum.h"
#include "fuzz.h"
#include "packed.h"
#include "packed_format.h"

enum { PICTURES = 1, MOST_CLIPS = 64 }; /* of each clip, in most of the corpus; of a pack */

/* Of the end, the index, the description, and, where they lie in the file, the clips' heads; not of sound and pictures,
 * whose bytes mean nothing. */
static void repair(uint8_t *file, size_t size) {
    cavmae__pack_end end;
    if (size < sizeof end) return;
    uint64_t limit = size - sizeof end;
    memcpy(&end, file + limit, sizeof end);
    if (end.index_place <= limit && end.count <= (limit - end.index_place) / sizeof(cavmae__pack_entry)) {
        uint8_t *index = file + end.index_place;
        for (uint64_t i = 0; i < end.count && i < MOST_CLIPS; i++) {
            cavmae__pack_entry entry;
            memcpy(&entry, index + i * sizeof entry, sizeof entry);
            uint64_t head = cavmae__pack_head_size(&entry, PICTURES);
            if (entry.place > limit || head > limit - entry.place) continue;
            entry.head_crc = cavmae__crc32(0, file + entry.place, head);
            memcpy(index + i * sizeof entry, &entry, sizeof entry);
        }
        end.index_crc = cavmae__crc32(0, index, end.count * sizeof(cavmae__pack_entry));
    }
    if (end.description_place <= limit && end.description_size <= limit - end.description_place)
        end.description_crc = cavmae__crc32(0, file + end.description_place, end.description_size);
    memcpy(end.magic, CAVMAE__PACK_MAGIC, sizeof end.magic);
    end.crc = cavmae__crc32(0, &end, offsetof(cavmae__pack_end, crc));
    memcpy(file + limit, &end, sizeof end);
}

static void look(cavmae_context *context, const cavmae__packed *packed, int64_t index) {
    size_t count = (size_t)cavmae__packed_label_count(packed, index), id_size = cavmae__packed_id_size(packed, index);
    int32_t *labels = malloc(count * sizeof *labels + 1);
    float *weights = malloc(count * sizeof *weights + 1), *pcm = NULL;
    char *id = malloc(id_size);
    int64_t samples = 0;
    const uint8_t *pixels = NULL;
    FUZZ_CHECK(labels && weights && id);
    if (fuzz_ok(cavmae__packed_head(packed, index, labels, weights, id))) {
        FUZZ_CHECK(id[id_size - 1] == '\0');
        for (size_t i = 0; i < count; i++)
            FUZZ_CHECK(labels[i] >= 0 && labels[i] < CAVMAE__PACK_MOST_LABELS && weights[i] >= 0 && weights[i] <= 1);
    }
    if (fuzz_ok(cavmae__packed_waveform(packed, index, &pcm, &samples))) fuzz_read(pcm, (size_t)samples * sizeof *pcm);
    cavmae__free(context, pcm);
    for (int64_t frame = -1; frame < 4; frame++)
        if (fuzz_ok(cavmae__packed_pixels(packed, index, frame, &pixels))) fuzz_read(pixels, 3);
    free(labels);
    free(weights);
    free(id);
}

static void open_pack(const uint8_t *data, size_t size) {
    cavmae_context *context = fuzz_context(FUZZ_MEMORY);
    const char *path = fuzz_path(data, size);
    cavmae__packed *packed = NULL;
    if (fuzz_ok(cavmae__packed_open(context, path, &packed))) {
        cavmae_config *config = NULL;
        FUZZ_CHECK(cavmae_config_create(context, "tiny", &config) == CAVMAE_OK);
        fuzz_ok(cavmae__packed_check(packed, config, NULL));
        cavmae_config_free(config);
        int64_t count = cavmae__packed_count(packed);
        for (int64_t i = 0; i < count && i < MOST_CLIPS; i++) look(context, packed, i);
        cavmae__packed_free(packed);
    }
    fuzz_end(context);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    open_pack(data, size);
    uint8_t *repaired = malloc(size + 1);
    FUZZ_CHECK(repaired != NULL);
    memcpy(repaired, data, size);
    repair(repaired, size);
    open_pack(repaired, size);
    free(repaired);
    return 0;
}
