/* The whole model on a batch of rows: encoders, joint encoder, decoder, losses, forward and backward, over buffers laid
 * out once. What training and embedding share. */
#ifndef CAVMAE_MODEL_NETWORK_H
#define CAVMAE_MODEL_NETWORK_H

#include "rows.h"

enum {
    CAVMAE__LOSS_MAE_A,
    CAVMAE__LOSS_MAE_V,
    CAVMAE__LOSS_C,
    CAVMAE__LOSS_CLASS,
    CAVMAE__ACCURACY,
    CAVMAE__SUM_SQUARES,
    CAVMAE__SCALARS
};

/* What losses are divided by: the batch's, or in a world that of all ranks. */
enum { CAVMAE__TOTAL_REMOVED_A, CAVMAE__TOTAL_REMOVED_V, CAVMAE__TOTAL_CLIPS, CAVMAE__TOTALS };

/* Batches of inputs that training has on the device: on a GPU one is copied while another is trained on. */
enum { CAVMAE__TURNS = 2 };
static inline int32_t cavmae__input_turns(const cavmae__backend *backend) {
    return backend->ops->host_memory ? 1 : CAVMAE__TURNS;
}

/* What training shows of a clip. */
enum { CAVMAE__SHOW_BOTH, CAVMAE__SHOW_AUDIO, CAVMAE__SHOW_VISUAL };

typedef struct cavmae__network {
    cavmae_model *model;
    cavmae__extent extent;
    cavmae__pass pass;
    cavmae__rows rows;
    cavmae__patch_source source[2];
    void *device_memory, *host_memory;

    /* What each layer keeps, host: one array, and where each stack's part of it starts. */
    cavmae__activations *keep, *encoder_keep[2], *joint_keep, *decoder_keep;

    /* Device buffers; those that only some tasks need are NULL in the others. */
    float *encoded;      /* [encoder, D] the encoders' outputs */
    float *joint;        /* [joint, D] the joint layers' output; without backward their input too */
    float *joint_normed; /* [joint, D] */
    float *joint_mean, *joint_rstd;
    float *pooled[3];        /* [segments of the stream, D] */
    float *longer_positions; /* [rows * columns, D] a table for clips longer than the model's */
    float *decoder_in;       /* [encoder, D] the decoded stream in the encoder's order */
    float *decoder_embedded; /* [encoder, Dd] */
    float *decoded;          /* [decoder, Dd] the decoder layers' output */
    float *decoded_normed;   /* [decoder, Dd] */
    float *decoded_mean, *decoded_rstd;
    float *predictor_in; /* [tokens, Dd] */
    float *predicted[2]; /* [tokens of m, p * p * C] */
    float *d_predicted[2], *d_pooled[3];
    /* The head's; its rows are clips or, with several pictures, pictures. */
    int64_t head_rows;
    float *mix, *mix_host;                   /* [parts, rows, 3] weights of the pooled streams */
    float *features, *features_normed;       /* [rows, head's width] */
    float *head_mean, *head_rstd;            /* [rows] */
    float *logits, *d_logits, *d_normed_row; /* [rows, classes]; [rows, head's width] */
    float *gradient[2];                      /* two buffers as large as any residual stream, for going back */
    double *scalars;                         /* [CAVMAE__SCALARS] zeroed by the caller: losses are added to them */
    double *totals;                          /* [CAVMAE__TOTALS] set by the caller */
} cavmae__network;

/* Sizes of what a network takes, without a model or a device; `workspace` is asked of the backend. */
cavmae_status cavmae__network_size(cavmae_context *context, const cavmae__options *options,
                                   const cavmae__extent *extent, size_t *activations, size_t *workspace);

cavmae_status cavmae__network_create(cavmae_model *model, const cavmae__extent *extent, int32_t recompute,
                                     cavmae__network **out);
void cavmae__network_free(cavmae__network *network); /* the model is not owned */

/* The batch's rows: lists on both sides. Inputs (device) are set in network->source[m].data. */
cavmae_status cavmae__network_batch(cavmae__network *network, const cavmae__batch_rows *batch);

/* Visible patches -> encoders -> joint encoder -> its norms. joint_normed holds the wanted streams. */
cavmae_status cavmae__network_encode(cavmae__network *network);
/* Means of the streams in extent.pool. */
cavmae_status cavmae__network_pool(cavmae__network *network);
/* Predictions and reconstruction losses; removed[m]: masked tokens of each modality in the batch, 0: no loss. Scalars get
 * the losses, over the totals. */
cavmae_status cavmae__network_decode(cavmae__network *network, const int64_t removed[2], double weight,
                                     int32_t norm_pix);
/* What the head is to see of each clip, as mode (CAVMAE_MODE_*) and head_input say; shown [clips]: CAVMAE__SHOW_* of each
 * in mode multimodal, NULL: both. Part of putting a batch on the device. */
cavmae_status cavmae__network_put_mode(cavmae__network *network, int32_t mode, const uint8_t *shown);
/* The head, on the last batch's pooled streams. */
cavmae_status cavmae__network_features(cavmae__network *network);
cavmae_status cavmae__network_logits(cavmae__network *network);
/* Gradients of the head from d_logits; and of the pooled streams, where the encoders have a backward pass. */
cavmae_status cavmae__head_backward(cavmae__network *network);
/* The encoders' part of backward, from d_normed, the gradient of joint_normed where it was decoded. */
cavmae_status cavmae__encoder_backward(cavmae__network *network, float *d_normed, float *spare);
/* All gradients, from d_predicted and d_pooled to the patch embeddings. */
cavmae_status cavmae__network_backward(cavmae__network *network);

#endif
