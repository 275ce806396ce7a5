/* safetensors files from the inside: raw entries, without a handle for each tensor.
 * Format: u64 header size, JSON header {name: {dtype, shape, data_offsets}, "__metadata__": {...}}, data. */
#ifndef CAVMAE_IO_SAFETENSORS_H
#define CAVMAE_IO_SAFETENSORS_H

#include "tensor.h"

typedef struct cavmae__entry {
    const char *name;
    const void *data; /* in the map when read */
    int64_t shape[CAVMAE_MAX_DIMS];
    int32_t dims, dtype;
} cavmae__entry;

/* By name; NULL if there is none. Lives as long as the file. */
const cavmae__entry *cavmae__safetensors_find(const cavmae_safetensors *file, const char *name);
/* In the order of the header; they follow one another in memory. NULL past the end. */
const cavmae__entry *cavmae__safetensors_entry(const cavmae_safetensors *file, int64_t index);

/* Keeps the map alive for views into it. */
cavmae_safetensors *cavmae__safetensors_ref(cavmae_safetensors *file);

/* As cavmae_safetensors_save, from raw entries. Data need not be aligned and is not copied. */
cavmae_status cavmae__safetensors_write(cavmae_context *context, const char *path, const cavmae__entry *entries,
                                        int64_t count, const char *const *keys, const char *const *values,
                                        int64_t metadata_count);

/* The same for tensors that are made one at a time: `make` gives the bytes of the index-th, which are its own until the
 * next call. Entries' data is not read. */
typedef cavmae_status cavmae__make_entry(void *arg, int64_t index, const void **data);
cavmae_status cavmae__safetensors_write_made(cavmae_context *context, const char *path, const cavmae__entry *entries,
                                             int64_t count, const char *const *keys, const char *const *values,
                                             int64_t metadata_count, cavmae__make_entry *make, void *arg);

#endif
