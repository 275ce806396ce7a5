/* Clips and what is nearest to each of them, as one HTML page: pictures are in it, sounds and videos are linked. */
#ifndef EXAMPLE_SEARCH_PAGE_H
#define EXAMPLE_SEARCH_PAGE_H

#include "embed_manifest.h"

enum { SEARCH_PAGE_CLIPS = 2000 }; /* the most that a page takes: some 20 KB each */

/* gallery [3]: the clips' outputs by kind. way [2]: how well sounds find their pictures, and pictures their sounds. Of
 * each kind of search k clips are shown. */
void write_search_page(const char *path, cavmae_context *context, cavmae_model *model, cavmae_loader *loader,
                       const clip_list *clips, const output *gallery, const cavmae_retrieval_metrics *way, int32_t k);

#endif
