/* Index files: one that loads can be searched. */
#define _GNU_SOURCE
#include "fuzz.h"

enum { WIDEST = 4096, WANTED = 3 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cavmae_context *context = fuzz_context(FUZZ_MEMORY);
    cavmae_index *index = NULL;
    if (fuzz_ok(cavmae_index_load(context, fuzz_path(data, size), &index))) {
        static float query[WIDEST];
        int64_t ids[WANTED];
        float scores[WANTED];
        int32_t dim = cavmae_index_dim(index);
        FUZZ_CHECK(dim >= 1 && cavmae_index_count(index) >= 0);
        if (dim <= WIDEST) {
            for (int32_t i = 0; i < dim; i++) query[i] = (float)(i % 7 + 1);
            FUZZ_CHECK(cavmae_index_search(index, query, 1, WANTED, ids, scores) == CAVMAE_OK);
            for (int i = 0; i < WANTED; i++) FUZZ_CHECK(ids[i] >= -1 && ids[i] < cavmae_index_count(index));
            if (fuzz_ok(cavmae_index_add(index, query, 1))) FUZZ_CHECK(cavmae_index_count(index) > 0);
        }
        cavmae_index_free(index);
    }
    fuzz_end(context);
    return 0;
}
