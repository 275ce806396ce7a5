/* PyTorch files from the inside: names, shapes and dtypes without a handle for each tensor. */
#ifndef CAVMAE_IO_TORCH_FILE_H
#define CAVMAE_IO_TORCH_FILE_H

#include "safetensors.h"

/* In the order of the file; NULL past the end. entry->data is where the tensor lies in the map, in order but perhaps
 * not aligned to its elements; NULL: cavmae_torch_get has to make it. Lives as long as the file. */
const cavmae__entry *cavmae__torch_entry(const cavmae_torch *file, int64_t index);
/* By name; NULL if there is none. */
const cavmae__entry *cavmae__torch_find(const cavmae_torch *file, const char *name);

#endif
