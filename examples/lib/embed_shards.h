/* Embeddings of a corpus as a folder of files, shards, each whole or not there, and a manifest of them: made by any number
 * of processes, which may end at any moment and be started again. */
#ifndef EXAMPLE_EMBED_SHARDS_H
#define EXAMPLE_EMBED_SHARDS_H

#include "embed_manifest.h"
#include "program.h"

/* What is embedded: the clips of a loader, or files. */
typedef struct corpus {
    cavmae_loader *loader; /* NULL: files */
    const words *files;
    int32_t frames; /* pictures of each file; 0: the middle one */
    int64_t count;
} corpus;

typedef struct shard_folder {
    const char *path;
    const char *kind;    /* the tensor's name */
    int64_t clips;       /* of a shard; the last one has what is left */
    int32_t rank, ranks; /* who makes which */
} shard_folder;

/* shard-00003-of-00016.safetensors and the like, with this rank's, and manifest.json by whoever finds all shards there.
 * `one` is the output of one clip. */
void embed_shards(cavmae_context *context, cavmae_model *model, const corpus *corpus, const output *one,
                  const shard_folder *folder);

#endif
