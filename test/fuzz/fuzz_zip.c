/* Zip archives: every member of one that opens lies in the file, is found by its name, and can be read or says why
 * not. */
#define _GNU_SOURCE
#include "context.h"
#include "fuzz.h"
#include "zip_archive.h"

static void look(cavmae_context *context, const cavmae__zip *zip, const cavmae__zip_member *member) {
    const cavmae__zip_member *found = cavmae__zip_find(zip, member->name, member->name_length);
    FUZZ_CHECK(found && found->name_length == member->name_length);
    FUZZ_CHECK(memcmp(found->name, member->name, member->name_length) == 0);
    fuzz_read(member->data, member->stored_size);
    if (!fuzz_ok(cavmae__zip_check_readable(zip, member))) return;
    FUZZ_CHECK(member->size / 1032 <= member->stored_size);
    if (member->size > FUZZ_MEMORY / 4) return;
    char *out = cavmae__alloc(context, member->size);
    if (out && fuzz_ok(cavmae__zip_read(zip, member, out))) fuzz_read(out, member->size);
    cavmae__free(context, out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cavmae_context *context = fuzz_context(FUZZ_MEMORY);
    cavmae__mapped_file *map = NULL;
    cavmae__zip *zip = NULL;
    FUZZ_CHECK(cavmae__mapped_file_open(context, fuzz_path(data, size), &map) == CAVMAE_OK);
    (void)cavmae__zip_is(map);
    if (fuzz_ok(cavmae__zip_open(context, map, &zip))) {
        for (int64_t i = 0; i < zip->count; i++) look(context, zip, &zip->members[i]);
        FUZZ_CHECK(cavmae__zip_find(zip, "/no such member", 15) == NULL);
        cavmae__zip_free(zip);
    }
    cavmae__mapped_file_unref(map);
    fuzz_end(context);
    return 0;
}
