/* The two forms of torch.save's files, as a pickle and the storages that it tells of.
 * zip: members DIR/data.pkl, DIR/data/KEY, DIR/byteorder. Older: five pickles one after another (a magic number, 1001,
 * a description of the machine, the object, the storages' keys), then each storage: an int64 count and its elements. */
#ifndef CAVMAE_IO_TORCH_STORAGE_H
#define CAVMAE_IO_TORCH_STORAGE_H

#include "pickle.h"
#include "zip_archive.h"

typedef struct cavmae__storage {
    const char *data; /* in the map; NULL: deflated */
    size_t size;
    const cavmae__zip_member *member; /* NULL: in a file of the older form */
    int needed;                       /* some tensor is in it */
    /* of the older form: */
    const char *key;
    size_t key_length;
    int32_t dtype;
    int64_t elements;
} cavmae__storage;

typedef struct cavmae__torch_container {
    cavmae_context *context;
    cavmae__mapped_file *map;
    cavmae__zip *zip; /* NULL: the older form */
    cavmae__pickle *pickle;
    char *pickle_bytes; /* where they had to be inflated */
    const char *folder; /* of the archive's members, with its slash */
    size_t folder_length;
    int64_t count;
    cavmae__storage *storages; /* [count]: as the archive's members, or sorted by key */
} cavmae__torch_container;

/* Into a zeroed struct; closed by the caller after failures too. */
cavmae_status cavmae__torch_container_open(cavmae__torch_container *container, cavmae_context *context,
                                           const char *path);
void cavmae__torch_container_close(cavmae__torch_container *container);

/* The storage that a pickle's PERSISTENT tells of; its dtype and elements as told there, which its size bears out. */
cavmae_status cavmae__torch_container_find(cavmae__torch_container *container, const cavmae__pickle_value *id,
                                           cavmae__storage **storage, int32_t *dtype, int64_t *elements);

/* When all tensors are found: CRC-32 of the storages that are needed and lie in the map. Then the pickle is no
 * more. */
cavmae_status cavmae__torch_container_finish(cavmae__torch_container *container);

#endif
