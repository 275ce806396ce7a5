/* An index of the shards that cavmae-embed --shards writes: a manifest, JSON, and a safetensors file for each shard. */
#ifndef CAVMAE_INFER_INDEX_SHARDS_H
#define CAVMAE_INFER_INDEX_SHARDS_H

#include "mapped_file.h"

/* Whether a file is such a manifest, or else an index: that begins with the length of its header, which has zeros. */
int cavmae__is_shard_manifest(const cavmae__mapped_file *file);

/* Rows of the part-th of so many parts of the shards, as cavmae_index_add takes them; *first (or NULL) of how many clips
 * lie before them. */
cavmae_status cavmae__index_load_shards(cavmae_context *context, const cavmae__mapped_file *manifest, int32_t part,
                                        int32_t parts, int64_t *first, cavmae_index **out);

#endif
