/* The classes of a data set: a CSV with header index,mid,display_name, as AudioSet and VGGSound have it. */
#ifndef CAVMAE_DATA_LABELS_H
#define CAVMAE_DATA_LABELS_H

#include "context.h"

typedef struct cavmae__labels cavmae__labels;

cavmae_status cavmae__labels_open(cavmae_context *context, const char *path, cavmae__labels **out);
void cavmae__labels_free(cavmae__labels *labels);

int32_t cavmae__labels_count(const cavmae__labels *labels);
const char *cavmae__labels_display_name(const cavmae__labels *labels, int32_t index); /* NULL past the end */

/* Class of a mid, a display name or an index in digits, in this order; -1 if there is none. */
int32_t cavmae__labels_find(const cavmae__labels *labels, const char *name, size_t length);

/* Classes of a list of names joined by commas. out holds one more than the list has commas. FORMAT: an unknown name. */
cavmae_status cavmae__labels_parse(const cavmae__labels *labels, const char *list, int32_t *out, int32_t *count);

#endif
