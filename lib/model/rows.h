/* Which rows a batch has: tokens of each modality, which of them are visible, where they stand in the joint encoder's
 * streams and in the decoder. Lists, not a [B, L] rectangle, so clips of different length cost what they are.
 *
 * Encoder rows: all visible audio tokens clip by clip, then all visible visual ones. Joint rows: the wanted ones of
 * three streams, one after another: both (a clip's audio rows, then its visual rows), audio, visual. Decoder rows: a
 * clip's audio tokens, then its visual tokens; "tokens" without more: all audio tokens, then all visual ones. */
#ifndef CAVMAE_MODEL_ROWS_H
#define CAVMAE_MODEL_ROWS_H

#include "arena.h"
#include "layer.h"

enum { CAVMAE__AUDIO, CAVMAE__VISUAL };
enum { CAVMAE__STREAM_BOTH = 1, CAVMAE__STREAM_A = 2, CAVMAE__STREAM_V = 4 }; /* bits */

enum { CAVMAE__NO_HEAD, CAVMAE__FEATURES, CAVMAE__LOGITS };

/* The most that a plan must hold. A clip has one piece of sound and `pictures` pictures; the stream of both then has a
 * segment for each of them, all with the same sound. */
typedef struct cavmae__extent {
    int32_t clips, pictures, streams;
    int32_t pool;                     /* streams whose tokens are averaged */
    int32_t head;                     /* how far it goes */
    int32_t head_backward;            /* flag: gradients of the head */
    int32_t masked, decode, backward; /* flags */
    int64_t tokens[2], visible[2];    /* of all clips together */
    int32_t longest[2];               /* tokens of one clip's sound; of one picture */
    int32_t pairs, all_pairs;         /* of the contrastive loss, and what they are contrasted with; 0: clips */
} cavmae__extent;

/* Segments of the modalities. */
static inline int32_t cavmae__units(const cavmae__extent *extent, int m) {
    return m == CAVMAE__VISUAL ? extent->clips * extent->pictures : extent->clips;
}

/* Segments of a stream: 0 both, 1 audio, 2 visual. */
static inline int32_t cavmae__stream_units(const cavmae__extent *extent, int stream) {
    return cavmae__units(extent, stream == 1 ? CAVMAE__AUDIO : CAVMAE__VISUAL);
}

/* Rows of all wanted streams together. */
static inline int64_t cavmae__joint_rows(const cavmae__extent *extent) {
    return (extent->streams & CAVMAE__STREAM_BOTH ? extent->pictures * extent->visible[0] + extent->visible[1] : 0) +
           (extent->streams & CAVMAE__STREAM_A ? extent->visible[0] : 0) +
           (extent->streams & CAVMAE__STREAM_V ? extent->visible[1] : 0);
}

/* Where segments start, on both sides. */
typedef struct cavmae__starts {
    int32_t *host, *device;
} cavmae__starts;

typedef struct cavmae__rows {
    cavmae__segments tokens[2], visible[2], joint, decoder;
    cavmae__starts tokens_at[2], visible_at[2], joint_at, decoder_at;
    int32_t table_columns[2];
    int64_t token_rows[2], visible_rows[2], encoder_rows, stream_rows[3], joint_rows, decoder_rows;
    cavmae__segments stream[3]; /* parts of joint: the segments of each stream */
    cavmae__streams encoder_streams[2], joint_streams, decoder_streams;

    /* Device. [visible], [tokens] of each modality; filled by index_tokens. */
    int32_t *visible_clip[2], *visible_token[2], *visible_position[2];
    int32_t *token_clip[2], *token_token[2], *token_position[2], *token_row[2], *token_removed[2];
    uint8_t *mask[2];
    int32_t *columns[2];
    int64_t *offset[2];
    /* Device. */
    int32_t *joint_source;  /* [joint] encoder row */
    int32_t *joint_back[2]; /* [encoder] rows in the joint streams, -1: none: in that of both, and in its own */
    int32_t *decoder_row;   /* [tokens] */
    int32_t *decoder_token; /* [decoder] the inverse */

    /* Host: what the above are made in. */
    int32_t *staging;
    int32_t *columns_host[2];
    int64_t *offset_host[2];
} cavmae__rows;

/* Lays out everything for `extent`, device memory in one arena, host memory in the other. */
void cavmae__rows_layout(cavmae__rows *rows, const cavmae__extent *extent, cavmae__arena *device, cavmae__arena *host);

/* The rows of one batch. columns[m]: grid columns of each clip's sound, or of each picture (NULL: modality absent),
 * grid_rows[m]; visible[m]: how many tokens each keeps (NULL: all). Fills host lists and uploads them. */
typedef struct cavmae__batch_rows {
    int32_t clips, pictures;
    const int32_t *columns[2], *visible[2];
    int32_t grid_rows[2], table_columns[2];
    int64_t clip_stride[2]; /* elements of input for one grid column: where clips of different length start */
} cavmae__batch_rows;

cavmae_status cavmae__rows_fill(cavmae__rows *rows, const cavmae__extent *extent, const cavmae__pass *pass,
                                const cavmae__batch_rows *batch);

/* Device lists from masks (masked 0: all visible). After the masks are in rows->mask. */
cavmae_status cavmae__rows_index(cavmae__rows *rows, const cavmae__extent *extent, const cavmae__pass *pass,
                                 int masked);

#endif
