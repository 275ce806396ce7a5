/* The tensors of a file, whatever its form: safetensors, or PyTorch's zip and older ones. What they mean is told by
 * import.h. */
#ifndef CAVMAE_MODEL_WEIGHTS_H
#define CAVMAE_MODEL_WEIGHTS_H

#include "safetensors.h"

typedef struct cavmae__weight {
    const char *name; /* without "module.", which torch.nn.DataParallel puts before all */
    const char *key;  /* the name in the file */
    int64_t shape[CAVMAE_MAX_DIMS];
    int32_t dims, dtype;
    cavmae_tensor *view; /* NULL until cavmae__weights_view */
} cavmae__weight;

typedef struct cavmae__weights cavmae__weights;

/* Tells the form by the first bytes. Errors: as cavmae_safetensors_open and cavmae_torch_open; FORMAT where two names
 * are the same without their prefix. */
cavmae_status cavmae__weights_open(cavmae_context *context, const char *path, cavmae__weights **out);
/* Of a file that is open already, and that they keep alive. */
cavmae_status cavmae__weights_of(cavmae_context *context, cavmae_safetensors *file, const char *path,
                                 cavmae__weights **out);

/* Counted, because models show their parameters in the file's own memory. Any thread. */
cavmae__weights *cavmae__weights_ref(cavmae__weights *weights);
void cavmae__weights_free(cavmae__weights *weights); /* NULL is fine */

const char *cavmae__weights_path(const cavmae__weights *weights);
int64_t cavmae__weights_size(const cavmae__weights *weights); /* of the file in bytes; 0: not known */
int64_t cavmae__weights_count(const cavmae__weights *weights);
/* Sorted by name, one after another in memory. */
cavmae__weight *cavmae__weights_at(const cavmae__weights *weights, int64_t index);
cavmae__weight *cavmae__weights_find(const cavmae__weights *weights, const char *name); /* NULL: none */
const char *cavmae__weights_metadata(const cavmae__weights *weights, const char *key);  /* NULL: none */

/* The tensor itself, the caller's to free: in the map where it lies there in order. */
cavmae_status cavmae__weights_tensor(const cavmae__weights *weights, const cavmae__weight *weight, cavmae_tensor **out);
/* The same, kept until the weights are freed. One thread. */
cavmae_status cavmae__weights_view(const cavmae__weights *weights, cavmae__weight *weight, const void **data);
/* Its elements as float32. Of a floating dtype only. */
cavmae_status cavmae__weights_read(const cavmae__weights *weights, const cavmae__weight *weight, float *out);
/* The same in new memory of the context, the caller's; asked for when the file has shown that it has so many. */
cavmae_status cavmae__weights_new(const cavmae__weights *weights, const cavmae__weight *weight, float **out);

/* "[768, 3, 16, 16]", for messages. */
enum { CAVMAE__SHAPE_TEXT = 8 * 22 };
const char *cavmae__shape_text(int32_t dims, const int64_t *shape, char out[CAVMAE__SHAPE_TEXT]);

#endif
