#include "record.h"

#include <string.h>

/* struct_size and one 32-bit field: the least that any record ever had. */
enum { SMALLEST = 8 };

static cavmae_status caller_size(const void *record, uint32_t *size) {
    if (!record) return cavmae__fail(CAVMAE_E_ARG, "a record is NULL");
    memcpy(size, record, sizeof *size);
    if (*size < SMALLEST)
        return cavmae__fail(CAVMAE_E_ARG, "a record's struct_size is %u; set it to the sizeof of the struct",
                            (unsigned)*size);
    return CAVMAE_OK;
}

cavmae_status cavmae__record_in(void *record, size_t size, const void *src) {
    uint32_t theirs = 0;
    CAVMAE__TRY(caller_size(src, &theirs));
    memset(record, 0, size);
    memcpy(record, src, theirs < size ? theirs : size);
    return CAVMAE_OK;
}

cavmae_status cavmae__record_out(void *dst, const void *record, size_t size) {
    uint32_t theirs = 0;
    CAVMAE__TRY(caller_size(dst, &theirs));
    memset(dst, 0, theirs);
    memcpy(dst, record, theirs < size ? theirs : size);
    memcpy(dst, &theirs, sizeof theirs);
    return CAVMAE_OK;
}
