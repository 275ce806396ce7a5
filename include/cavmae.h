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
 * Handles are opaque and made by _create, _load or _open. _free takes NULL, returns nothing, and may be called in
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
 * same object. A context's callbacks may be called from any thread that uses one of its objects, and log, alloc
 * and free also from its loaders' threads. They must not call back into an object of that context.
 *
 * Records (structs whose first field is struct_size) are set to sizeof by the caller; fields that the caller
 * did not know are taken as zero, and zero always means the default. They only grow at the end.
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
#define CAVMAE_E_INTERNAL ((cavmae_status)-99)   /* a fault of this library: please report it */

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
    /* Asked between layers and files; non-zero ends the call with CAVMAE_E_CANCELLED. */
    int32_t (*cancel)(void *user);
    void *cancel_user;
    /* How far a long call has come: `done` of `total` (0: unknown) of `what`, in English. */
    void (*progress)(void *user, const char *what, int64_t done, int64_t total);
    void *progress_user;
} cavmae_context_options;

/* options NULL: all defaults. Errors: ARG, NOMEM, BACKEND (device not there, with the loader's words). */
CAVMAE_API cavmae_status cavmae_context_create(const cavmae_context_options *options,
                                               cavmae_context **out) CAVMAE_CHECKED;
CAVMAE_API void cavmae_context_free(cavmae_context *context);

/* The device in use, e.g. "cpu" or "cuda:0"; lives as long as the context. Any thread. */
CAVMAE_API const char *cavmae_context_device(const cavmae_context *context);
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
    115                    /* modalities: "av"; "a" or "v": Audio-MAE or Visual-MAE, without the other's
                                      * parameters */
#define CAVMAE_P_DTYPE 116 /* dtype: "float32" or "bfloat16" activations and products; parameters stay float32 */
#define CAVMAE_P_SEED 117  /* seed: of initialisation, masks, order and augmentation. 0 */

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
#define CAVMAE_P_RECOMPUTE 408    /* recompute: keep only each layer's input and compute the rest again going back. 0 */
#define CAVMAE_P_SCHEDULE                                                                                              \
    409                           /* schedule: "multistep" (lr * gamma ^ milestones passed; no milestones: constant)
                                    * or "cosine" */
#define CAVMAE_P_MILESTONES 410   /* milestones: updates, rising, e.g. "1000,2000". "" */
#define CAVMAE_P_GAMMA 411        /* gamma. 0.5 */
#define CAVMAE_P_WARMUP_STEPS 412 /* warmup_steps: updates over which lr rises from 0 to its value. 0 */
#define CAVMAE_P_TOTAL_STEPS 413  /* total_steps: updates after which cosine has reached min_lr; needed by it. 0 */
#define CAVMAE_P_MIN_LR 414       /* min_lr. 0 */

/* Data. */
#define CAVMAE_P_BATCH 500     /* batch: B. 48 */
#define CAVMAE_P_SHUFFLE 501   /* shuffle: a new order each epoch, a function of seed and epoch alone. 1 */
#define CAVMAE_P_DROP_LAST 502 /* drop_last: leave out an epoch's last, smaller batch. 1 */
#define CAVMAE_P_NOISE 503     /* noise: the reference's: U[0,1) * U[0,1) / 10 added after normalising. 0 */
#define CAVMAE_P_ROLL 504      /* roll: circular shift along time by up to +-T frames. 0 */
#define CAVMAE_P_FRAME 505     /* frame: which of the clip's frames: 0..; -1: the middle one; -2: a random one. -1 */
#define CAVMAE_P_BROKEN                                                                                                \
    506 /* broken: "error": a sample that cannot be read ends the call; "skip": it is
                                     * left out, logged and counted */
#define CAVMAE_P_LOADER_THREADS                                                                                        \
    507                    /* loader_threads: that read and prepare; order and contents do not depend on it. 2 */
#define CAVMAE_P_QUEUE 508 /* queue: batches prepared ahead. 4 */

/* preset: "base" (the paper's), "tiny" (for tests: T 128, H 64, D 32, 4 heads, 3+1 layers, decoder 16 x 2); NULL:
 * "base". Errors: NOT_FOUND, NOMEM. */
CAVMAE_API cavmae_status cavmae_config_create(cavmae_context *context, const char *preset,
                                              cavmae_config **out) CAVMAE_CHECKED;
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
CAVMAE_API void *cavmae_tensor_data(const cavmae_tensor *tensor);
CAVMAE_API int32_t cavmae_tensor_dtype(const cavmae_tensor *tensor);
CAVMAE_API int32_t cavmae_tensor_dims(const cavmae_tensor *tensor);
CAVMAE_API const int64_t *cavmae_tensor_shape(const cavmae_tensor *tensor); /* [dims], lives as long as the tensor */
CAVMAE_API int64_t cavmae_tensor_elements(const cavmae_tensor *tensor);

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

/* ---- Media files ------------------------------------------------------------------------------------------- */

typedef struct cavmae_media_info {
    uint32_t struct_size;
    int32_t audio_channels; /* 0: no audio track */
    int32_t audio_rate;     /* Hz */
    int32_t width, height;  /* pixels; 0: no picture */
    int32_t still;          /* 1: a still image */
    double seconds;         /* of the whole file; 0 for a still image */
    double frame_rate;      /* frames per second; 0 for a still image */
} cavmae_media_info;

/* Sinks take what a decoder gives, piece by piece; non-zero ends the decoding, and is returned by it. */
typedef cavmae_status cavmae_audio_sink(void *sink, const float *pcm /* [samples, channels] */, int64_t samples,
                                        int32_t channels, int32_t rate);
typedef cavmae_status cavmae_frame_sink(void *sink, int32_t index, const uint8_t *rgb /* [height, width, 3] */,
                                        int32_t width, int32_t height, int64_t stride);

/* A decoder: libcavmae-media.so over FFmpeg's libraries, opened on first use, or the caller's own. Functions return
 * a cavmae_status and put a sentence that names the file into error [error_size]; they may be called from several
 * threads at once. */
typedef struct cavmae_decoder {
    uint32_t struct_size;
    int32_t version; /* 1 */
    void *user;
    cavmae_status (*probe)(void *user, const char *path, cavmae_media_info *info, char *error, size_t error_size);
    /* The first audio track, from its start to its end. */
    cavmae_status (*audio)(void *user, const char *path, cavmae_audio_sink *sink, void *sink_arg, char *error,
                           size_t error_size);
    /* Of the first video track, for each of seconds[0..count), rising, the first frame at or after it (the last one
     * past the end), as `ffmpeg -ss SECONDS -frames:v 1` picks it; a still image at any time. */
    cavmae_status (*frames)(void *user, const char *path, const double *seconds, int32_t count, cavmae_frame_sink *sink,
                            void *sink_arg, char *error, size_t error_size);
} cavmae_decoder;

/* Replaces the plug-in for this context; before anything is decoded. decoder->user must outlive the context. */
CAVMAE_API cavmae_status cavmae_context_set_decoder(cavmae_context *context,
                                                    const cavmae_decoder *decoder) CAVMAE_CHECKED;

/* Errors of these: MEDIA, IO, BACKEND (no plug-in). */
CAVMAE_API cavmae_status cavmae_media_probe(cavmae_context *context, const char *path,
                                            cavmae_media_info *out) CAVMAE_CHECKED;
/* *out float32 [samples, channels]. */
CAVMAE_API cavmae_status cavmae_media_audio(cavmae_context *context, const char *path, cavmae_tensor **out,
                                            int32_t *rate) CAVMAE_CHECKED;
/* *out uint8 [count, H, W, 3]. */
CAVMAE_API cavmae_status cavmae_media_frames(cavmae_context *context, const char *path, const double *seconds,
                                             int32_t count, cavmae_tensor **out) CAVMAE_CHECKED;

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

typedef struct cavmae_load_report {
    uint32_t struct_size;
    int32_t reserved;
    int64_t matched, missing, unexpected, misshaped; /* tensors; each but the matched is named in the log at INFO */
} cavmae_load_report;

/* From a model file or checkpoint of this library. Anything but a full match is MISMATCH unless `flags` allow it;
 * misshaped tensors always are. report may be NULL, and is filled on MISMATCH too. Parameters stay mapped from the
 * file until they are written to; the file may be replaced by rename meanwhile, not overwritten. */
CAVMAE_API cavmae_status cavmae_model_load(cavmae_context *context, const char *path, uint32_t flags,
                                           cavmae_load_report *report, cavmae_model **out) CAVMAE_CHECKED;
/* safetensors with the configuration as metadata "cavmae.config" and a CRC-32 of every tensor; atomic. */
CAVMAE_API cavmae_status cavmae_model_save(const cavmae_model *model, const char *path) CAVMAE_CHECKED;

/* A copy of the model's configuration, to read or to train with. */
CAVMAE_API cavmae_status cavmae_model_config(const cavmae_model *model, cavmae_config **out) CAVMAE_CHECKED;

/* Computes in CAVMAE_FLOAT32 or CAVMAE_BFLOAT16 from now on; parameters stay float32. Before trainers are made of
 * it. */
CAVMAE_API cavmae_status cavmae_model_set_dtype(cavmae_model *model, int32_t dtype) CAVMAE_CHECKED;

/* Parameters by the names of the published checkpoints, in their order. */
CAVMAE_API int64_t cavmae_model_parameter_count(const cavmae_model *model);                   /* tensors */
CAVMAE_API const char *cavmae_model_parameter_name(const cavmae_model *model, int64_t index); /* NULL past the end */
/* Elements in all parameters; `trainable` 1: those that training changes. */
CAVMAE_API int64_t cavmae_model_elements(const cavmae_model *model, int32_t trainable);
/* A view to read. */
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

/* What a task on `batch` clips will take, before anything is allocated. */
CAVMAE_API cavmae_status cavmae_memory_required(const cavmae_config *config, int32_t task, int32_t batch,
                                                cavmae_memory *out) CAVMAE_CHECKED;

/* ---- Batches and embeddings -------------------------------------------------------------------------------- */

typedef struct cavmae_batch {
    uint32_t struct_size;
    int32_t count;               /* B */
    const float *audio;          /* [B, T, F], prepared as the input contract says; NULL: no sound */
    const float *image;          /* [B, C, H, W]; NULL: no pictures */
    const int32_t *audio_frames; /* [B] T of each clip, multiples of p; the clips' [T, F] then follow one another.
                                  * NULL: all as configured. A model with fixed positional embeddings takes any T; a
                                  * trainer and a trained table at most the configured */
    const uint8_t *mask_a;       /* [B, La] (clips one after another), 1 = removed; NULL: drawn. Training only */
    const uint8_t *mask_v;       /* [B, Lv] */
    const int64_t *samples;      /* [B] index in the manifest; from a loader */
    const float *labels;         /* [B, classes] 0 or 1; from a loader with labels */
    int32_t classes;
    int32_t reserved;
} cavmae_batch;

/* What to compute: every pointer that is not NULL is the caller's memory, and is filled. */
typedef struct cavmae_embedding {
    uint32_t struct_size;
    int32_t reserved;
    float *audio;         /* [B, D] coordinated: the audio stream's tokens, mean, divided by its L2 norm */
    float *visual;        /* [B, D] */
    float *joint;         /* [B, D] the joint stream's tokens, mean (not normalised) */
    float *audio_tokens;  /* [B, La, D], clips of different length one after another */
    float *visual_tokens; /* [B, Lv, D] */
    float *joint_tokens;  /* [B, La + Lv, D]: each clip's audio tokens, then its visual tokens */
} cavmae_embedding;

/* No masking. Any thread. A clip's result does not depend on its company, on threads, or on the run, to the last bit.
 * Batches of any size; memory does not grow with them. Errors: ARG (an input that an output needs is NULL, a model
 * without that modality), SHAPE, NOMEM, CANCELLED, NOT_FINITE (a wanted output is NaN or infinite). */
CAVMAE_API cavmae_status cavmae_embed(cavmae_model *model, const cavmae_batch *batch,
                                      const cavmae_embedding *out) CAVMAE_CHECKED;

/* The same for one media file, with its middle frame of clip_frames; decoded, prepared and embedded. Any thread. */
CAVMAE_API cavmae_status cavmae_embed_file(cavmae_model *model, const char *path,
                                           const cavmae_embedding *out) CAVMAE_CHECKED;

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
    double loss;       /* loss_mae + loss_c */
    double loss_mae;   /* mae_weight * (loss_mae_a + loss_mae_v) */
    double loss_mae_a; /* mean over masked patches of the mean squared error; 0 where not computed */
    double loss_mae_v;
    double loss_c;    /* contrast_weight * InfoNCE */
    double accuracy;  /* of the contrastive match among `pairs` */
    double grad_norm; /* L2 of this update's gradient, before clipping; 0 where nothing was updated */
    double lr;        /* of this update */
    int64_t pairs;    /* N of the contrastive loss; N - 1 are negatives */
} cavmae_step_result;

/* optimizer NULL: a trainer that only evaluates, and needs no memory for gradients. */
CAVMAE_API cavmae_status cavmae_trainer_create(cavmae_model *model, cavmae_optimizer *optimizer,
                                               const cavmae_config *config, cavmae_trainer **out) CAVMAE_CHECKED;
CAVMAE_API void cavmae_trainer_free(cavmae_trainer *trainer);

/* One batch: masks, forward, backward, and (each `accumulate`-th call) update. result may be NULL. NOT_FINITE names
 * the step and the tensor. After any failure parameters are as they were, the step does not count, and what was
 * accumulated for the next update is dropped. */
CAVMAE_API cavmae_status cavmae_pretrain_step(cavmae_trainer *trainer, const cavmae_batch *batch,
                                              cavmae_step_result *result) CAVMAE_CHECKED;
/* Forward only, with masks drawn for `batch_number`: the same number, the same masks. */
CAVMAE_API cavmae_status cavmae_pretrain_evaluate(cavmae_trainer *trainer, const cavmae_batch *batch,
                                                  int64_t batch_number, cavmae_step_result *result) CAVMAE_CHECKED;

#define CAVMAE_OUT_PRED_A 1   /* float32 [B, La, p*p]: predicted log-mel patches, of visible tokens too */
#define CAVMAE_OUT_PRED_V 2   /* float32 [B, Lv, p*p*C], channel fastest */
#define CAVMAE_OUT_POOLED_A 3 /* float32 [B, D]: what the contrastive loss compares, not normalised */
#define CAVMAE_OUT_POOLED_V 4
#define CAVMAE_OUT_MASK_A 5 /* uint8 [B, La], 1 = removed */
#define CAVMAE_OUT_MASK_V 6
/* Copies of the last step's or evaluation's outputs; of clips of different length, masks and patches of all of them
 * one after another, [1, tokens, ...]. NOT_FOUND where it did not compute that. */
CAVMAE_API cavmae_status cavmae_trainer_output(cavmae_trainer *trainer, int32_t which,
                                               cavmae_tensor **out) CAVMAE_CHECKED;
/* Copy of a parameter's gradient as the last step left it. NOT_FOUND: no such parameter, or one without gradient. */
CAVMAE_API cavmae_status cavmae_trainer_gradient(cavmae_trainer *trainer, const char *name,
                                                 cavmae_tensor **out) CAVMAE_CHECKED;

/* ---- Data -------------------------------------------------------------------------------------------------- */

/* Reads a manifest in the authors' JSON format: {"data": [{"wav", "video_id", "video_path", "labels"}, ...]}. The image
 * is video_path/frame_K/video_id.jpg; without video_path it is a frame of the file `video` or `wav`. Labels are names
 * or "mid"s of a CSV with header index,mid,display_name, joined by commas. Paths that are not absolute are
 * relative to the manifest. */
typedef struct cavmae_loader cavmae_loader;

typedef struct cavmae_loader_item {
    uint32_t struct_size;
    int32_t label_count;
    const char *id; /* video_id; these live until the next call of cavmae_loader_item_at */
    const char *audio_path;
    const char *image_path;
    const int32_t *labels; /* [label_count] indices of classes */
} cavmae_loader_item;

/* labels NULL: none. Uses the data keys and the input contract of `config`. Reading starts with the first _next. */
CAVMAE_API cavmae_status cavmae_loader_create(const cavmae_config *config, const char *manifest, const char *labels,
                                              cavmae_loader **out) CAVMAE_CHECKED;
CAVMAE_API void cavmae_loader_free(cavmae_loader *loader);
/* The next batch, valid until the next call; NULL at the end of an epoch (the call after it starts the next one). */
CAVMAE_API cavmae_status cavmae_loader_next(cavmae_loader *loader, const cavmae_batch **out) CAVMAE_CHECKED;
CAVMAE_API int64_t cavmae_loader_count(const cavmae_loader *loader);   /* entries in the manifest */
CAVMAE_API int64_t cavmae_loader_batches(const cavmae_loader *loader); /* in an epoch without broken samples */
CAVMAE_API int64_t cavmae_loader_epoch(const cavmae_loader *loader);   /* of the last batch, from 0 */
CAVMAE_API int64_t cavmae_loader_broken(const cavmae_loader *loader);  /* samples skipped so far */
CAVMAE_API int32_t cavmae_loader_classes(const cavmae_loader *loader);
CAVMAE_API const char *cavmae_loader_class_name(const cavmae_loader *loader, int32_t index);
CAVMAE_API cavmae_status cavmae_loader_item_at(cavmae_loader *loader, int64_t index,
                                               cavmae_loader_item *out) CAVMAE_CHECKED;

/* A checkpoint is a model file that also holds optimizer, step and the loader's place (loader may be NULL). Atomic. */
CAVMAE_API cavmae_status cavmae_checkpoint_save(cavmae_trainer *trainer, const cavmae_loader *loader,
                                                const char *path) CAVMAE_CHECKED;
/* Into a trainer (and loader): with the same configuration and data training then goes on bit for bit; with another
 * one it goes on from there as that says. The model's shapes must be the same. */
CAVMAE_API cavmae_status cavmae_checkpoint_load(cavmae_trainer *trainer, cavmae_loader *loader,
                                                const char *path) CAVMAE_CHECKED;

/* ---- Search and metrics ------------------------------------------------------------------------------------ */

/* Exact cosine search in float32. Ids are 0, 1, ... in order of adding. */
typedef struct cavmae_index cavmae_index;
CAVMAE_API cavmae_status cavmae_index_create(cavmae_context *context, int32_t dim, cavmae_index **out) CAVMAE_CHECKED;
CAVMAE_API void cavmae_index_free(cavmae_index *index);
/* rows [count, dim], normalised on the way in; a row of zeros or with NaN is ARG. */
CAVMAE_API cavmae_status cavmae_index_add(cavmae_index *index, const float *rows, int64_t count) CAVMAE_CHECKED;
CAVMAE_API int64_t cavmae_index_count(const cavmae_index *index);
CAVMAE_API int32_t cavmae_index_dim(const cavmae_index *index);
/* queries [count, dim]; ids [count, k], scores [count, k] falling, equal scores by rising id; entries past the index's
 * count are -1 and -2. Any thread. */
CAVMAE_API cavmae_status cavmae_index_search(cavmae_index *index, const float *queries, int64_t count, int32_t k,
                                             int64_t *ids, float *scores) CAVMAE_CHECKED;
CAVMAE_API cavmae_status cavmae_index_save(const cavmae_index *index, const char *path) CAVMAE_CHECKED;
CAVMAE_API cavmae_status cavmae_index_load(cavmae_context *context, const char *path,
                                           cavmae_index **out) CAVMAE_CHECKED;

typedef struct cavmae_retrieval_metrics {
    uint32_t struct_size;
    int32_t reserved;
    double r1, r5, r10; /* share of queries whose match is among the first 1, 5, 10 */
    double median_rank; /* from 1 */
} cavmae_retrieval_metrics;

/* similarity [count, count], row = query, the match on the diagonal. A match's rank is 1 + the number of strictly
 * greater scores in its row: ties count for the match, as in the paper's protocol. */
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
    double d_prime; /* sqrt(2) * inverse normal CDF of mean_auc */
} cavmae_class_metrics;

/* scores, targets [count, classes], target > 0.5 = positive. average_precision, auc [classes] or NULL; NaN for
 * classes left out. Ties as in scikit-learn. */
CAVMAE_API cavmae_status cavmae_classification_metrics(cavmae_context *context, const float *scores,
                                                       const float *targets, int64_t count, int32_t classes,
                                                       double *average_precision, double *auc,
                                                       cavmae_class_metrics *out) CAVMAE_CHECKED;
/* Share of rows whose largest score (the first of equals) is at target [count]. */
CAVMAE_API cavmae_status cavmae_top1_accuracy(const float *scores, const int64_t *target, int64_t count,
                                              int32_t classes, double *out) CAVMAE_CHECKED;

#ifdef __cplusplus
}
#endif

#endif
