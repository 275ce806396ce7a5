/* cavmae.h: CAV-MAE (Gong et al., ICLR 2023, contrastive audio-visual masked autoencoder) and its family.
 *
 * This header is the whole API and its manual; read it from top to bottom. A first program needs three calls:
 *
 *     cavmae_context *ctx; cavmae_model *model; float audio[768], visual[768];
 *     cavmae_context_create(NULL, &ctx);
 *     cavmae_model_load(ctx, "model.safetensors", 0, NULL, &model);
 *     cavmae_embedding out = {sizeof out, 0, audio, visual};
 *     cavmae_embed_file(model, "clip.mp4", &out);
 *
 * and a training loop: config, model, optimizer, trainer, loader, then cavmae_pretrain_step until done.
 *
 * Letters. B clips in a batch; T spectrogram frames (10 ms each); F mel bins; C, H, W channels, height and
 * width of an image in pixels; p patch side; La = (F/p)(T/p) audio tokens, ordered frequency-major (token =
 * f * (T/p) + t); Lv = (H/p)(W/p) visual tokens, row-major; D embedding width; P parameters' elements.
 * Arrays are C-contiguous and lie in host memory unless said otherwise.
 *
 * Handles. They are opaque and made by _create, _load or _open. _free takes NULL, returns nothing, and may be called in
 * any order: what an object needs of another it keeps alive by itself.
 *
 * Errors. Every call that can fail returns a cavmae_status: 0, or a negative number that never changes its
 * meaning. cavmae_last_error() then has one sentence for the calling thread. Results are written only on
 * success, but for arrays of the caller's that a call fills piece by piece: after a failure their contents are
 * undefined. Calls that return a value instead give 0 or NULL for a NULL object. The library never exits, aborts,
 * prints, or changes state of the process.
 *
 * Threads. Different objects may be used in different threads at the same time. One object may move between
 * threads but be used by one at a time, except where a function says "any thread": those may run at once on the
 * same object. A context, and a config that nobody changes meanwhile, may be given to calls of any threads at once;
 * only cavmae_context_free and _device_info want a context alone. A context's callbacks may be called from any thread
 * that uses one of its objects, and log, alloc and free also from its loaders' threads. They must not call back into an
 * object of that context.
 *
 * Records. Structs whose first field is struct_size, which the caller sets to sizeof; fields that the caller did not
 * know are taken as zero, and zero always means the default. They only grow at the end.
 *
 * Device memory. Where a comment says so, a pointer may also be to memory of the CUDA device that the context uses.
 * It is read and written after all that was queued before the call on the device's default stream, and when the call
 * returns that is done. Memory of another device is ARG; with a context on the CPU it must not be passed.
 *
 * "Since" names the first version with a declaration; those without are there since 1.0.
 */
#ifndef CAVMAE_H
#define CAVMAE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define CAVMAE_API __attribute__((visibility("default")))
#define CAVMAE_CHECKED __attribute__((warn_unused_result))
#else
#define CAVMAE_API
#define CAVMAE_CHECKED
#endif

/* ---- Version ------------------------------------------------------------------------------------------- */

#define CAVMAE_VERSION_MAJOR 1
#define CAVMAE_VERSION_MINOR 0
#define CAVMAE_VERSION_PATCH 0
#define CAVMAE_VERSION_NUMBER (CAVMAE_VERSION_MAJOR * 10000 + CAVMAE_VERSION_MINOR * 100 + CAVMAE_VERSION_PATCH)
#define CAVMAE_VERSION_STRING "1.0.0"

/* Of the library that is loaded, which may be newer than this header. Any thread. */
CAVMAE_API uint32_t cavmae_version(void);
CAVMAE_API const char *cavmae_version_string(void);

/* One line of "key=value" pairs: version, compiler, instruction sets built and the one this machine takes,
 * versions of the libraries in use. Static text. Any thread. */
CAVMAE_API const char *cavmae_build_info(void);

/* ---- Status -------------------------------------------------------------------------------------------- */

typedef int32_t cavmae_status;
#define CAVMAE_OK ((cavmae_status)0)
#define CAVMAE_E_ARG ((cavmae_status)-1)         /* an argument or option is out of its range, or NULL */
#define CAVMAE_E_NOMEM ((cavmae_status)-2)       /* the allocator gave nothing */
#define CAVMAE_E_SHAPE ((cavmae_status)-3)       /* sizes do not fit together */
#define CAVMAE_E_IO ((cavmae_status)-4)          /* a file cannot be opened, read or written */
#define CAVMAE_E_FORMAT ((cavmae_status)-5)      /* a file's contents are damaged, lying, or of an unknown kind */
#define CAVMAE_E_NOT_FOUND ((cavmae_status)-6)   /* no such key, tensor or preset */
#define CAVMAE_E_MISMATCH ((cavmae_status)-7)    /* a file's tensors are not the model's */
#define CAVMAE_E_UNSUPPORTED ((cavmae_status)-8) /* this build, file or machine cannot do that */
#define CAVMAE_E_MEDIA ((cavmae_status)-9)       /* a media file has no such track or cannot be decoded */
#define CAVMAE_E_BACKEND ((cavmae_status)-10)    /* a device or plug-in was asked for and cannot be had */
#define CAVMAE_E_CANCELLED ((cavmae_status)-11)  /* the cancel callback said so */
#define CAVMAE_E_NOT_FINITE ((cavmae_status)-12) /* a loss, gradient or embedding is NaN or infinite */
#define CAVMAE_E_STATE ((cavmae_status)-13)      /* the call does not fit what the object is doing */
#define CAVMAE_E_PEER ((cavmae_status)-14)     /* another rank of a world failed, is missing, or does something else */
#define CAVMAE_E_INTERNAL ((cavmae_status)-99) /* a fault of this library: please report it */

/* Static text, never NULL. Any thread. */
CAVMAE_API const char *cavmae_status_str(cavmae_status status);

/* The sentence of this thread's last failed call; "" if none failed yet. Valid until this thread's next call
 * that fails. */
CAVMAE_API const char *cavmae_last_error(void);

/* ---- Context: memory, threads, device, messages ---------------------------------------------------------- */

typedef struct cavmae_context cavmae_context;

#define CAVMAE_LOG_ERROR 10
#define CAVMAE_LOG_WARNING 20
#define CAVMAE_LOG_INFO 30
#define CAVMAE_LOG_DEBUG 40

typedef struct cavmae_context_options {
    uint32_t struct_size;
    int32_t threads;    /* working threads, the caller's own included; 0: one for each CPU this process may use */
    const char *device; /* "cpu", "cuda", "cuda:N", "auto"; NULL: "cpu". Only "auto" falls back, and says so in
                              * the log */
    const char
        *plugin_dir; /* where libcavmae-*.so lie; NULL: beside the library, then the directory it was built for */
    /* Allocator: both or neither. alloc gives `size` bytes aligned for any type, or NULL; must be thread-safe. */
    void *(*alloc)(void *user, size_t size);
    void (*free)(void *user, void *memory);
    void *alloc_user;
    /* Messages of `log_level` and below; silent when NULL. Must be thread-safe. */
    void (*log)(void *user, int32_t level, const char *message);
    void *log_user;
    int32_t log_level; /* CAVMAE_LOG_*; 0: CAVMAE_LOG_WARNING */
    int32_t reserved;  /* 0 */
    /* Asked between layers, files, pictures and pieces of sound, in the thread whose call it is; non-zero ends the call
     * with CAVMAE_E_CANCELLED. */
    int32_t (*cancel)(void *user);
    void *cancel_user;
    /* How far a long call has come: `done` of `total` (0: unknown) of `what`, in English. */
    void (*progress)(void *user, const char *what, int64_t done, int64_t total);
    void *progress_user;
    /* GPUs: which of several ways of computing a product or attention is fastest is measured when a shape is first
     * seen, and remembered in this file, made where it is not there. NULL: a fixed rule, nothing is measured, and
     * two runs have the same bits without sharing a file. */
    const char *tuning_file;
    /* GPUs: "dtype" (NULL): products of operands as they are; "tf32": those of float32 models with 10 bits of mantissa;
     * "fp8": those of bfloat16 models with e4m3 operands, each row scaled by its own largest value, for embedding only
     * (sm_90). What a device cannot do is UNSUPPORTED when it is asked for. */
    const char *matmul;
    /* GPUs: who computes bfloat16 attention: "own" kernels, "cudnn", or "auto" (NULL): the faster with a tuning_file,
     * else own. */
    const char *attention;
    /* GPUs: bfloat16 models take GELU's tanh form, which costs nothing beside a product there (it differs from the
     * exact one by at most 4.8e-4); 1: the exact one, as everywhere else. */
    int32_t exact_gelu;
    int32_t reserved2; /* 0 */
} cavmae_context_options;

/* options NULL: all defaults. Errors: ARG, NOMEM, BACKEND (device not there, with the loader's words). */
CAVMAE_API cavmae_status cavmae_context_create(const cavmae_context_options *options,
                                               cavmae_context **out) CAVMAE_CHECKED;
CAVMAE_API void cavmae_context_free(cavmae_context *context);

/* The device in use, e.g. "cpu" or "cuda:0"; lives as long as the context. Any thread. */
CAVMAE_API const char *cavmae_context_device(const cavmae_context *context);
/* What the device is and what computes on it, in one or more lines: "cpu (avx512)"; a GPU's name, architecture,
 * memory and libraries, and how attention of each shape seen so far is computed. Lives until the next call or the
 * context's end. One thread at a time. */
CAVMAE_API cavmae_status cavmae_context_device_info(cavmae_context *context, const char **out) CAVMAE_CHECKED;
/* Working threads, the caller's own included: what `threads` said or 0 came to. Any thread. */
CAVMAE_API int32_t cavmae_context_threads(const cavmae_context *context);

/* ---- Configuration --------------------------------------------------------------------------------------- */

/* All options of model, input contract, objective, training and data, by number (for programs) or by name (for
 * command lines and files: the lower-case words in the comments). Integers and real numbers are set with _i64 and
 * _f64, words with _str; cavmae_config_set takes any as text. A key's range is checked when it is set; what must
 * fit together is checked by cavmae_config_check and by every call that takes the config, which then copies it. */
typedef struct cavmae_config cavmae_config;

/* Model. Stored in every model file. */
#define CAVMAE_P_IMAGE_SIZE 100     /* image_size: H = W; multiple of patch_size. 224 */
#define CAVMAE_P_IMAGE_CHANNELS 101 /* image_channels: C. 3 */
#define CAVMAE_P_AUDIO_FRAMES 102   /* audio_frames: T; multiple of patch_size. 1024 */
#define CAVMAE_P_MEL_BINS 103       /* mel_bins: F; multiple of patch_size. 128 */
#define CAVMAE_P_PATCH_SIZE 104     /* patch_size: p. 16 */
#define CAVMAE_P_EMBED_DIM 105      /* embed_dim: D; multiple of 4 and of num_heads. 768 */
#define CAVMAE_P_NUM_HEADS 106      /* num_heads. 12 */
#define CAVMAE_P_MODALITY_DEPTH 107 /* modality_depth: layers of each single-modality encoder. 11 */
#define CAVMAE_P_JOINT_DEPTH 108    /* joint_depth: layers of the joint encoder. 1 */
#define CAVMAE_P_DECODER_DIM 109    /* decoder_dim. 512 */
#define CAVMAE_P_DECODER_HEADS 110  /* decoder_heads. 16 */
#define CAVMAE_P_DECODER_DEPTH 111  /* decoder_depth. 8 */
#define CAVMAE_P_MLP_RATIO 112      /* mlp_ratio: hidden width is (int)(D * mlp_ratio). 4.0 */
#define CAVMAE_P_LAYER_NORM_EPS 113 /* layer_norm_eps. 1e-5 (MAE's own code: 1e-6) */
#define CAVMAE_P_TRAINABLE_POS 114  /* trainable_pos: positional embeddings learn. 0 */
#define CAVMAE_P_MODALITIES                                                                                            \
    115                      /* modalities: "av"; "a" or "v": Audio-MAE or Visual-MAE, without the other's
                                      * parameters */
#define CAVMAE_P_DTYPE 116   /* dtype: "float32" or "bfloat16" activations and products; parameters stay float32 */
#define CAVMAE_P_SEED 117    /* seed: of initialisation, masks, order and augmentation. 0 */
#define CAVMAE_P_CLASSES 118 /* classes: above 0 a head for so many classes ("mlp_head") takes the decoder's place. 0 */
#define CAVMAE_P_DECODER 119 /* decoder: 0 leaves it out: an encoder to embed with. 1 */
#define CAVMAE_P_HEAD 120    /* head: "norm_linear" (LayerNorm, then linear; the reference) or "linear" */
#define CAVMAE_P_HEAD_INPUT                                                                                            \
    121 /* head_input: what the head sees of a clip with both modalities, mean-pooled:
                                      * "joint" stream (the paper's and the reference's), "sum" or "concat" of the
                                      * single streams (paper, table 2f) */

/* Input contract: what the numbers that go into the model mean. Stored in every model file. */
#define CAVMAE_P_SAMPLE_RATE 200   /* sample_rate: Hz that sound is resampled to. 16000 */
#define CAVMAE_P_AUDIO_CHANNEL 201 /* audio_channel: "first" (as the reference) or "mean" */
#define CAVMAE_P_RESAMPLER 202     /* resampler: "best", "medium" or "fastest" sinc of libsamplerate. "best" */
#define CAVMAE_P_AUDIO_LENGTH                                                                                          \
    203                           /* audio_length: "pad": cut at T or append zero rows before normalising (the
                                    * reference: these become +1.133); "silence": append rows of the log-mel floor
                                    * instead; "native": as long as the clip is, rounded up to a patch with rows of
                                    * the floor */
#define CAVMAE_P_AUDIO_MEAN 204   /* audio_mean: log-mel is normalised to (x - mean) / std. -5.081 */
#define CAVMAE_P_AUDIO_STD 205    /* audio_std. 4.4849 */
#define CAVMAE_P_IMAGE_FILTER 206 /* image_filter: "bicubic" or "bilinear", both antialiased as in Pillow. "bicubic" */
#define CAVMAE_P_IMAGE_MEAN                                                                                            \
    207                        /* image_mean: one number for each of C channels, of pixels in [0, 1].
                                    * "0.485,0.456,0.406" */
#define CAVMAE_P_IMAGE_STD 208 /* image_std. "0.229,0.224,0.225" */
#define CAVMAE_P_CLIP_FRAMES                                                                                           \
    209 /* clip_frames: frames chosen uniformly from a video, frame i at i/clip_frames of
                                    * its length. 10 */

/* Objective. Weights of 0 drop a loss and all work that only it needs: CAV-MAE 1 and 0.01; AV-MAE contrast_weight 0;
 * CAV mae_weight 0; vanilla AV-MAE modality_depth 0 and contrast_weight 0. */
#define CAVMAE_P_MAE_WEIGHT 300           /* mae_weight. 1.0 */
#define CAVMAE_P_CONTRAST_WEIGHT 301      /* contrast_weight: lambda_c. 0.01 */
#define CAVMAE_P_CONTRAST_TEMPERATURE 302 /* contrast_temperature: tau. 0.05 */
#define CAVMAE_P_CONTRAST_DIRECTION                                                                                    \
    303 /* contrast_direction: "v2a" (for each image a softmax over the audios, as
                                         * the reference), "a2v", or "both" (mean) */
#define CAVMAE_P_NORM_PIX_LOSS                                                                                         \
    304                           /* norm_pix_loss: targets normalised patch by patch, which takes more than
                                         * one number each. 1 */
#define CAVMAE_P_MASK_RATIO_A 305 /* mask_ratio_a: (int)(La * (1 - ratio)) audio tokens stay. 0.75 */
#define CAVMAE_P_MASK_RATIO_V 306 /* mask_ratio_v. 0.75 */
#define CAVMAE_P_MASK_MODE_A 307  /* mask_mode_a: "unstructured", "time", "frequency", "time_frequency" */
#define CAVMAE_P_MASK_MODE_V 308  /* mask_mode_v: the same; time is the column, frequency the row. "unstructured" */
#define CAVMAE_P_MASK_DOMAIN                                                                                           \
    309 /* mask_domain: "modality", or "joint": mask_ratio_a over the concatenation
                                         * of both, unstructured (the paper's vanilla AV-MAE) */

/* Objective of models with a head. */
#define CAVMAE_P_LOSS                                                                                                  \
    310 /* loss: "bce" (with logits, mean over B x classes) or "ce" (soft targets, mean over B); also says whether
         * scores are sigmoids or a softmax */
#define CAVMAE_P_MODE                                                                                                  \
    311 /* mode: by the reference's names, "multimodal"; "audioonly", "videoonly": one modality through its own
         * stream, trained so; "missingaudioonly", "missingvideoonly": a model that was trained on both gets one,
         * and averages the unified stream and that modality's. The modality's LayerNorms had no gradient in such a
         * training, so this is weak (the reference: 13.1 mAP where videoonly has 19.8): train with
         * modality_dropout instead, and evaluate with audioonly or videoonly. Models of one modality have no other
         * mode than theirs */
#define CAVMAE_P_MODALITY_DROPOUT                                                                                      \
    312 /* modality_dropout: probability that training shows a clip with one modality only, either at equal odds,
         * through that modality's own stream. Mode multimodal only. 0 */

/* Objective of a world's ranks. */
#define CAVMAE_P_CONTRAST_SCOPE                                                                                        \
    313 /* contrast_scope: what a clip is contrasted with: "local", its shard of the batch (the paper: 27 clips on each
         * of 4 GPUs), or "global", the batch of the whole world, with exact gradients */
#define CAVMAE_P_CONTRAST_SHARDS                                                                                       \
    314 /* contrast_shards: equal parts of the world's batch that contrast_scope local means; a multiple of the
         * ranks, so that one GPU trains as four did. 0: as many as ranks. 0 */
#define CAVMAE_P_LOSS_REDUCE                                                                                           \
    315 /* loss_reduce: "mean" over the world's clips, or "sum": the gradient is that of the sum of the shards'
         * losses, as the reference's DataParallel. Reported losses are means */

/* Training. */
#define CAVMAE_P_OPTIMIZER                                                                                             \
    400                           /* optimizer: "adam" (weight decay added to the gradient, as torch.optim.Adam) or
                                    * "adamw" */
#define CAVMAE_P_LR 401           /* lr. 5e-5 */
#define CAVMAE_P_BETA1 402        /* beta1. 0.95 */
#define CAVMAE_P_BETA2 403        /* beta2. 0.999 */
#define CAVMAE_P_ADAM_EPS 404     /* adam_eps. 1e-8 */
#define CAVMAE_P_WEIGHT_DECAY 405 /* weight_decay. 5e-7 */
#define CAVMAE_P_CLIP_NORM 406    /* clip_norm: gradients are scaled down to this L2 norm; 0: not clipped. 0 */
#define CAVMAE_P_ACCUMULATE 407   /* accumulate: batches whose mean gradient makes one update. 1 */
#define CAVMAE_P_RECOMPUTE                                                                                             \
    408 /* recompute: what is computed again going back instead of being kept: 1: of each layer all but
                                    * its input (activations a fifth as large, steps up to a third slower); 2: GELU's
                                    * outputs (activations a quarter smaller). 0 */
#define CAVMAE_P_SCHEDULE                                                                                              \
    409                           /* schedule: "multistep" (lr * gamma ^ milestones passed; no milestones: constant)
                                    * or "cosine" */
#define CAVMAE_P_MILESTONES 410   /* milestones: updates, rising, e.g. "1000,2000". "" */
#define CAVMAE_P_GAMMA 411        /* gamma. 0.5 */
#define CAVMAE_P_WARMUP_STEPS 412 /* warmup_steps: updates over which lr rises from 0 to its value. 0 */
#define CAVMAE_P_TOTAL_STEPS 413  /* total_steps: updates after which cosine has reached min_lr; needed by it. 0 */
#define CAVMAE_P_MIN_LR 414       /* min_lr. 0 */
#define CAVMAE_P_MILESTONE_UNIT                                                                                        \
    415 /* milestone_unit: updates that a milestone counts; set to an epoch's updates, milestones are epochs. 1 */
#define CAVMAE_P_HEAD_LR_FACTOR 416 /* head_lr_factor: the head's lr is lr times this. 1 */
#define CAVMAE_P_FREEZE_BASE                                                                                           \
    417 /* freeze_base: 1 trains the head alone (linear probe): no backward pass through the encoder */
#define CAVMAE_P_EPOCHS 418 /* epochs: how long a recipe trains; for programs, the library does not read it. 25 */
#define CAVMAE_P_AVERAGE_FROM                                                                                          \
    419 /* average_from: a recipe's first epoch whose checkpoint goes into the average; for programs. 0: none. 0 */
#define CAVMAE_P_CHUNK                                                                                                 \
    420 /* chunk: clips of a rank's batch that are computed at once, for contrastive batches that memory does not hold:
         * first all embeddings, then, chunk by chunk with the same masks again, losses and gradients, which are exactly
         * the whole batch's. Pretraining only. 0: all at once */
#define CAVMAE_P_REDUCE_DTYPE 421 /* reduce_dtype: of gradients on their way between ranks: "float32" or "bfloat16" */
#define CAVMAE_P_BUCKET_MB                                                                                             \
    422 /* bucket_mb: gradients are sent in pieces of so many MiB, while others are computed. 25 */
#define CAVMAE_P_SHARD_OPTIMIZER                                                                                       \
    423 /* shard_optimizer: 1: each rank holds and updates its part of Adam's moments alone (a world's share of 8 bytes
         * a parameter). 0 */

/* Data. */
#define CAVMAE_P_BATCH 500     /* batch: clips of a step, of all ranks of a world together. 48 */
#define CAVMAE_P_SHUFFLE 501   /* shuffle: a new order each epoch, a function of seed and epoch alone. 1 */
#define CAVMAE_P_DROP_LAST 502 /* drop_last: leave out an epoch's last, smaller batch. 1 */
#define CAVMAE_P_NOISE 503     /* noise: the reference's: U[0,1) * U[0,1) / 10 added after normalising. 0 */
#define CAVMAE_P_ROLL 504      /* roll: circular shift along time by up to +-T frames. 0 */
#define CAVMAE_P_FRAME                                                                                                 \
    505 /* frame: which of the clip's frames: 0..; -1: the middle one; -2: a random one; -3: all clip_frames of them,
         * for evaluation (a batch then has `frames`). -1 */
#define CAVMAE_P_BROKEN                                                                                                \
    506 /* broken: "error": a sample that cannot be read ends the call; "skip": it is
                                     * left out, logged and counted */
#define CAVMAE_P_LOADER_THREADS                                                                                        \
    507                    /* loader_threads: that read and prepare; order and contents do not depend on it. 2 */
#define CAVMAE_P_QUEUE 508 /* queue: batches prepared ahead. 4 */
#define CAVMAE_P_MIXUP                                                                                                 \
    509 /* mixup: probability that a sample is mixed with another, drawn uniformly: waveforms (the second cut or filled
         * up to the first), pictures and labels, by lambda of Beta(mixup_alpha, mixup_alpha). A sample whose other
         * cannot be read is broken as well. 0 (the reference tunes with 0.5) */
#define CAVMAE_P_MIXUP_ALPHA 510 /* mixup_alpha. 10 */
#define CAVMAE_P_FREQ_MASK                                                                                             \
    511 /* freq_mask: SpecAugment, one band of fewer than so many mel bins. 0: none (the reference: 48) */
#define CAVMAE_P_TIME_MASK 512 /* time_mask: one stretch of fewer than so many frames. 0 (the reference: 192) */
#define CAVMAE_P_SPECAUG_FILL                                                                                          \
    513 /* specaug_fill: "zero": 0 before normalising, which then is +1.133 (the reference); "mean": 0 after it */
#define CAVMAE_P_LABEL_SMOOTHING                                                                                       \
    514 /* label_smoothing: eps. Others eps / classes, the clip's own 1 - eps; labels with weights in proportion in
         * between. 0 (the reference: 0.1) */
#define CAVMAE_P_SMOOTHING_FORM                                                                                        \
    515 /* smoothing_form: "reference": as above, and under mixup the own ones are added to the others' value;
         * "normalised": (1 - eps) * label + eps / classes */
#define CAVMAE_P_BALANCED                                                                                              \
    516 /* balanced: 1 draws an epoch's samples with replacement, each with weight sum over its labels of 1000 /
         * (the label's count + 0.01), as the reference; labels count as much as they weigh. Takes the place of
         * shuffle */
#define CAVMAE_P_SHUFFLE_PAIRS                                                                                         \
    517 /* shuffle_pairs: 1 gives every sound the picture of another clip, the same one all the time (the paper's
         * study, table 16). 0 */

/* preset: "base" (the paper's), "tiny" (for tests: T 128, H 64, D 32, 4 heads, 3+1 layers, decoder 16 x 2); NULL:
 * "base". Or a recipe's name, over "base". Errors: NOT_FOUND, NOMEM. */
CAVMAE_API cavmae_status cavmae_config_create(cavmae_context *context, const char *preset,
                                              cavmae_config **out) CAVMAE_CHECKED;
/* Sets the keys of a recipe, and no others, on top of what the config has, all or none of them. Pretraining, numbers
 * of the reference's scripts: "pretrain-paper" (12 epochs, batch 48, as the paper's text), "pretrain-base" (25
 * epochs), "pretrain-scale+" (batch 108), "pretrain-scale+120", "pretrain-scale++" (256). Fine-tuning:
 * "finetune-as20k", "finetune-as2m", "finetune-vggsound"; they set the head and trainable_pos too. milestones are
 * then epochs: set milestone_unit to an epoch's updates. NOT_FOUND lists the names. */
CAVMAE_API cavmae_status cavmae_config_apply(cavmae_config *config, const char *recipe) CAVMAE_CHECKED;
/* A copy, which shares nothing with it but the world. */
CAVMAE_API cavmae_status cavmae_config_clone(const cavmae_config *config, cavmae_config **out) CAVMAE_CHECKED;
CAVMAE_API void cavmae_config_free(cavmae_config *config);

/* Errors: NOT_FOUND (no such key), ARG (not of that type, or out of range; the text says the range). */
CAVMAE_API cavmae_status cavmae_config_set_i64(cavmae_config *config, int32_t key, int64_t value) CAVMAE_CHECKED;
CAVMAE_API cavmae_status cavmae_config_set_f64(cavmae_config *config, int32_t key, double value) CAVMAE_CHECKED;
CAVMAE_API cavmae_status cavmae_config_set_str(cavmae_config *config, int32_t key, const char *value) CAVMAE_CHECKED;
CAVMAE_API cavmae_status cavmae_config_set(cavmae_config *config, const char *name, const char *value) CAVMAE_CHECKED;
CAVMAE_API cavmae_status cavmae_config_get_i64(const cavmae_config *config, int32_t key, int64_t *out) CAVMAE_CHECKED;
CAVMAE_API cavmae_status cavmae_config_get_f64(const cavmae_config *config, int32_t key, double *out) CAVMAE_CHECKED;
/* Any key as text; valid until the key is set again or the config freed. */
CAVMAE_API cavmae_status cavmae_config_get_str(const cavmae_config *config, int32_t key,
                                               const char **out) CAVMAE_CHECKED;

#define CAVMAE_TYPE_I64 1
#define CAVMAE_TYPE_F64 2
#define CAVMAE_TYPE_STR 3

typedef struct cavmae_key_info {
    uint32_t struct_size;
    int32_t key;
    int32_t type; /* CAVMAE_TYPE_* */
    int32_t reserved;
    const char *name;    /* static */
    double min, max;     /* numbers: inclusive range */
    const char *choices; /* words: "a|b|c", or NULL where any text goes; static */
} cavmae_key_info;

/* The index-th key, 0, 1, ... in order of number. NOT_FOUND past the last. Any thread. */
CAVMAE_API cavmae_status cavmae_config_key_info(int32_t index, cavmae_key_info *out) CAVMAE_CHECKED;

/* Everything that must fit together: SHAPE or ARG with the key's name. */
CAVMAE_API cavmae_status cavmae_config_check(const cavmae_config *config) CAVMAE_CHECKED;

/* ---- Worlds: ranks that work together ---------------------------------------------------------------------- */

/* Ranks 0 .. size - 1, each with a context of its own: processes on one machine or many, or threads of one process.
 * A config that has one (cavmae_config_set_world) makes optimizers, trainers and loaders that work in parallel on
 * the data of a step: each rank computes its share of the batch, gradients are added, and parameters stay the same
 * everywhere. What it computes is what one process computes with the whole batch, up to rounding; the same world
 * gives the same bits.
 *
 * Calls marked "collective" are made by every rank, in the same order. Before anything is exchanged ranks compare
 * what each is about to do, and a failure here is told to all of them: PEER names the rank, what it did, and what
 * was expected. A rank that is not heard of within `timeout` makes the others fail with PEER, too; the world is then
 * broken, and every call on it fails in the same way. Where an update was cut off so (on a GPU, or with
 * shard_optimizer), the model's parameters are undefined: go on from a checkpoint.
 *
 * How ranks find one another is the program's business, as are their numbers: examples/lib/open_world.h reads what
 * torchrun, Slurm and mpirun say. */
typedef struct cavmae_world cavmae_world;

typedef struct cavmae_world_options {
    uint32_t struct_size;
    int32_t rank, size; /* this one of so many; not read by _create_threads and _create_mpi */
    int32_t reserved;   /* 0 */
    double timeout;     /* seconds that a collective may take, waiting for the others included. 0: 30 */
    /* A folder that all ranks see, or NULL: each keeps a small file there of the last collective that it began and
     * ended, so that an error after a timeout says which rank is behind. Removed with the world. Threads need none. */
    const char *watch_dir;
} cavmae_world_options;

/* What moves data between ranks: the caller's own functions (an MPI of another make, gloo through Python, sockets).
 * Host memory. Each returns when this rank's part is done: a cavmae_status, with a sentence in error [error_size].
 * They are called by one thread of the library's, one at a time, in the same order on all ranks. dtype:
 * CAVMAE_FLOAT32, FLOAT64 or BFLOAT16 (added in float32 or better). */
typedef struct cavmae_collectives {
    uint32_t struct_size;
    int32_t version;  /* 1 */
    const char *name; /* for messages: "gloo"; lives as long as the world */
    void *user;
    /* data [count] = sum over the ranks, the same bits on each. */
    cavmae_status (*all_reduce)(void *user, int32_t dtype, void *data, int64_t count, char *error, size_t error_size);
    /* receive [count] = sum over the ranks of their send [size, count], row `rank`; may be that row of send. */
    cavmae_status (*reduce_scatter)(void *user, int32_t dtype, const void *send, void *receive, int64_t count,
                                    char *error, size_t error_size);
    /* receive [size, bytes] = each rank's send [bytes], which may be its row of receive. */
    cavmae_status (*all_gather)(void *user, const void *send, void *receive, int64_t bytes, char *error,
                                size_t error_size);
    /* data [bytes] of rank root, to all. */
    cavmae_status (*broadcast)(void *user, void *data, int64_t bytes, int32_t root, char *error, size_t error_size);
    /* Returns when all ranks have called it. */
    cavmae_status (*barrier)(void *user, char *error, size_t error_size);
    /* From another thread: the call under way and all later ones return soon, with a failure. NULL: a call that never
     * returns is left behind, with its thread; the memory that it was given must stay. */
    void (*abort)(void *user);
    void (*close)(void *user); /* with the world, not where none was made; NULL: nothing to do */
} cavmae_collectives;

/* The caller's functions. The record is copied. Collective. */
CAVMAE_API cavmae_status cavmae_world_create(cavmae_context *context, const cavmae_world_options *options,
                                             const cavmae_collectives *carrier, cavmae_world **out) CAVMAE_CHECKED;
/* Threads of one process: contexts [size], one for each rank; out [size]. Made by one thread; each rank then uses
 * its own world, and frees it. options may be NULL. For models on the CPU; several GPUs of one process take NCCL. */
CAVMAE_API cavmae_status cavmae_world_create_threads(cavmae_context *const *contexts, int32_t size,
                                                     const cavmae_world_options *options,
                                                     cavmae_world **out) CAVMAE_CHECKED;
/* The system's MPI, through libcavmae-mpi.so. comm: a pointer to an MPI_Comm, which is duplicated, or NULL:
 * MPI_COMM_WORLD. MPI is initialised where it is not, and then finalised with the world: of several, that one is
 * freed last, and after it there is no MPI in this process any more (STATE). Where the program has initialised it,
 * it has asked for MPI_THREAD_SERIALIZED, and makes no call of its own during one of ours, or for MULTIPLE (else
 * UNSUPPORTED). For models on the CPU. Collective. BACKEND: no plug-in, or no MPI. */
CAVMAE_API cavmae_status cavmae_world_create_mpi(cavmae_context *context, const cavmae_world_options *options,
                                                 const void *comm, cavmae_world **out) CAVMAE_CHECKED;

#define CAVMAE_NCCL_ID_SIZE 128
/* NCCL between GPUs: rank 0 makes an id [CAVMAE_NCCL_ID_SIZE], new for each world, and the program brings it to the
 * others. The context's device is the rank's. Collective: it waits for the others, `timeout` at the most. For models of
 * this context. A world of one opens no NCCL. BACKEND: no NCCL; UNSUPPORTED: the context's device is no GPU. */
CAVMAE_API cavmae_status cavmae_nccl_id(cavmae_context *context, uint8_t *id) CAVMAE_CHECKED;
CAVMAE_API cavmae_status cavmae_world_create_nccl(cavmae_context *context, const cavmae_world_options *options,
                                                  const uint8_t *id, cavmae_world **out) CAVMAE_CHECKED;

CAVMAE_API void cavmae_world_free(cavmae_world *world);
/* 0 and 1 for NULL. */
CAVMAE_API int32_t cavmae_world_rank(const cavmae_world *world);
CAVMAE_API int32_t cavmae_world_size(const cavmae_world *world);
/* "threads", "mpi", "nccl", or the caller's name; NULL for NULL. */
CAVMAE_API const char *cavmae_world_carrier(const cavmae_world *world);

/* For the program's own needs, on host memory; collective; one thread at a time, and not during a step. A world of one,
 * and NULL, have nobody to wait for. */
CAVMAE_API cavmae_status cavmae_world_barrier(cavmae_world *world) CAVMAE_CHECKED;
CAVMAE_API cavmae_status cavmae_world_sum(cavmae_world *world, double *values, int64_t count) CAVMAE_CHECKED;
CAVMAE_API cavmae_status cavmae_world_gather(cavmae_world *world, const void *send, void *receive,
                                             size_t bytes) CAVMAE_CHECKED; /* receive [size, bytes], on all ranks */
CAVMAE_API cavmae_status cavmae_world_broadcast(cavmae_world *world, void *data, size_t bytes,
                                                int32_t root) CAVMAE_CHECKED;
/* Tells the others that this rank cannot go on: their next, or waiting, collective fails with PEER and this
 * sentence. For a program about to end; the library does so itself where one of its collective calls fails. Returns
 * when they know, or after `timeout`; on GPUs the world is broken. */
CAVMAE_API void cavmae_world_fail(cavmae_world *world, const char *sentence);

/* What is made from this config, and from clones of it, works in this world; NULL: alone. The world is kept alive. */
CAVMAE_API cavmae_status cavmae_config_set_world(cavmae_config *config, cavmae_world *world) CAVMAE_CHECKED;

/* ---- Tensors --------------------------------------------------------------------------------------------- */

/* An array with an owner. A tensor got from another object is a view: it shares the memory and keeps the object
 * alive. */
typedef struct cavmae_tensor cavmae_tensor;

#define CAVMAE_FLOAT32 1
#define CAVMAE_FLOAT64 2
#define CAVMAE_FLOAT16 3
#define CAVMAE_BFLOAT16 4
#define CAVMAE_INT64 5
#define CAVMAE_INT32 6
#define CAVMAE_INT16 7
#define CAVMAE_INT8 8
#define CAVMAE_UINT8 9
#define CAVMAE_BOOL 10
#define CAVMAE_MAX_DIMS 8

/* New memory, zeros. shape [dims], dims <= CAVMAE_MAX_DIMS; dims 0 is a scalar. */
CAVMAE_API cavmae_status cavmae_tensor_create(cavmae_context *context, int32_t dtype, int32_t dims,
                                              const int64_t *shape, cavmae_tensor **out) CAVMAE_CHECKED;
/* The caller's memory, C-contiguous; `release(user)` is called when the last view is freed (NULL: the caller keeps
 * it alive until then). Where the call fails, release is not called. */
CAVMAE_API cavmae_status cavmae_tensor_wrap(cavmae_context *context, void *data, int32_t dtype, int32_t dims,
                                            const int64_t *shape, void (*release)(void *user), void *user,
                                            cavmae_tensor **out) CAVMAE_CHECKED;
CAVMAE_API void cavmae_tensor_free(cavmae_tensor *tensor);
/* Of a tensor. Any thread. */
CAVMAE_API void *cavmae_tensor_data(const cavmae_tensor *tensor);    /* C-contiguous; lives as long as the tensor */
CAVMAE_API int32_t cavmae_tensor_dtype(const cavmae_tensor *tensor); /* CAVMAE_FLOAT32, ... */
CAVMAE_API int32_t cavmae_tensor_dims(const cavmae_tensor *tensor);  /* 0: a scalar */
CAVMAE_API const int64_t *cavmae_tensor_shape(const cavmae_tensor *tensor); /* [dims], lives as long as the tensor */
CAVMAE_API int64_t cavmae_tensor_elements(const cavmae_tensor *tensor);     /* the shape's product; of a scalar 1 */

/* DLPack (dlpack.h, version 0.x struct DLManagedTensor), no copy in either direction. to: the receiver calls the
 * struct's deleter. from: takes the struct over, and calls its deleter when the tensor is freed; on failure
 * the caller keeps it. Only compact C-contiguous CPU memory (else UNSUPPORTED). */
struct DLManagedTensor;
CAVMAE_API cavmae_status cavmae_tensor_to_dlpack(cavmae_tensor *tensor, struct DLManagedTensor **out) CAVMAE_CHECKED;
CAVMAE_API cavmae_status cavmae_tensor_from_dlpack(cavmae_context *context, struct DLManagedTensor *managed,
                                                   cavmae_tensor **out) CAVMAE_CHECKED;

/* Writes atomically (a temporary file beside it, then rename). npy: NumPy's format 1.0. */
CAVMAE_API cavmae_status cavmae_tensor_save_npy(const cavmae_tensor *tensor, const char *path) CAVMAE_CHECKED;

/* safetensors files. Opened by mapping; every size is checked; tensors are views of the map. While any of them lives
 * the file may be replaced by rename, not written over. */
typedef struct cavmae_safetensors cavmae_safetensors;
CAVMAE_API cavmae_status cavmae_safetensors_open(cavmae_context *context, const char *path,
                                                 cavmae_safetensors **out) CAVMAE_CHECKED;
CAVMAE_API void cavmae_safetensors_free(cavmae_safetensors *file);
CAVMAE_API int64_t cavmae_safetensors_count(const cavmae_safetensors *file);
CAVMAE_API const char *cavmae_safetensors_name(const cavmae_safetensors *file, int64_t index); /* NULL past the end */
CAVMAE_API cavmae_status cavmae_safetensors_get(cavmae_safetensors *file, const char *name,
                                                cavmae_tensor **out) CAVMAE_CHECKED;
/* Value of a key in __metadata__; NULL if there is none. Lives as long as the file. */
CAVMAE_API const char *cavmae_safetensors_metadata(const cavmae_safetensors *file, const char *key);
/* Writes `count` tensors, and `metadata_count` pairs of strings; a CRC-32 of every tensor is added to the metadata
 * as "crc32", and checked by cavmae_safetensors_open where it is there. */
CAVMAE_API cavmae_status cavmae_safetensors_save(cavmae_context *context, const char *path, int64_t count,
                                                 const char *const *names, const cavmae_tensor *const *tensors,
                                                 int64_t metadata_count, const char *const *keys,
                                                 const char *const *values) CAVMAE_CHECKED;

/* PyTorch files (torch.save), read without Python: zip archives with stored and deflated members, zip64, and the
 * older form; a dictionary of tensors, at the top or under "model", "state_dict" or "model_state_dict"; "module." is
 * taken off where all names start so; what else a dictionary holds is passed over. The pickle inside is untrusted:
 * opcodes and names that a dictionary of tensors does not need are refused by name (UNSUPPORTED; damage is FORMAT), and
 * nothing is ever executed. Stored tensors are checked against the archive's CRC-32 by _open, deflated ones by _get;
 * the older form has none. Tensors whose bytes lie in order in the file are views of the map, and the file may be
 * replaced by rename meanwhile, not written over; others are copied when asked for. All keep their dtype. One that is
 * expanded, with more elements than its storage, cannot be got (UNSUPPORTED). */
typedef struct cavmae_torch cavmae_torch;
CAVMAE_API cavmae_status cavmae_torch_open(cavmae_context *context, const char *path,
                                           cavmae_torch **out) CAVMAE_CHECKED;
CAVMAE_API void cavmae_torch_free(cavmae_torch *file);
CAVMAE_API int64_t cavmae_torch_count(const cavmae_torch *file);
CAVMAE_API const char *cavmae_torch_name(const cavmae_torch *file, int64_t index); /* NULL past the end */
CAVMAE_API cavmae_status cavmae_torch_get(cavmae_torch *file, const char *name, cavmae_tensor **out) CAVMAE_CHECKED;
/* Writes a dictionary of tensors that torch.load reads with weights_only=True; atomic. prefix goes before every name
 * (NULL: none). */
CAVMAE_API cavmae_status cavmae_torch_save(cavmae_context *context, const char *path, int64_t count,
                                           const char *const *names, const cavmae_tensor *const *tensors,
                                           const char *prefix) CAVMAE_CHECKED;

/* ---- Front-end: sound and pictures to model input ---------------------------------------------------------- */

/* Kaldi's fbank as torchaudio.compliance.kaldi.fbank(x - mean(x), htk_compat=True, use_energy=False,
 * window_type="hanning", num_mel_bins=F, dither=0, frame_shift=10) gives it: 25 ms windows every 10 ms, natural log.
 * pcm [samples] in [-1, 1), mono, at `rate` Hz. Frames: 1 + (samples - window) / shift; 0 below 25 ms. */
CAVMAE_API int64_t cavmae_fbank_frames(int64_t samples, int32_t rate);
/* out [cavmae_fbank_frames, mel_bins]. Errors: ARG (under 25 ms, rate, non-finite samples). */
CAVMAE_API cavmae_status cavmae_fbank(cavmae_context *context, const float *pcm, int64_t samples, int32_t rate,
                                      int32_t mel_bins, float *out) CAVMAE_CHECKED;

/* The whole input contract of `config` for sound. pcm [samples, channels] interleaved, in [-1, 1), at any rate.
 * *out: float32 [T, F], or [T', F] with audio_length "native". */
CAVMAE_API cavmae_status cavmae_prepare_audio(const cavmae_config *config, const float *pcm, int64_t samples,
                                              int32_t channels, int32_t rate, cavmae_tensor **out) CAVMAE_CHECKED;

/* The whole input contract for pictures: the shorter side resized to image_size, centre crop, normalisation.
 * pixels uint8 [height, width, C], rows `stride` bytes apart (0: width * C). out float32 [C, image_size,
 * image_size]. */
CAVMAE_API cavmae_status cavmae_prepare_image(const cavmae_config *config, const uint8_t *pixels, int32_t width,
                                              int32_t height, int64_t stride, float *out) CAVMAE_CHECKED;

/* The first halves of these two, for programs that store sound and pictures. *out: float32 [samples'], the contract's
 * one channel at sample_rate; at least 25 ms, as above. */
CAVMAE_API cavmae_status cavmae_resample(const cavmae_config *config, const float *pcm, int64_t samples,
                                         int32_t channels, int32_t rate, cavmae_tensor **out) CAVMAE_CHECKED;
/* Resized and cropped, not normalised: out uint8 [image_size, image_size, C]. */
CAVMAE_API cavmae_status cavmae_resize_image(const cavmae_config *config, const uint8_t *pixels, int32_t width,
                                             int32_t height, int64_t stride, uint8_t *out) CAVMAE_CHECKED;

/* ---- Media files ------------------------------------------------------------------------------------------- */

/* A media file: at a path, or in memory. */
typedef struct cavmae_source {
    uint32_t struct_size;
    int32_t reserved; /* 0 */
    const char *path; /* where data is NULL the file to open; otherwise a name for messages, or NULL */
    const void *data; /* [size] the file's bytes, the caller's; NULL: at path */
    size_t size;
} cavmae_source;

/* Time 0 is the start of the file, when the first of its tracks starts. */
typedef struct cavmae_media_info {
    uint32_t struct_size;
    int32_t audio_channels; /* 0: no audio track */
    int32_t audio_rate;     /* Hz */
    int32_t width, height;  /* pixels, of upright pictures; 0: no picture */
    int32_t still;          /* 1: a still image */
    double seconds;         /* of the whole file, as its packets say where they and its header do not agree; 0 for a
                             * still image */
    double frame_rate;      /* frames per second, on average; 0 for a still image */
} cavmae_media_info;

/* Sinks take what a decoder gives, piece by piece; non-zero ends the decoding, and is returned by it. */
typedef cavmae_status cavmae_audio_sink(void *sink, const float *pcm /* [samples, channels] */, int64_t samples,
                                        int32_t channels, int32_t rate);
typedef cavmae_status cavmae_frame_sink(void *sink, int32_t index, const uint8_t *rgb /* [height, width, 3] */,
                                        int32_t width, int32_t height, int64_t stride);

/* A decoder: libcavmae-media.so over FFmpeg's libraries, opened on first use, or the caller's own. Functions return
 * a cavmae_status and put a sentence that names the file into error [error_size]; they may be called from several
 * threads at once, and from within a sink. source->path is never NULL. */
typedef struct cavmae_decoder {
    uint32_t struct_size;
    int32_t version; /* 1 */
    void *user;
    cavmae_status (*probe)(void *user, const cavmae_source *source, cavmae_media_info *info, char *error,
                           size_t error_size);
    /* The first audio track, from time 0 to its end: silence where it starts later or has a hole. */
    cavmae_status (*audio)(void *user, const cavmae_source *source, cavmae_audio_sink *sink, void *sink_arg,
                           char *error, size_t error_size);
    /* Of the first video track (an attached cover is none), for each of seconds[0..count), rising, the first frame at
     * or after it (the last one past the end), as `ffmpeg -ss SECONDS -frames:v 1` picks it, upright; a still image
     * at any time. */
    cavmae_status (*frames)(void *user, const cavmae_source *source, const double *seconds, int32_t count,
                            cavmae_frame_sink *sink, void *sink_arg, char *error, size_t error_size);
} cavmae_decoder;

/* Replaces the plug-in for this context; before anything is decoded. decoder->user must outlive the context. */
CAVMAE_API cavmae_status cavmae_context_set_decoder(cavmae_context *context,
                                                    const cavmae_decoder *decoder) CAVMAE_CHECKED;

/* Errors of these: IO (cannot be opened or read: missing, a directory, no permission), FORMAT (empty, no media file,
 * its header damaged or cut off), UNSUPPORTED (FFmpeg has no decoder for the track), MEDIA (no such track, or nothing
 * in it that can be decoded), BACKEND (no plug-in). What is damaged on the way, or cut off at the end, is left out. */
CAVMAE_API cavmae_status cavmae_media_probe(cavmae_context *context, const char *path,
                                            cavmae_media_info *out) CAVMAE_CHECKED;
CAVMAE_API cavmae_status cavmae_media_probe_source(cavmae_context *context, const cavmae_source *source,
                                                   cavmae_media_info *out) CAVMAE_CHECKED;
/* *out float32 [samples, channels]. */
CAVMAE_API cavmae_status cavmae_media_audio(cavmae_context *context, const char *path, cavmae_tensor **out,
                                            int32_t *rate) CAVMAE_CHECKED;
CAVMAE_API cavmae_status cavmae_media_audio_source(cavmae_context *context, const cavmae_source *source,
                                                   cavmae_tensor **out, int32_t *rate) CAVMAE_CHECKED;
/* *out uint8 [count, H, W, 3]. */
CAVMAE_API cavmae_status cavmae_media_frames(cavmae_context *context, const char *path, const double *seconds,
                                             int32_t count, cavmae_tensor **out) CAVMAE_CHECKED;
CAVMAE_API cavmae_status cavmae_media_frames_source(cavmae_context *context, const cavmae_source *source,
                                                    const double *seconds, int32_t count,
                                                    cavmae_tensor **out) CAVMAE_CHECKED;

/* ---- Model ------------------------------------------------------------------------------------------------- */

/* Parameters, their configuration and input contract. Immutable while it is only used for embedding: any number of
 * threads may then share it; a trainer or a writer of parameters needs it alone. */
typedef struct cavmae_model cavmae_model;

/* Initialised as the reference: matrices xavier-uniform, biases 0, LayerNorms 1 and 0, tokens normal(0.02). */
CAVMAE_API cavmae_status cavmae_model_create(const cavmae_config *config, cavmae_model **out) CAVMAE_CHECKED;
CAVMAE_API void cavmae_model_free(cavmae_model *model);

#define CAVMAE_LOAD_ALLOW_MISSING                                                                                      \
    1                                  /* parameters that the file lacks are initialised, as large as its
                                        * configuration says */
#define CAVMAE_LOAD_ALLOW_UNEXPECTED 2 /* tensors that the model lacks are left out */
#define CAVMAE_LOAD_MEAN_COLOURS                                                                                       \
    4 /* of a vision MAE: the audio patch embedding is the mean over colours, and the audio predictor the mean over a
       * pixel's colours, instead of the reference's sum and first rows */

typedef struct cavmae_load_report {
    uint32_t struct_size;
    int32_t reserved;
    int64_t matched, missing, unexpected, misshaped; /* tensors; each but the matched is named in the log at INFO */
} cavmae_load_report;

/* From a model file or checkpoint of this library; or from a PyTorch file (or safetensors without configuration) of the
 * authors' models, whose configuration is then inferred from names and shapes (CAV-MAE with or without decoder,
 * fine-tuned, audio only); or from a vision MAE, adapted as the reference does: its layers but the last to both
 * encoders, the last to the joint one, LayerNorms to all streams, the patch embedding summed over colours for sound;
 * modality vectors and positions of sound, of the base preset's length, are made and count as missing. What no tensor
 * says is the base preset's: the input contract, 128 mel bins, eps. Heads are width / 64, of a decoder width / 32, and
 * 4 where that is not whole. Positional tables that are not the sine-cosine ones make trainable_pos 1. Where these are
 * wrong, take cavmae_model_config, set it right, and cavmae_model_adapt.
 * Numbers may be float32, float16, bfloat16 or float64. Anything but a full match is MISMATCH unless `flags` allow it;
 * misshaped tensors always are; LayerNorms that no computation uses may be absent from files without configuration.
 * report may be NULL, and is filled on MISMATCH too. Parameters stay mapped from the file until they are written to,
 * where they lie there as float32; the file may be replaced by rename meanwhile, not overwritten. FORMAT names the
 * tensor that fits no model. */
CAVMAE_API cavmae_status cavmae_model_load(cavmae_context *context, const char *path, uint32_t flags,
                                           cavmae_load_report *report, cavmae_model **out) CAVMAE_CHECKED;
/* safetensors with the configuration as metadata "cavmae.config" and a CRC-32 of every tensor; atomic. */
CAVMAE_API cavmae_status cavmae_model_save(const cavmae_model *model, const char *path) CAVMAE_CHECKED;

/* A copy of the model's configuration, to read or to train with. */
CAVMAE_API cavmae_status cavmae_model_config(const cavmae_model *model, cavmae_config **out) CAVMAE_CHECKED;

/* A model of another configuration from this one's parameters: with a head in the decoder's place to fine-tune,
 * encoder only, one modality only, another length of sound. Parameters of the same name and shape are taken over; fixed
 * positional tables are made anew, trained ones sliced (shorter) or interpolated (longer) along time; what the model
 * does not have is initialised, and counts as missing in the report (may be NULL), what it has beyond it as unexpected;
 * a head for other classes, or that sees something else, is new. MISMATCH for other differences in shape, and for
 * trained tables where trainable_pos is 0. */
CAVMAE_API cavmae_status cavmae_model_adapt(const cavmae_config *config, cavmae_model *model,
                                            cavmae_load_report *report, cavmae_model **out) CAVMAE_CHECKED;

/* Writes the mean of models' parameters (paths [count]: model files, checkpoints, PyTorch files of equal names and
 * shapes) as a model file like the first; reads them tensor by tensor, so memory does not grow with count but for their
 * headers. Atomic. MISMATCH names file and tensor. */
CAVMAE_API cavmae_status cavmae_average_models(cavmae_context *context, const char *const *paths, int64_t count,
                                               const char *out_path) CAVMAE_CHECKED;

/* Computes in CAVMAE_FLOAT32 or CAVMAE_BFLOAT16 from now on; parameters stay float32. Before trainers are made of
 * it. */
CAVMAE_API cavmae_status cavmae_model_set_dtype(cavmae_model *model, int32_t dtype) CAVMAE_CHECKED;

/* Parameters by the names of the published checkpoints, in their order. */
CAVMAE_API int64_t cavmae_model_parameter_count(const cavmae_model *model);                   /* tensors */
CAVMAE_API const char *cavmae_model_parameter_name(const cavmae_model *model, int64_t index); /* NULL past the end */
/* Elements in all parameters; `trainable` 1: those that training changes. */
CAVMAE_API int64_t cavmae_model_elements(const cavmae_model *model, int32_t trainable);
/* A view to read; of a model on a GPU a copy of what it is now. */
CAVMAE_API cavmae_status cavmae_model_parameter(cavmae_model *model, const char *name,
                                                cavmae_tensor **out) CAVMAE_CHECKED;
/* Copies values [elements of the parameter] in. */
CAVMAE_API cavmae_status cavmae_model_set_parameter(cavmae_model *model, const char *name, const float *values,
                                                    int64_t elements) CAVMAE_CHECKED;

typedef struct cavmae_memory {
    uint32_t struct_size;
    int32_t reserved;
    int64_t parameters, gradients, moments, activations, workspace, total; /* bytes */
    int64_t elements, trainable; /* of all parameters; of those that training changes */
} cavmae_memory;

#define CAVMAE_TASK_PRETRAIN 1
#define CAVMAE_TASK_EMBED 2 /* the model's share, and what one call of cavmae_embed takes at the most */
#define CAVMAE_TASK_FINETUNE 3

/* What a task on `batch` clips (in a world: of a rank) will take, before anything is allocated. */
CAVMAE_API cavmae_status cavmae_memory_required(const cavmae_config *config, int32_t task, int32_t batch,
                                                cavmae_memory *out) CAVMAE_CHECKED;

/* ---- Batches and embeddings -------------------------------------------------------------------------------- */

typedef struct cavmae_batch {
    uint32_t struct_size;
    int32_t count; /* B */
    /* audio, image, pcm and pixels may lie in device memory, but not for cavmae_inpaint. */
    const float *audio;          /* [B, T, F], prepared as the input contract says; NULL: no sound */
    const float *image;          /* [B, C, H, W], or [B, frames, C, H, W]; NULL: no pictures */
    const int32_t *audio_frames; /* [B] T of each clip, multiples of p; the clips' [T, F] then follow one another.
                                  * NULL: all as configured. A model with fixed positional embeddings takes any T; a
                                  * trainer and a trained table at most the configured */
    const uint8_t *mask_a;       /* [B, La] (clips one after another), 1 = removed; NULL: drawn. Pretraining and
                                  * inpainting only */
    const uint8_t *mask_v;       /* [B, Lv] */
    const int64_t *samples;      /* [B] index in the manifest; from a loader */
    const float *labels;         /* [B, classes] in [0, 1]; from a loader with labels */
    int32_t classes;
    int32_t frames; /* N pictures of each clip, whose sound is encoded once; 0: 1. Embedding, localisation only */
    const float *features; /* [B, width] as cavmae_embedding's, instead of sound and pictures. cavmae_finetune_step with
                            * freeze_base, and cavmae_finetune_evaluate, only */
    /* Sound and pictures as they are, each instead of its prepared form, to be prepared on the way as the input
     * contract says: by a GPU, or on the context's threads, to the bits of cavmae_prepare_audio of the samples /
     * 32768 and of cavmae_prepare_image. Not for inpainting. Errors: ARG (audio and pcm, or image and pixels; pcm
     * with audio_frames; less than a window of 25 ms; a picture without pixels). */
    const int16_t *pcm;    /* [B, pcm_samples] one channel at sample_rate, instead of audio */
    int64_t pcm_samples;   /* of each clip. T is as configured; with audio_length native it follows from this number */
    const uint8_t *pixels; /* [B, pixel_height, pixel_width, C], or [B, frames, ...], instead of image */
    int32_t pixel_height, pixel_width;
    /* Of a trainer with a world: clips of this step's batch over all ranks, W; 0: B times the world's size. Rank r has
     * those from W r / size to W (r + 1) / size, rounded down, which may be none. */
    int32_t world_count;
    int32_t reserved; /* 0 */
} cavmae_batch;

/* The key mode, in numbers. */
#define CAVMAE_MODE_MULTIMODAL 1
#define CAVMAE_MODE_AUDIO_ONLY 2
#define CAVMAE_MODE_VIDEO_ONLY 3
#define CAVMAE_MODE_MISSING_AUDIO_ONLY 4 /* no video: see key mode for why this is weak */
#define CAVMAE_MODE_MISSING_VIDEO_ONLY 5

#define CAVMAE_AVERAGE_SCORES 0 /* of frames: their scores, as the reference */
#define CAVMAE_AVERAGE_LOGITS 1
#define CAVMAE_AVERAGE_FEATURES 2

/* What to compute: every pointer that is not NULL is the caller's memory, and is filled. With several frames in a clip
 * all but audio, audio_tokens and scores have a row for each frame: [B, N, ...]; features and logits in modes that look
 * at pictures. For cavmae_embed it may be device memory. */
typedef struct cavmae_embedding {
    uint32_t struct_size;
    int32_t mode;         /* CAVMAE_MODE_* of features, logits and scores; 0: as the model's key mode says */
    float *audio;         /* [B, D] coordinated: the audio stream's tokens, mean, divided by its L2 norm */
    float *visual;        /* [B, D] */
    float *joint;         /* [B, D] the joint stream's tokens, mean (not normalised) */
    float *audio_tokens;  /* [B, La, D], clips of different length one after another */
    float *visual_tokens; /* [B, Lv, D] */
    float *joint_tokens;  /* [B, La + Lv, D]: each clip's audio tokens, then its visual tokens */
    float *features;      /* [B, width] what the head sees: pooled streams as mode and head_input say; width is D, or
                           * 2 D with head_input concat */
    float *logits;        /* [B, classes] of a model with a head */
    float *scores;        /* [B, classes] sigmoids or softmax of the logits as key loss says; over frames averaged */
    int32_t average;      /* CAVMAE_AVERAGE_*: what of several frames is averaged into scores */
    int32_t frames;       /* cavmae_embed_file: so many frames, evenly spread; 0: the middle one alone */
} cavmae_embedding;

/* No masking. Any thread. A clip's result does not depend on its company, on threads, or on the run, to the last bit.
 * Batches of any size; memory does not grow with them. Errors: ARG (an input that an output needs is NULL, a model
 * without that modality), SHAPE, NOMEM, CANCELLED, NOT_FINITE (a wanted output is NaN or infinite). */
CAVMAE_API cavmae_status cavmae_embed(cavmae_model *model, const cavmae_batch *batch,
                                      const cavmae_embedding *out) CAVMAE_CHECKED;

/* The same for one media file, with its middle frame of clip_frames, or with `frames` of them, frame i at i / frames of
 * its length; decoded, prepared and embedded. What no output needs is not decoded: a file may lack it. Any thread. */
CAVMAE_API cavmae_status cavmae_embed_file(cavmae_model *model, const char *path,
                                           const cavmae_embedding *out) CAVMAE_CHECKED;
CAVMAE_API cavmae_status cavmae_embed_source(cavmae_model *model, const cavmae_source *source,
                                             const cavmae_embedding *out) CAVMAE_CHECKED;

typedef struct cavmae_window_options {
    uint32_t struct_size;
    int32_t pool;          /* 1: at the end `out` holds the mean over all windows; rows of audio and visual divided by
                            * their L2 norm again */
    double window_seconds; /* 0: what audio_frames take, 10 ms each; at most that */
    double hop_seconds;    /* from one window's start to the next one's; 0: window_seconds */
} cavmae_window_options;

/* A window's place in seconds, and `out`, filled. Non-zero ends the call, which returns it. */
typedef cavmae_status cavmae_window_sink(void *user, int64_t index, double start, double end,
                                         const cavmae_embedding *embedding);

/* A media file of any length, window by window: 0, hop, 2 hop, ... as long as a window fits in; where the last of these
 * does not end with the file, one more that does; of a file shorter than a window, the whole file. Sound is resampled
 * as a whole and then cut; where it ends before the pictures it is followed by silence. With outputs that need sound
 * alone the end is the sound's. A window's pictures are its middle one, or `frames` of them, as of a file.
 * `out` is the caller's memory for one window; options NULL: all defaults; sink may be NULL with pool. Memory does not
 * grow with the length. The context's progress is told windows done of (about) so many. Any thread. Errors: as
 * cavmae_embed_source, and whatever the sink gave. */
CAVMAE_API cavmae_status cavmae_embed_windows(cavmae_model *model, const cavmae_source *source,
                                              const cavmae_window_options *options, const cavmae_embedding *out,
                                              cavmae_window_sink *sink, void *user) CAVMAE_CHECKED;

/* ---- Training ---------------------------------------------------------------------------------------------- */

/* Adam's moments, schedule and update count. */
typedef struct cavmae_optimizer cavmae_optimizer;
CAVMAE_API cavmae_status cavmae_optimizer_create(cavmae_model *model, const cavmae_config *config,
                                                 cavmae_optimizer **out) CAVMAE_CHECKED;
CAVMAE_API void cavmae_optimizer_free(cavmae_optimizer *optimizer);
/* Parameters whose names start with `prefix` get lr * lr_factor (0: frozen) and their own weight decay. The last
 * call that fits a name counts. Before the first step. NOT_FOUND when no parameter's name does. */
CAVMAE_API cavmae_status cavmae_optimizer_group(cavmae_optimizer *optimizer, const char *prefix, double lr_factor,
                                                double weight_decay) CAVMAE_CHECKED;
/* Updates made so far: a step that accumulates is none. */
CAVMAE_API int64_t cavmae_optimizer_updates(const cavmae_optimizer *optimizer);
CAVMAE_API double cavmae_optimizer_lr(const cavmae_optimizer *optimizer); /* of the next update */

/* A step's plan: gradients, activations and workspace for batches of up to config's `batch` clips, laid out once. A
 * step then allocates nothing; only a batch with masks of the caller's that keep more tokens than the configured
 * ratios makes the plan grow. */
typedef struct cavmae_trainer cavmae_trainer;

typedef struct cavmae_step_result {
    uint32_t struct_size;
    int32_t updated;   /* 1: parameters changed; 0: accumulating, or evaluated */
    int64_t step;      /* batches taken so far, this one included */
    double loss;       /* loss_mae + loss_c; of a model with a head that of key loss */
    double loss_mae;   /* mae_weight * (loss_mae_a + loss_mae_v) */
    double loss_mae_a; /* mean over masked patches of the mean squared error; 0 where not computed */
    double loss_mae_v;
    double loss_c;    /* contrast_weight * InfoNCE */
    double accuracy;  /* of the contrastive match among `pairs`; with a head: share of clips whose largest logit is
                       * at their largest label */
    double grad_norm; /* L2 of this update's gradient, before clipping; 0 where nothing was updated */
    double lr;        /* of this update */
    int64_t pairs;    /* N of the contrastive loss, of one shard; N - 1 are negatives */
} cavmae_step_result;

/* optimizer NULL: a trainer that only evaluates, and needs no memory for gradients. With a world in `config`, this,
 * steps, evaluations and checkpoints are collective: parameters become rank 0's, a rank's batches are its shares,
 * and results are of the whole batch. */
CAVMAE_API cavmae_status cavmae_trainer_create(cavmae_model *model, cavmae_optimizer *optimizer,
                                               const cavmae_config *config, cavmae_trainer **out) CAVMAE_CHECKED;
CAVMAE_API void cavmae_trainer_free(cavmae_trainer *trainer);

/* One batch: masks, forward, backward, and (each `accumulate`-th call) update. NOT_FINITE names the step and the
 * tensor. After any failure parameters are as they were, the step does not count, and what was accumulated for the
 * next update is dropped. result NULL: a GPU's step is not waited for, so that the next batch is made ready
 * meanwhile; it counts, and its failure is told, with the next call on this trainer, whose own work is then not
 * begun. */
CAVMAE_API cavmae_status cavmae_pretrain_step(cavmae_trainer *trainer, const cavmae_batch *batch,
                                              cavmae_step_result *result) CAVMAE_CHECKED;
/* Of the last step whose outcome is known: with `wait` the last one taken, else on a GPU and after a step without
 * result the one before it. Before this trainer's first all is 0 but the field step, which a checkpoint sets. */
CAVMAE_API cavmae_status cavmae_trainer_result(cavmae_trainer *trainer, int32_t wait,
                                               cavmae_step_result *result) CAVMAE_CHECKED;
/* Forward only, with masks drawn for `batch_number`: the same number, the same masks. */
CAVMAE_API cavmae_status cavmae_pretrain_evaluate(cavmae_trainer *trainer, const cavmae_batch *batch,
                                                  int64_t batch_number, cavmae_step_result *result) CAVMAE_CHECKED;

/* Fine-tuning and probing of a model with a head (key classes), on batches with labels; otherwise as the two above.
 * The optimizer has set head_lr_factor for "mlp_head." and, with freeze_base, 0 for all else. Of a model with a head
 * cavmae_pretrain_step is STATE, and these are of one without. */
CAVMAE_API cavmae_status cavmae_finetune_step(cavmae_trainer *trainer, const cavmae_batch *batch,
                                              cavmae_step_result *result) CAVMAE_CHECKED;
CAVMAE_API cavmae_status cavmae_finetune_evaluate(cavmae_trainer *trainer, const cavmae_batch *batch,
                                                  cavmae_step_result *result) CAVMAE_CHECKED;

#define CAVMAE_OUT_PRED_A 1   /* float32 [B, La, p*p]: predicted log-mel patches, of visible tokens too */
#define CAVMAE_OUT_PRED_V 2   /* float32 [B, Lv, p*p*C], channel fastest */
#define CAVMAE_OUT_POOLED_A 3 /* float32 [B, D]: what the contrastive loss compares, not normalised */
#define CAVMAE_OUT_POOLED_V 4
#define CAVMAE_OUT_MASK_A 5 /* uint8 [B, La], 1 = removed */
#define CAVMAE_OUT_MASK_V 6
#define CAVMAE_OUT_LOGITS 7   /* float32 [B, classes] */
#define CAVMAE_OUT_FEATURES 8 /* float32 [B, width] what the head saw */
/* Copies of the last step's or evaluation's outputs; of clips of different length, masks and patches of all of them
 * one after another, [1, tokens, ...]. NOT_FOUND where it did not compute that. */
CAVMAE_API cavmae_status cavmae_trainer_output(cavmae_trainer *trainer, int32_t which,
                                               cavmae_tensor **out) CAVMAE_CHECKED;
/* Copy of a parameter's gradient as the last step left it; in a world, after an update, of all ranks. NOT_FOUND: no
 * such parameter, or one without gradient; UNSUPPORTED: in a world with shard_optimizer. */
CAVMAE_API cavmae_status cavmae_trainer_gradient(cavmae_trainer *trainer, const char *name,
                                                 cavmae_tensor **out) CAVMAE_CHECKED;

/* ---- Data -------------------------------------------------------------------------------------------------- */

/* Reads a manifest in the authors' JSON format: {"data": [{"wav", "video_id", "video_path", "labels"}, ...]}. The image
 * is video_path/frame_K/video_id.jpg; without video_path it is a frame of the file `video` or `wav`. Labels are names
 * or "mid"s of a CSV with header index,mid,display_name, joined by commas, or with weights in [0, 1] (the paper's
 * label enhancement): {"name": weight, ...}. Paths that are not absolute are relative to the manifest. */
typedef struct cavmae_loader cavmae_loader;

typedef struct cavmae_loader_item {
    uint32_t struct_size;
    int32_t label_count;
    const char *id; /* video_id; these live until the next call of cavmae_loader_item_at */
    const char *audio_path;
    const char *image_path;
    const int32_t *labels;      /* [label_count] indices of classes */
    const float *label_weights; /* [label_count] in [0, 1]; NULL: all 1 */
} cavmae_loader_item;

/* labels NULL: none. Uses the data keys and the input contract of `config`. Reading starts with the first _next.
 * `manifest` may also be a folder: its media files (known by FFmpeg's usual endings; hidden ones left out) and those in
 * folders below it, in order of path, are the entries, with their path in it as id, and without labels. Or a packed
 * data set, with the labels file that it was packed with; MISMATCH names the key in which it does not fit `config`.
 *
 * With a world in `config` each rank's loader reads its share of each batch, of world_count clips, and only that; at an
 * epoch's end a share may be without clips. Which samples a batch has does not depend on the world. Samples that are
 * skipped as broken are replaced by the next one in the manifest that is not, so that shares stay as large as they
 * are. */
CAVMAE_API cavmae_status cavmae_loader_create(const cavmae_config *config, const char *manifest, const char *labels,
                                              cavmae_loader **out) CAVMAE_CHECKED;
CAVMAE_API void cavmae_loader_free(cavmae_loader *loader);
/* The next batch, valid until the next call; NULL at the end of an epoch (the call after it starts the next one). */
CAVMAE_API cavmae_status cavmae_loader_next(cavmae_loader *loader, const cavmae_batch **out) CAVMAE_CHECKED;
/* The next batch begins with entry `position` of this epoch's order, from 0 to the count of entries. In a world
 * every rank goes to the same. The batch of the call before is valid no more. */
CAVMAE_API cavmae_status cavmae_loader_seek(cavmae_loader *loader, int64_t position) CAVMAE_CHECKED;
CAVMAE_API int64_t cavmae_loader_count(const cavmae_loader *loader);   /* entries in the manifest */
CAVMAE_API int64_t cavmae_loader_batches(const cavmae_loader *loader); /* in an epoch without broken samples */
CAVMAE_API int64_t cavmae_loader_epoch(const cavmae_loader *loader);   /* of the last batch, from 0 */
CAVMAE_API int64_t cavmae_loader_broken(const cavmae_loader *loader);  /* samples skipped so far, by this loader */
CAVMAE_API int32_t cavmae_loader_classes(const cavmae_loader *loader); /* in the labels file; 0 without one */
/* Its display name; NULL where there is no such class. Lives as long as the loader. */
CAVMAE_API const char *cavmae_loader_class_name(const cavmae_loader *loader, int32_t index);
/* What the manifest says of entry `index`, from 0, in its order. ARG: there is none. */
CAVMAE_API cavmae_status cavmae_loader_item_at(cavmae_loader *loader, int64_t index,
                                               cavmae_loader_item *out) CAVMAE_CHECKED;

typedef struct cavmae_pack_report {
    uint32_t struct_size;
    int32_t frames;       /* pictures of each clip */
    int64_t clips;        /* packed */
    int64_t broken;       /* left out, as key broken says, and named in the log */
    int64_t bytes;        /* of the file */
    int64_t audio_frames; /* of spectrogram in all: what the model hears, without padding */
    double audio_mean;    /* of the log-mel over these and all mel_bins, for the keys of that name; 0 without sound */
    double audio_std;
} cavmae_pack_report;

/* Writes all that `manifest` (also a folder, or a pack) lists into one file, decoded, that a loader takes in a
 * manifest's place: sound as int16, one channel at sample_rate; pictures of image_size; labels, where a labels file is
 * given; ids. Of clips' frames the one of key frame, or with -2 and -3 all clip_frames. A loader of the same contract
 * gives the same batches from it, bit for bit, if sound was int16 at sample_rate, one channel or the first of several;
 * else sound is rounded to 16 bits, and beyond [-1, 1) clipped. mel_bins, audio_frames, audio_length, means and
 * deviations may be other ones. On the context's threads, a few clips in memory at a time; atomic; cancel and progress.
 * report may be NULL. Errors: also those of a loader. */
CAVMAE_API cavmae_status cavmae_pack(const cavmae_config *config, const char *manifest, const char *labels,
                                     const char *out_path, cavmae_pack_report *report) CAVMAE_CHECKED;
/* The report of a packed data set. FORMAT: it is none, or damaged; UNSUPPORTED: of a newer version. */
CAVMAE_API cavmae_status cavmae_pack_info(cavmae_context *context, const char *path,
                                          cavmae_pack_report *out) CAVMAE_CHECKED;

/* A checkpoint is a model file that also holds optimizer, step and the loader's place (loader may be NULL). Atomic.
 * In a world rank 0 writes it, with what the others hold, and all return when it is there, for which they wait up to
 * 20 times the world's timeout; any world, or none, reads it. */
CAVMAE_API cavmae_status cavmae_checkpoint_save(cavmae_trainer *trainer, const cavmae_loader *loader,
                                                const char *path) CAVMAE_CHECKED;
/* Into a trainer (and loader): with the same configuration and data training then goes on bit for bit; with another
 * one it goes on from there as that says. The model's shapes must be the same. */
CAVMAE_API cavmae_status cavmae_checkpoint_load(cavmae_trainer *trainer, cavmae_loader *loader,
                                                const char *path) CAVMAE_CHECKED;

/* ---- Inpainting and localisation --------------------------------------------------------------------------- */

/* What to paint: every pointer that is not NULL is the caller's memory, and is filled. "painted": the model's output
 * for every patch, those that it saw included; "pasted": painted where a patch was masked, the input elsewhere. */
typedef struct cavmae_inpainting {
    uint32_t struct_size;
    int32_t approximate; /* result: 1: made with norm_pix_loss, see below */
    float *audio;        /* [B, T, F] painted log-mel, as cavmae_fbank gives it (x * audio_std + audio_mean) */
    float *audio_pasted; /* [B, T, F] */
    float *image;        /* [B, C, H, W] painted pixels, clipped to [0, 1] */
    float *image_pasted; /* [B, C, H, W] */
    uint8_t *mask_a;     /* [B, La] the masks that were used, 1 = removed */
    uint8_t *mask_v;     /* [B, Lv] */
    /* Results. Means over the masked patches of the mean squared error of painted against input, in the input's units
     * (normalised, but not patch by patch); 0 where none was masked. */
    double error_a, error_v;
    /* The model's own loss terms: with norm_pix_loss of patches normalised one by one, otherwise the same. */
    double loss_a, loss_v;
} cavmae_inpainting;

/* Masks the batch and paints what is missing. Masks are the batch's; those it has not are drawn as config's
 * mask_ratio_a, mask_ratio_v, mask_mode_a, mask_mode_v, mask_domain and seed say, and by `draw`, from 0: the same
 * number, the same masks. config NULL: the model's own; another one may differ in its objective only. Each clip must
 * keep a token of each modality of the model, but under mask_domain joint, and needs both inputs where the model has
 * both modalities.
 *
 * A model trained with norm_pix_loss paints patches without their mean and contrast, which are then an
 * approximation: a visible patch has its own; a masked one the mean of the visible patches' of its clip, weighted by
 * 1 / distance^4 on the grid. Where pictures matter, train with norm_pix_loss 0.
 *
 * Takes memory for a forward pass of the whole batch, anew in every call. Any thread. Errors: ARG (no decoder, or
 * mae_weight 0; an output of a modality that the model lacks; nothing masked, a clip that keeps nothing), SHAPE,
 * MISMATCH (config is not the model's), NOMEM, CANCELLED, NOT_FINITE. */
CAVMAE_API cavmae_status cavmae_inpaint(cavmae_model *model, const cavmae_config *config, const cavmae_batch *batch,
                                        int64_t draw, cavmae_inpainting *out) CAVMAE_CHECKED;

/* Where in the picture a sound comes from (paper, appendix I): heat [B, H/p, W/p], cosine of each of the visual
 * stream's tokens with the audio stream's mean token. With `frames` pictures in a clip [B, frames, H/p, W/p]. Any
 * thread. Errors as of cavmae_embed. */
CAVMAE_API cavmae_status cavmae_localize(cavmae_model *model, const cavmae_batch *batch, float *heat) CAVMAE_CHECKED;

/* heat [rows, columns] to out [height, width]: bilinear between the cells' centres, as torch's interpolate without
 * align_corners. The map covers the model's picture: the centre crop. Any thread. */
CAVMAE_API cavmae_status cavmae_heatmap_resize(const float *heat, int32_t rows, int32_t columns, int32_t height,
                                               int32_t width, float *out) CAVMAE_CHECKED;

typedef struct cavmae_localization_metrics {
    uint32_t struct_size;
    int32_t reserved;
    double mean_iou; /* mean over samples */
    double success;  /* share of samples with an IoU of 0.5 or more */
    double auc;      /* area, by trapezoids, under the share of samples with an IoU of at least 0, 0.05, .. 1 */
} cavmae_localization_metrics;

/* Heat maps [count, rows, columns], enlarged to [height, width], against boxes in those pixels: x0, y0, x1, y1,
 * where the first pixel goes from 0 to 1; a pixel is inside if its centre is. box_counts [count] boxes of each
 * sample, one sample's after another's; NULL: one each; several are their union. Each map is stretched to [0, 1]
 * (its least and its most), and IoU compares where it is at least `threshold` (usually 0.5) with the boxes; a map
 * that is the same everywhere has 0. This is the consensus IoU of Flickr-SoundNet and VGG-SS for one annotator. iou
 * [count] or NULL. Any thread. Errors: ARG (a sample without box, an empty box, threshold outside [0, 1]), SHAPE,
 * NOMEM, NOT_FINITE. */
CAVMAE_API cavmae_status cavmae_localization_from_boxes(cavmae_context *context, const float *heat, int64_t count,
                                                        int32_t rows, int32_t columns, int32_t height, int32_t width,
                                                        const double (*boxes)[4], const int32_t *box_counts,
                                                        double threshold, double *iou,
                                                        cavmae_localization_metrics *out) CAVMAE_CHECKED;

/* ---- Search and metrics ------------------------------------------------------------------------------------ */

/* Exact cosine search in float32. Ids are 0, 1, ... in order of adding. With a context on a CUDA device rows are copied
 * there by the first search that sees them, and stay until the index is freed; NOMEM where they do not fit. */
typedef struct cavmae_index cavmae_index;
CAVMAE_API cavmae_status cavmae_index_create(cavmae_context *context, int32_t dim, cavmae_index **out) CAVMAE_CHECKED;
CAVMAE_API void cavmae_index_free(cavmae_index *index);
/* rows [count, dim], normalised on the way in; a row of zeros or with NaN is ARG. */
CAVMAE_API cavmae_status cavmae_index_add(cavmae_index *index, const float *rows, int64_t count) CAVMAE_CHECKED;
CAVMAE_API int64_t cavmae_index_count(const cavmae_index *index); /* rows */
CAVMAE_API int32_t cavmae_index_dim(const cavmae_index *index);   /* numbers in a row */
/* queries [count, dim]; ids [count, k], scores [count, k] falling, equal scores by rising id; entries past the index's
 * count are -1 and -2. Any thread. */
CAVMAE_API cavmae_status cavmae_index_search(cavmae_index *index, const float *queries, int64_t count, int32_t k,
                                             int64_t *ids, float *scores) CAVMAE_CHECKED;
/* Atomic; rows as they are kept, normalised. */
CAVMAE_API cavmae_status cavmae_index_save(const cavmae_index *index, const char *path) CAVMAE_CHECKED;
/* Also of a manifest.json of cavmae-embed --shards: an index of all shards' rows, whose ids are the corpus' clips.
 * Errors name the shard; MISMATCH: it is not what the manifest says. */
CAVMAE_API cavmae_status cavmae_index_load(cavmae_context *context, const char *path,
                                           cavmae_index **out) CAVMAE_CHECKED;
/* Of such a manifest the part-th of so many parts, whole shards, in order; none where there are fewer. *first (may be
 * NULL): the clip that id 0 is. FORMAT: there is more than one part of what is no manifest. */
CAVMAE_API cavmae_status cavmae_index_load_part(cavmae_context *context, const char *path, int32_t part, int32_t parts,
                                                int64_t *first, cavmae_index **out) CAVMAE_CHECKED;
/* Over the indices of a world's ranks, as if one index had their rows, rank 0's first: ids count so. Collective; every
 * rank passes the same queries and k, and gets the same results. world NULL: this index alone. PEER names a rank that
 * asks something else, or failed; the world goes on. */
CAVMAE_API cavmae_status cavmae_index_search_world(cavmae_index *index, cavmae_world *world, const float *queries,
                                                   int64_t count, int32_t k, int64_t *ids,
                                                   float *scores) CAVMAE_CHECKED;

/* What the scores of a row that equal the match's count: nothing (the paper's protocol), half a place each (the mean of
 * all orders), or a place each. Where many embeddings are the same only the last two tell. */
#define CAVMAE_TIES_FOR_MATCH 0
#define CAVMAE_TIES_MEAN 1
#define CAVMAE_TIES_AGAINST_MATCH 2

typedef struct cavmae_retrieval_metrics {
    uint32_t struct_size;
    int32_t ties;       /* set before the call: CAVMAE_TIES_* */
    double r1, r5, r10; /* share of queries whose match is among the first 1, 5, 10 */
    double median_rank; /* from 1 */
    double mean_rank;
} cavmae_retrieval_metrics;

/* similarity [count, count], row = query, the match on the diagonal. A match's rank is 1 + the number of strictly
 * greater scores in its row, and what `ties` adds. */
CAVMAE_API cavmae_status cavmae_retrieval_from_similarity(const float *similarity, int64_t count,
                                                          cavmae_retrieval_metrics *out) CAVMAE_CHECKED;
/* The same from embeddings: queries, gallery [count, dim]; cosine; row i of one matches row i of the other. */
CAVMAE_API cavmae_status cavmae_retrieval_from_embeddings(cavmae_context *context, const float *queries,
                                                          const float *gallery, int64_t count, int32_t dim,
                                                          cavmae_retrieval_metrics *out) CAVMAE_CHECKED;

typedef struct cavmae_class_metrics {
    uint32_t struct_size;
    int32_t scored_classes; /* classes that had both positives and negatives; means are over these */
    double mean_average_precision;
    double mean_auc;
    double d_prime;          /* sqrt(2) * inverse normal CDF of mean_auc */
    const uint8_t *subset;   /* set before the call: [classes] 1: the class counts; NULL: all do */
    int32_t as_reference;    /* set before the call. 1: means are over all classes, with average precision 0 of one
                              * without positives (scikit-learn's) and AUC -1 of one without either, as the
                              * reference; only to compare with its logs */
    int32_t lacking_classes; /* classes (of the subset) that had not both */
} cavmae_class_metrics;

/* scores, targets [count, classes], target > 0.5 = positive. average_precision, auc [classes] or NULL; NaN for
 * classes left out. Ties as in scikit-learn. ARG: a score or target is NaN; the subset is empty. */
CAVMAE_API cavmae_status cavmae_classification_metrics(cavmae_context *context, const float *scores,
                                                       const float *targets, int64_t count, int32_t classes,
                                                       double *average_precision, double *auc,
                                                       cavmae_class_metrics *out) CAVMAE_CHECKED;
/* Share of rows whose largest score (the first of equals) is at target [count]. */
CAVMAE_API cavmae_status cavmae_top1_accuracy(const float *scores, const int64_t *target, int64_t count,
                                              int32_t classes, double *out) CAVMAE_CHECKED;

typedef struct cavmae_topk_metrics {
    uint32_t struct_size;
    int32_t scored_classes;     /* classes that are a row's target */
    int64_t rows;               /* that counted: those whose target is in the subset */
    double accuracy;            /* share of these with the target among the k largest scores; NaN without any */
    double mean_class_accuracy; /* mean over the scored classes of each one's share */
    const uint8_t *subset;      /* set before the call: [classes] 1: the class competes, as the paper scores
                                 * Kinetics-Sounds by 32 of 400 classes; NULL: all do */
} cavmae_topk_metrics;

/* Of equal scores the first comes first. per_class [classes] or NULL: each class's share; NaN for those without a row.
 * Errors as above; also ARG: k below 1, a target that is no class. */
CAVMAE_API cavmae_status cavmae_topk_accuracy(cavmae_context *context, const float *scores, const int64_t *target,
                                              int64_t count, int32_t classes, int32_t k, double *per_class,
                                              cavmae_topk_metrics *out) CAVMAE_CHECKED;

#ifdef __cplusplus
}
#endif

#endif
