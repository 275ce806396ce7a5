/* The pickle reader alone: everything that a pickle made can be walked. */
#define _GNU_SOURCE
#include "fuzz.h"
#include "pickle.h"

enum { DEEPEST = 20 }; /* containers may hold themselves */

static size_t looked_at;

static void look(const cavmae__pickle *pickle, const cavmae__pickle_value *value, int depth) {
    const cavmae__pickle_value *items;
    cavmae__pickle_walk walk;
    const char *type = cavmae__pickle_type_name(value);
    fuzz_read(type, strlen(type));
    if (depth == DEEPEST || ++looked_at > 100000) return;
    switch (value->type) {
    case CAVMAE__PICKLE_STRING:
    case CAVMAE__PICKLE_BYTES:
    case CAVMAE__PICKLE_LONG: fuzz_read(cavmae__pickle_text(pickle, value), value->length); break;
    case CAVMAE__PICKLE_TUPLE:
    case CAVMAE__PICKLE_CALL:
    case CAVMAE__PICKLE_PERSISTENT:
        items = cavmae__pickle_items(pickle, value);
        for (uint32_t i = 0; i < value->length; i++) look(pickle, &items[i], depth + 1);
        break;
    case CAVMAE__PICKLE_LIST:
    case CAVMAE__PICKLE_DICT:
        walk = cavmae__pickle_walk_of(pickle, value);
        while ((items = cavmae__pickle_next(pickle, &walk)) != NULL && looked_at < 100000)
            look(pickle, items, depth + 1);
        break;
    case CAVMAE__PICKLE_NAME: FUZZ_CHECK(cavmae__pickle_name_of(value)->module != NULL); break;
    default: break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cavmae_context *context = fuzz_context(FUZZ_MEMORY);
    cavmae__pickle *pickle = NULL;
    size_t used = 0;
    looked_at = 0;
    if (fuzz_ok(cavmae__pickle_load(context, (const char *)data, size, "input", &pickle, &used))) {
        const cavmae__pickle_value *storage;
        FUZZ_CHECK(used <= size);
        look(pickle, cavmae__pickle_result(pickle), 0);
        for (size_t i = 0; (storage = cavmae__pickle_persistent(pickle, i)) != NULL; i++) look(pickle, storage, 0);
        cavmae__pickle_free(pickle);
    }
    fuzz_end(context);
    return 0;
}
