/* The seam between the model and a device: one table of fused operations, each with its backward.
 *
 * The model is written once, against this table; a backend is a table. Pointers named `device` or without a remark
 * are the backend's memory (on the CPU: plain memory); "host" ones are not. Rows, not batches: operations take rows
 * and lists of segments, so clips of different lengths, and the joint layer's three streams, are one call.
 *
 * Types: the residual stream, statistics, losses, parameters and their gradients are float32; what a dtype field
 * names may be float32 or bfloat16 (CAVMAE_FLOAT32, CAVMAE_BFLOAT16).
 *
 * Results do not depend on company: a row's or segment's result has the same bits whatever other rows are in the
 * call, however many threads there are, on every run. (Products on a GPU are excepted: their algorithm may go by the
 * number of rows. The same call has the same bits there, too.) Sums over rows are taken in an order fixed by shapes alone.
 *
 * `accumulate` 0 overwrites gradients of parameters, 1 adds to them. No operation allocates: scratch comes in
 * `workspace`, as large as workspace_size said. Two calls that run at once need two workspaces. Arguments are valid
 * by construction (the plan checked them); a status reports the device's faults. */
#ifndef CAVMAE_BACKEND_BACKEND_H
#define CAVMAE_BACKEND_BACKEND_H

#include "context.h"

typedef struct cavmae__backend cavmae__backend;

/* Segment i has rows start[i] .. start[i + 1] - 1; both arrays hold count + 1 entries. */
typedef struct cavmae__segments {
    int32_t count, longest;
    const int32_t *start_host;
    const int32_t *start;
} cavmae__segments;

/* y = x W^T + bias, then optionally + residual, then optionally gelu: by erf, exactly; with exact_gelu 0 a device may take
 * the tanh form where y_dtype is bfloat16, here and in linear_grad. */
typedef struct cavmae__linear {
    int64_t rows;
    int32_t in, out;
    int32_t x_dtype, y_dtype;
    int32_t matmul, exact_gelu; /* CAVMAE__MATMUL_* of context.h */
    const void *x;              /* [rows, in] */
    const float *weight;        /* [out, in] */
    const float *bias;          /* [out] or NULL */
    const float *residual;      /* [rows, out] or NULL; may be y. Then y_dtype is float32 and gelu NULL */
    void *y;                    /* [rows, out]; NULL where only gelu is wanted */
    void *gelu;                 /* [rows, out] of y_dtype: gelu(y); or NULL */
    void *workspace;
} cavmae__linear;

/* dx = dy W, times gelu'(gelu_input) where given; dweight = dy^T x; dbias = column sums of dy. NULL: not wanted. */
typedef struct cavmae__linear_grad {
    int64_t rows;
    int32_t in, out;
    int32_t x_dtype, dy_dtype, dx_dtype, accumulate;
    int32_t matmul, exact_gelu;
    const void *x;          /* [rows, in]; only read for dweight */
    const float *weight;    /* [out, in] */
    const void *dy;         /* [rows, out] */
    const void *gelu_input; /* [rows, in] of dx_dtype, what gelu was applied to, or NULL */
    void *dx;               /* [rows, in] */
    float *dweight;         /* [out, in] */
    float *dbias;           /* [out] */
    void *workspace;
} cavmae__linear_grad;

/* y = gelu(x) [count] of dtype, as linear's: for a backward pass that did not keep it. */
typedef struct cavmae__gelu {
    int64_t count;
    int32_t dtype, exact_gelu;
    const void *x;
    void *y; /* may be x */
} cavmae__gelu;

/* y = x [count] in another type; float32 and bfloat16. */
typedef struct cavmae__convert {
    int64_t count;
    int32_t x_dtype, y_dtype;
    const void *x;
    void *y;
} cavmae__convert;

/* LayerNorm with an affine of its own for each group of rows (the joint layer's streams). Groups cover [0, rows). */
typedef struct cavmae__norm_group {
    int64_t rows;
    const float *gamma, *beta; /* [width] */
    float *dgamma, *dbeta;     /* [width]; backward only */
} cavmae__norm_group;

typedef struct cavmae__layernorm {
    int32_t width, group_count; /* at most 4 groups */
    cavmae__norm_group group[4];
    float eps;
    int32_t y_dtype;    /* of y, and of dy going back */
    const float *x;     /* [rows, width] */
    void *y;            /* forward: [rows, width] */
    float *mean, *rstd; /* [rows]: written by forward (NULL: not wanted), read by backward */
    const void *dy;     /* backward: [rows, width] of y_dtype */
    const float *add;   /* backward: [rows, width] added to dx (the residual's gradient), may be dx; or NULL */
    float *dx;          /* backward: [rows, width] */
    int32_t accumulate;
    void *workspace;
} cavmae__layernorm;

/* softmax(q k^T / sqrt(head_dim)) v within each segment. qkv [rows, 3, heads, head_dim]. */
typedef struct cavmae__attention {
    int32_t heads, head_dim, dtype;
    int32_t by; /* CAVMAE__ATTENTION_* of context.h */
    cavmae__segments segments;
    const void *qkv; /* [rows, 3 * heads * head_dim] */
    void *o;         /* [rows, heads * head_dim]; read by backward */
    float *lse;      /* [rows, heads] log of the sum of exponentials; NULL in a forward that has no backward */
    const void *d_o; /* backward: like o */
    void *dqkv;      /* backward: like qkv */
    void *workspace;
} cavmae__attention;

/* Where patches lie in an input. Pixel (c, y, x) of clip b is data[offset[b] + c * channel_stride + y * row_stride
 * + x * column_stride]; for sound y is the mel bin and x the frame. Token t of clip b is the patch in grid row
 * t / columns[b] and grid column t % columns[b]. */
typedef struct cavmae__patch_source {
    const float *data;
    const int64_t *offset;  /* [clips] */
    const int32_t *columns; /* [clips] */
    int64_t channel_stride, row_stride, column_stride;
    int32_t channels, patch;
} cavmae__patch_source;

/* y[r] = the patch of token[r] of clip[r], in the order (channel, row, column) of a convolution's weights. */
typedef struct cavmae__patches {
    cavmae__patch_source source;
    int64_t rows;
    const int32_t *clip, *token; /* [rows] */
    int32_t y_dtype;
    void *y; /* [rows, channels * patch * patch] */
} cavmae__patches;

/* out[row[k]] = x[source[k]] (or `fill` where source[k] < 0) + table[position[k]] + vector, for k in [0, count). row
 * NULL: k. source NULL: k. k with row[k] < 0 are left out. table, vector NULL: nothing is added. Encoder: adds
 * positions and modality; decoder: puts visible tokens and the mask token in their places, and going back takes
 * their gradients out again. In place where row and source are NULL. */
typedef struct cavmae__place {
    int64_t count;
    int32_t width;
    const float *x, *fill, *table, *vector;
    const int32_t *source, *position, *row;
    float *out;
} cavmae__place;

/* dtable[j] = sum over k with index[k] == j, in rising k, of dy[row[k]]. index NULL: all zero (a single row: a sum of
 * rows). Negative entries of index are left out. row NULL: k. The gradients of table, vector and fill above. */
typedef struct cavmae__table_grad {
    int64_t count;
    int32_t width, table_rows, accumulate;
    const float *dy;
    const int32_t *index, *row;
    float *dtable; /* [table_rows, width] */
    void *workspace;
} cavmae__table_grad;

/* y[r] = x[first[r]] + x[second[r]]; a negative index adds nothing; second NULL: first alone. Both directions of
 * copying tokens between streams. */
typedef struct cavmae__combine {
    int64_t rows;
    int32_t width;
    const float *x;
    const int32_t *first, *second; /* [rows] */
    float *y;
} cavmae__combine;

/* y[i] = mean of segment i's rows; backward: dx[r] = dy[i] / length. */
typedef struct cavmae__segment_mean {
    int32_t width;
    cavmae__segments segments;
    const float *x;
    float *y;        /* [segments, width] */
    const float *dy; /* backward */
    float *dx;       /* backward */
} cavmae__segment_mean;

/* What a head sees of a clip: sums of its pooled streams. For each of `parts` side by side,
 * y[r, part] = sum over s of weight[part, r, s] * x[s][r / repeat[s]]; backward (every repeat 1):
 * dx[s][r] = sum over parts of weight[part, r, s] * dy[r, part]. */
typedef struct cavmae__mix {
    int64_t rows;
    int32_t width, parts;
    const float *weight; /* [parts, rows, 3] */
    const float *x[3];   /* [rows / repeat, width]; NULL: left out */
    int32_t repeat[3];
    float *y;        /* [rows, parts * width] */
    const float *dy; /* backward: like y */
    float *dx[3];    /* backward: [rows, width]; NULL: not wanted */
} cavmae__mix;

/* torch.nn.BCEWithLogitsLoss (mean over rows and classes) or torch.nn.CrossEntropyLoss on soft targets (mean over
 * rows), where *total takes the place of rows. accuracy: rows whose largest logit is at their largest label (the first of
 * equals) / *total. Both are added to. */
typedef struct cavmae__class_loss {
    int64_t rows;
    int32_t classes, kind;        /* 0 BCE, 1 cross-entropy */
    const float *logits, *labels; /* [rows, classes] */
    const double *total;          /* device [1]: rows; those of all ranks in a world */
    float *dlogits;               /* [rows, classes] or NULL */
    double *loss, *accuracy;      /* [1], added to */
    void *workspace;
} cavmae__class_loss;

/* Masked reconstruction, paper eq. 9 with the mean over a patch's pixels as in the reference: loss = sum over
 * removed tokens of mean((pred - target)^2) / *removed; target = patch in the order (row, column, channel),
 * normalised by its mean and unbiased variance + 1e-6 when norm_pix. dpred = weight * dloss/dpred. */
typedef struct cavmae__mae_loss {
    cavmae__patch_source source;
    int64_t rows;
    const int32_t *clip, *token; /* [rows] */
    const uint8_t *mask;         /* [rows] 1 = removed */
    const double *removed;       /* device [1], > 0: number of ones in mask; of all ranks' masks in a world */
    const float *pred;           /* [rows, patch * patch * channels] */
    float *dpred;                /* like pred, or NULL; may be pred */
    double weight;
    int32_t norm_pix;
    double *loss; /* [1], added to */
    void *workspace;
} cavmae__mae_loss;

/* InfoNCE, paper eq. 7, of pairs first .. first + count - 1 against all `total`: s = normalize(a) normalize(v)^T /
 * temperature; v2a: for each of these columns (visual) a softmax over all rows (audio), loss += sum of -log of the
 * diagonal / pairs; a2v: for each of these rows over all columns; both: half of either. accuracy += argmax on the diagonal
 * (the first of equals) / pairs. da, dv = weight * dloss/d, of all rows: zeros where nothing comes from these pairs. One
 * process has first 0 and count = total = pairs; ranks of a world have their own pairs and everybody's a and v, and the
 * sum over the ranks of da, dv, loss and accuracy is the whole. */
typedef struct cavmae__contrastive {
    int32_t first, count, total, width, direction; /* 0 v2a, 1 a2v, 2 both */
    int64_t pairs;
    double temperature, weight;
    const float *a, *v;      /* [total, width] */
    float *da, *dv;          /* [total, width], or both NULL */
    double *loss, *accuracy; /* [1], added to */
    void *workspace;
} cavmae__contrastive;

/* Masks for clips first .. first + clips - 1 of a step's batch: each keeps `keep` of rows * columns tokens. Noise is
 * Philox uniform(seed, purpose, step, clip)[token]; the `keep` smallest stay, ties by token. Structured modes first
 * add 2, once, to the noise of (int)(columns * ratio) columns (time), (int)(rows * ratio) rows (frequency), or both
 * with ratio * 0.7 (time_frequency); which ones is drawn the same way from the noise that follows the tokens' in the
 * stream: [tokens, tokens + columns) for columns, then [.., + rows) for rows; the smallest are taken. */
typedef struct cavmae__draw_masks {
    uint64_t seed;
    const uint64_t *step; /* device [1]: differs from step to step, as what is recorded once must not */
    uint32_t purpose;
    int32_t mode; /* 0 unstructured, 1 time, 2 frequency, 3 time_frequency */
    int32_t first, clips, rows, columns, keep;
    double ratio;
    uint8_t *mask; /* [clips, rows * columns] 1 = removed */
    void *workspace;
} cavmae__draw_masks;

/* Lists of a modality's tokens, rising within each clip. tokens, visible: where each clip's tokens and visible rows
 * start. A token's position is its row in the table of positional embeddings, whose grid is table_columns wide: (t /
 * columns) * table_columns + t % columns with the clip's own columns. */
typedef struct cavmae__index_tokens {
    cavmae__segments tokens, visible;
    const uint8_t *mask;    /* [tokens] 1 = removed; NULL: all visible */
    const int32_t *columns; /* [clips] */
    int32_t table_columns;
    /* For every visible row: its clip, its token within the clip, its position. */
    int32_t *visible_clip, *visible_token, *visible_position;
    /* For every token: its clip, itself within the clip, its position, the visible row it is (or -1), and 0 where it is
     * removed (or -1). NULL: not wanted. */
    int32_t *token_clip, *token_token, *token_position, *token_row, *token_removed;
} cavmae__index_tokens;

/* sum = sum of squares of x [count]; NaN or infinite where any element is. */
typedef struct cavmae__sum_squares {
    int64_t count;
    const float *x;
    double *sum; /* [1] */
    void *workspace;
} cavmae__sum_squares;

/* What an update's numbers are; in device memory, because it differs from step to step. */
typedef struct cavmae__update {
    double lr, grad_scale;
    int64_t number; /* 1, 2, ... */
} cavmae__update;

/* torch.optim.Adam (decoupled 0: weight_decay * p is added to the gradient) or AdamW (1), elements [count). The
 * gradient is multiplied by s = update->grad_scale first, and, where clip_norm > 0 and n = s sqrt(*sum_squares) is more
 * than that, by clip_norm / n too. Nothing changes where one of guard [guards] is not finite. */
typedef struct cavmae__adam {
    int64_t count;
    float *p, *m, *v;
    const float *grad;
    double lr_factor, beta1, beta2, eps, weight_decay, clip_norm;
    int32_t decoupled, guards;
    const cavmae__update *update; /* device [1] */
    const double *sum_squares;    /* device [1]: of the whole gradient, before scaling */
    const double *guard;          /* device */
} cavmae__adam;

/* Work that is asked for again and again: zero-initialised by its owner. */
typedef struct cavmae__repeat {
    uint64_t key;
    int32_t calls;  /* with this key; the backend's, too */
    void *recorded; /* the backend's */
} cavmae__repeat;

typedef cavmae_status cavmae__repeat_body(void *arg);

/* Sound to what the model hears, on the device: int16 samples at the model's rate. Clip i's `samples` begin at pcm + i *
 * samples; out [clips, frames, mel_bins], as cavmae__prepare_rows gives of the samples / 32768. */
typedef struct cavmae__spectrogram {
    int32_t clips, frames, mel_bins, sample_rate;
    int64_t samples;
    float mean, std;
    int32_t silence; /* 1: frames past the end are silence, 0: zeros before normalising */
    const int16_t *pcm;
    float *out;
    void *workspace;
} cavmae__spectrogram;

/* Pictures to what the model sees, on the device: pixels [count, height, width, channels], out [count, channels, size,
 * size], as cavmae__prepare_image gives. */
typedef struct cavmae__pictures {
    int32_t count, height, width, channels, size;
    int32_t filter;          /* CAVMAE__FILTER_* of contract.h */
    float mean[16], std[16]; /* by channel */
    const uint8_t *pixels;
    float *out;
    void *workspace;
} cavmae__pictures;

/* The k best rows by inner product for each query: rows and queries of length 1. ids, scores [queries, k], best first;
 * of equals the lower row first. k <= rows. */
typedef struct cavmae__top_k {
    int64_t rows;
    int32_t queries, width, k;
    const float *query, *row; /* [queries, width], [rows, width] */
    int64_t first_id;         /* of row 0 */
    int64_t *ids;
    float *scores;
    void *workspace;
} cavmae__top_k;

/* The largest of everything that a plan will ask of the operations. */
typedef struct cavmae__limits {
    int64_t rows;           /* of any matrix */
    int32_t width;          /* of any row, in elements */
    int64_t weight;         /* elements of the largest weight matrix */
    int32_t heads, longest; /* of any attention: heads, segment length */
    int32_t head_dim;
    int32_t clips;
    int32_t pairs, all_pairs; /* of any contrastive loss: count and total; 0: clips */
    int64_t tokens;           /* of one clip in one modality, or of both together */
    int32_t backward;         /* 1: backward operations will be called */
} cavmae__limits;

typedef struct cavmae__backend_ops {
    uint32_t struct_size;
    const char *name;
    int32_t host_memory; /* 1: device memory may be read and written by the host, too */

    /* Device memory, aligned to 64 bytes (CPU: through the context's allocator). */
    cavmae_status (*alloc)(cavmae__backend *, size_t size, void **out);
    void (*free)(cavmae__backend *, void *memory);
    /* `host` may also be this device's, as the API allows its callers. It is free when an upload returns. upload_ahead
     * need not wait for operations under way: none of them uses the destination; later ones see it. */
    cavmae_status (*upload)(cavmae__backend *, void *device, const void *host, size_t size);
    cavmae_status (*upload_ahead)(cavmae__backend *, void *device, const void *host, size_t size);
    cavmae_status (*download)(cavmae__backend *, void *host, const void *device, size_t size);
    /* The host's bytes to memory of the caller's: the host's, or this device's. */
    cavmae_status (*give)(cavmae__backend *, void *to, const void *host, size_t size);
    cavmae_status (*zero)(cavmae__backend *, void *device, size_t size);
    cavmae_status (*sync)(cavmae__backend *);
    size_t (*workspace_size)(cavmae__backend *, const cavmae__limits *);

    cavmae_status (*linear)(cavmae__backend *, const cavmae__linear *);
    cavmae_status (*linear_grad)(cavmae__backend *, const cavmae__linear_grad *);
    cavmae_status (*gelu)(cavmae__backend *, const cavmae__gelu *);
    cavmae_status (*convert)(cavmae__backend *, const cavmae__convert *);
    cavmae_status (*layernorm)(cavmae__backend *, const cavmae__layernorm *);
    cavmae_status (*layernorm_grad)(cavmae__backend *, const cavmae__layernorm *);
    cavmae_status (*attention)(cavmae__backend *, const cavmae__attention *);
    cavmae_status (*attention_grad)(cavmae__backend *, const cavmae__attention *);
    cavmae_status (*patches)(cavmae__backend *, const cavmae__patches *);
    cavmae_status (*place)(cavmae__backend *, const cavmae__place *);
    cavmae_status (*table_grad)(cavmae__backend *, const cavmae__table_grad *);
    cavmae_status (*combine)(cavmae__backend *, const cavmae__combine *);
    cavmae_status (*segment_mean)(cavmae__backend *, const cavmae__segment_mean *);
    cavmae_status (*segment_mean_grad)(cavmae__backend *, const cavmae__segment_mean *);
    cavmae_status (*mix)(cavmae__backend *, const cavmae__mix *);
    cavmae_status (*mix_grad)(cavmae__backend *, const cavmae__mix *);
    cavmae_status (*class_loss)(cavmae__backend *, const cavmae__class_loss *);
    cavmae_status (*mae_loss)(cavmae__backend *, const cavmae__mae_loss *);
    cavmae_status (*contrastive)(cavmae__backend *, const cavmae__contrastive *);
    cavmae_status (*draw_masks)(cavmae__backend *, const cavmae__draw_masks *);
    cavmae_status (*index_tokens)(cavmae__backend *, const cavmae__index_tokens *);
    cavmae_status (*sum_squares)(cavmae__backend *, const cavmae__sum_squares *);
    cavmae_status (*adam)(cavmae__backend *, const cavmae__adam *);

    /* Calls body, whose operations depend on `key`, on addresses that stay, and on device memory alone; or plays back what
     * an earlier call with this key recorded, without calling body. Only operations, and zero, may be in it. */
    cavmae_status (*repeat)(cavmae__backend *, cavmae__repeat *, uint64_t key, cavmae__repeat_body *body, void *arg);
    void (*repeat_free)(cavmae__backend *, cavmae__repeat *);

    /* NULL where host_memory is set: the host does it (lib/frontend, lib/infer). Workspace: as spectrogram_workspace
       and so on say. */
    cavmae_status (*spectrogram)(cavmae__backend *, const cavmae__spectrogram *);
    cavmae_status (*pictures)(cavmae__backend *, const cavmae__pictures *);
    cavmae_status (*top_k)(cavmae__backend *, const cavmae__top_k *);
    size_t (*spectrogram_workspace)(cavmae__backend *, const cavmae__spectrogram *);
    size_t (*pictures_workspace)(cavmae__backend *, const cavmae__pictures *);
    size_t (*top_k_workspace)(cavmae__backend *, const cavmae__top_k *);

    /* What it runs on and how: static text, or the backend's until it is closed. */
    const char *(*info)(cavmae__backend *);
    void (*close)(cavmae__backend *);
} cavmae__backend_ops;

/* First member of every backend's own struct. */
struct cavmae__backend {
    const cavmae__backend_ops *ops;
    cavmae_context *context; /* not owned: the context owns the backend */
};

/* The context's backend, opened when first asked for and closed with the context. Any thread. */
cavmae_status cavmae__context_backend(cavmae_context *context, cavmae__backend **out);

/* The CPU's. */
cavmae_status cavmae__cpu_backend_open(cavmae_context *context, cavmae__backend **out);

#endif
