/* Training in a world of threads is training alone on the whole batch: losses and parameters after ten steps, with every
 * way to send gradients and to hold moments, at even and uneven shares, and from checkpoints of other worlds. */
#define _GNU_SOURCE
#include <unistd.h>

#include "tiny.h"
#include "world_threads.h"

enum { STEPS = 10, MOST_RANKS = 5, MOST_CLIPS = 16 };

static int32_t most_ranks = MOST_RANKS; /* fewer where there are fewer devices */
/* CAVMAE_TEST_WORLD=mpi: this process is a rank among others, in the place of threads. */
static cavmae_context *mpi_context;
static cavmae_world *mpi_world;
static char directory[] = "/tmp/cavmae-world-training-test-XXXXXX";

static const char *in_directory(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

/* What a run is: clips of each step over all ranks, 0 ends it. */
typedef struct plan {
    char settings[1024];
    int32_t clips[STEPS + 1];
    int32_t lengths;       /* 1: clips of different length */
    int32_t classes;       /* above 0: fine-tuning */
    int32_t rank_of_fault; /* -1: none */
    const char *load, *save;
    int32_t save_after; /* steps */
    int32_t skip;       /* steps of the plan that were taken before */
} plan;

static const plan even = {.clips = {12, 12, 12, 12, 12, 12, 12, 12, 12, 12}, .rank_of_fault = -1};
static const plan uneven = {.clips = {12, 7, 12, 2, 1, 12, 11, 5, 12, 3}, .rank_of_fault = -1};
/* Some ranks' first share is without clips. */
static const plan empty_first = {.clips = {2, 1, 12, 5, 12, 2, 1, 3, 12, 4}, .rank_of_fault = -1};

typedef struct outcome {
    double loss[STEPS], accuracy[STEPS], norm[STEPS], evaluated;
    int64_t pairs, updates;
    uint64_t hash;
    float *parameters; /* all, one after another */
    int64_t elements;
    cavmae_status status;
    char error[512];
} outcome;

typedef struct run {
    const plan *plan;
    outcome out[MOST_RANKS];
} run;

/* ---- One rank ---- */

static cavmae_status set_all(cavmae_config *config, const char *settings) {
    char text[1100], *rest = NULL;
    snprintf(text, sizeof text, "%s", settings);
    for (char *pair = strtok_r(text, " ", &rest); pair; pair = strtok_r(NULL, " ", &rest)) {
        char *value = strchr(pair, '=');
        *value++ = 0;
        const cavmae_status status = cavmae_config_set(config, pair, value);
        if (status != CAVMAE_OK) return status;
    }
    return CAVMAE_OK;
}

static void copy_parameters(cavmae_model *model, outcome *out) {
    const char *name;
    out->parameters = malloc((size_t)cavmae_model_elements(model, 0) * sizeof(float));
    out->hash = 0xCBF29CE484222325u;
    for (int64_t i = 0; (name = cavmae_model_parameter_name(model, i)) != NULL; i++) {
        cavmae_tensor *tensor = NULL;
        if (cavmae_model_parameter(model, name, &tensor) != CAVMAE_OK) exit(1);
        const int64_t count = cavmae_tensor_elements(tensor);
        float *to = out->parameters + out->elements;
        memcpy(to, cavmae_tensor_data(tensor), (size_t)count * sizeof(float));
        /* Attention does not depend on the keys' bias: its gradient is rounding, of which Adam makes whole steps. */
        if (strstr(name, "qkv.bias")) memset(to + count / 3, 0, (size_t)(count / 3) * sizeof(float));
        out->elements += count;
        cavmae_tensor_free(tensor);
    }
    for (int64_t k = 0; k < out->elements * 4; k++)
        out->hash = (out->hash ^ ((const uint8_t *)out->parameters)[k]) * 0x100000001B3u;
}

/* Clip number `clip` is a function of its number: the share of a rank is those of its places. */
static void make_share(const plan *p, const cavmae_config *config, int32_t step, int32_t rank, int32_t size,
                       tiny_inputs *in, float *labels, cavmae_batch *batch) {
    const int32_t all = p->clips[step], begin = all * rank / size, count = all * (rank + 1) / size - begin;
    int32_t frames[MOST_CLIPS];
    for (int32_t i = 0; i < count; i++) frames[i] = 8 + 8 * ((step + begin + i) % 4);
    *in = tiny_make(config, 100 * step + begin, count, p->lengths ? frames : NULL);
    *batch = tiny_batch(in, count);
    batch->world_count = size > 1 ? all : 0;
    if (!p->classes) return;
    for (int32_t i = 0; i < count * p->classes; i++)
        labels[i] = (float)((step + begin + i / p->classes) % p->classes == i % p->classes);
    batch->labels = labels;
    batch->classes = p->classes;
}

static cavmae_status take(const plan *p, cavmae_trainer *trainer, const cavmae_batch *batch, int evaluate,
                          cavmae_step_result *r) {
    r->struct_size = sizeof *r;
    if (p->classes)
        return evaluate ? cavmae_finetune_evaluate(trainer, batch, r) : cavmae_finetune_step(trainer, batch, r);
    return evaluate ? cavmae_pretrain_evaluate(trainer, batch, 3, r) : cavmae_pretrain_step(trainer, batch, r);
}

static cavmae_status train(const plan *p, cavmae_trainer *trainer, const cavmae_config *config, int32_t rank,
                           int32_t size, outcome *out) {
    cavmae_status status = p->load ? cavmae_checkpoint_load(trainer, NULL, p->load) : CAVMAE_OK;
    for (int32_t step = p->skip; status == CAVMAE_OK && step < STEPS && p->clips[step]; step++) {
        tiny_inputs in;
        cavmae_batch batch;
        float labels[MOST_CLIPS * 8];
        cavmae_step_result r = {0};
        make_share(p, config, step, rank, size, &in, labels, &batch);
        status = take(p, trainer, &batch, 0, &r);
        out->loss[step] = r.loss;
        out->accuracy[step] = r.accuracy;
        out->norm[step] = r.grad_norm;
        out->pairs = r.pairs;
        if (status == CAVMAE_OK && step == 2) { /* in the midst of an accumulation */
            status = take(p, trainer, &batch, 1, &r);
            out->evaluated = r.loss;
        }
        if (status == CAVMAE_OK && p->save && step + 1 == p->save_after)
            status = cavmae_checkpoint_save(trainer, NULL, p->save);
        tiny_release(&in);
    }
    return status;
}

static void train_rank(cavmae_world *world, cavmae_context *context, int32_t rank, void *arg) {
    run *r = arg;
    outcome *out = &r->out[rank];
    cavmae_config *config = NULL;
    cavmae_model *model = NULL;
    cavmae_optimizer *optimizer = NULL;
    cavmae_trainer *trainer = NULL;
    cavmae_status status = cavmae_config_create(context, "tiny", &config);
    if (status == CAVMAE_OK) status = set_all(config, r->plan->settings);
    if (status == CAVMAE_OK && rank == r->plan->rank_of_fault) status = cavmae_config_set(config, "lr", "0.5");
    if (status == CAVMAE_OK) status = cavmae_config_set_world(config, world);
    if (status == CAVMAE_OK) status = cavmae_model_create(config, &model);
    if (status == CAVMAE_OK) status = cavmae_optimizer_create(model, config, &optimizer);
    if (status == CAVMAE_OK) status = cavmae_trainer_create(model, optimizer, config, &trainer);
    if (status == CAVMAE_OK) status = train(r->plan, trainer, config, rank, cavmae_world_size(world), out);
    if (status == CAVMAE_OK) copy_parameters(model, out);
    if (status != CAVMAE_OK) snprintf(out->error, sizeof out->error, "%s", cavmae_last_error());
    out->updates = cavmae_optimizer_updates(optimizer);
    out->status = status;
    cavmae_trainer_free(trainer);
    cavmae_optimizer_free(optimizer);
    cavmae_model_free(model);
    cavmae_config_free(config);
}

/* What the other processes' outcomes are, but for their parameters. */
static void gather_outcomes(run *r, int32_t rank, int32_t size) {
    outcome *all = calloc((size_t)size, sizeof *all);
    CHECK_OK(cavmae_world_gather(mpi_world, &r->out[rank], all, sizeof *all));
    for (int32_t i = 0; i < size; i++) {
        float *own = r->out[i].parameters;
        r->out[i] = all[i];
        r->out[i].parameters = own;
    }
    free(all);
}

static run *train_world(const plan *p, int32_t size) {
    run *r = calloc(1, sizeof *r);
    r->plan = p;
    if (size > 1 && mpi_world) {
        const int32_t rank = cavmae_world_rank(mpi_world);
        train_rank(mpi_world, mpi_context, rank, r);
        gather_outcomes(r, rank, size);
    } else if (size == 1) {
        cavmae_context *context = rank_context(0);
        train_rank(NULL, context, 0, r);
        cavmae_context_free(context);
    } else {
        run_ranks(size, NULL, train_rank, r);
    }
    return r;
}

static void free_run(run *r) {
    for (int i = 0; i < MOST_RANKS; i++) free(r->out[i].parameters);
    free(r);
}

/* ---- Comparing ---- */

static double off(const double *a, const double *b) {
    double most = 0;
    for (int i = 0; i < STEPS; i++) most = fmax(most, fabs(a[i] - b[i]) / fmax(fabs(b[i]), 1e-3));
    return most;
}

/* By the length of what differs: Adam makes a step of full length of the smallest gradient, so that single elements say
 * nothing. */
static double parameters_off(const outcome *a, const outcome *b) {
    double difference = 0, length = 0;
    if (a->elements != b->elements || !a->elements) return INFINITY;
    for (int64_t i = 0; i < a->elements; i++) {
        const double d = (double)a->parameters[i] - (double)b->parameters[i];
        difference += d * d;
        length += (double)b->parameters[i] * (double)b->parameters[i];
    }
    return sqrt(difference / length);
}

/* All ranks have the same bits; and, within `bound`, those of one process. */
static void check_equal(const char *name, const plan *p, const char *alone_settings, int32_t size, double bound) {
    plan alone = *p;
    snprintf(alone.settings + strlen(p->settings), 64, " %s", alone_settings);
    run *one = train_world(&alone, 1), *all = train_world(p, size);
    if (!CHECK(one->out[0].status == CAVMAE_OK)) printf("  %s: alone: %s\n", name, one->out[0].error);
    for (int32_t rank = 0; rank < size; rank++) {
        const outcome *out = &all->out[rank];
        if (!CHECK(out->status == CAVMAE_OK)) printf("  %s: rank %d of %d: %s\n", name, rank, size, out->error);
        CHECK(out->hash == all->out[0].hash);
        CHECK(memcmp(out->loss, all->out[0].loss, sizeof out->loss) == 0);
        CHECK(out->updates == one->out[0].updates);
    }
    const outcome *a = &all->out[cavmae_world_rank(mpi_world)], *b = &one->out[0];
    const double evaluated = fabs(a->evaluated - b->evaluated) / fmax(fabs(b->evaluated), 1e-3);
    if (!CHECK(off(a->loss, b->loss) <= bound && off(a->accuracy, b->accuracy) <= bound &&
               off(a->norm, b->norm) <= 20 * bound && evaluated <= bound && parameters_off(a, b) <= bound))
        printf("  %s, %d ranks: losses off by %.2g, matches %.2g, norms %.2g, evaluation %.2g, parameters %.2g\n", name,
               size, off(a->loss, b->loss), off(a->accuracy, b->accuracy), off(a->norm, b->norm), evaluated,
               parameters_off(a, b));
    CHECK(a->pairs == b->pairs);
    free_run(one);
    free_run(all);
}

static plan with(const plan *p, const char *settings) {
    plan out = *p;
    snprintf(out.settings, sizeof out.settings, SMALLEST " lr=1e-3 batch=12 bucket_mb=0.005 %s", settings);
    return out;
}

/* ---- Tests ---- */

static void test_scopes(int32_t fewest) {
    static const plan *const plans[] = {&even, &uneven, &empty_first};
    static const char *const ways[] = {"accumulate=1", "shard_optimizer=1", "accumulate=3",
                                       "accumulate=3 shard_optimizer=1 clip_norm=0.05 optimizer=adamw"};
    static const char *const directions[] = {"v2a", "a2v", "both", "v2a"};
    char settings[256], alone[64];
    for (int32_t size = fewest; size <= most_ranks; size++) {
        for (int i = ranks_on_gpus(); i < 3; i++) {
            const int way = (size + i) % 4;
            snprintf(settings, sizeof settings, "%s contrast_weight=0.5 contrast_direction=%s", ways[way],
                     directions[size % 4]);
            plan p = with(plans[i], settings);
            snprintf(alone, sizeof alone, "contrast_shards=%d", size);
            check_equal("local", &p, alone, size, 1e-5);
            strcat(p.settings, " contrast_scope=global");
            check_equal("global", &p, "", size, 1e-5);
        }
    }
}

static void test_ways(void) {
    static const struct {
        const char *name, *settings, *alone;
        int32_t lengths;
        double bound;
    } cases[] = {
        {"all shards here and there", "contrast_shards=4 contrast_weight=0.5", "", 0, 1e-5},
        {"sum", "loss_reduce=sum optimizer=adamw weight_decay=0.1 clip_norm=0.1", "contrast_shards=2", 0, 1e-5},
        {"lengths", "contrast_scope=global", "", 1, 1e-5},
        {"lengths, sharded", "contrast_scope=global shard_optimizer=1", "", 1, 1e-5},
        {"no contrast", "contrast_weight=0", "", 0, 1e-5},
        {"contrast alone", "mae_weight=0 contrast_scope=global", "", 0, 1e-5},
        {"masks over both", "contrast_weight=0 mask_domain=joint", "", 0, 1e-5},
        {"structured masks, positions", "mask_mode_a=time trainable_pos=1 contrast_scope=global", "", 0, 1e-5},
        {"chunks", "contrast_scope=global contrast_weight=0.5 chunk=4", "chunk=0", 0, 1e-5},
        {"chunks and shards", "contrast_weight=0.5 chunk=1 shard_optimizer=1", "chunk=0 contrast_shards=2", 0, 1e-5},
        {"bfloat16 on the way", "reduce_dtype=bfloat16 contrast_scope=global", "", 0, 5e-3},
        {"bfloat16, sharded", "reduce_dtype=bfloat16 contrast_scope=global shard_optimizer=1", "", 0, 5e-3},
        {"bfloat16 model", "dtype=bfloat16 contrast_scope=global", "", 0, 3e-3},
        {"one large bucket", "bucket_mb=25 contrast_scope=global shard_optimizer=1", "", 0, 1e-5},
        {"recomputed", "recompute=1 contrast_scope=global", "", 0, 1e-5},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        plan p = with(i % 2 ? &uneven : &even, cases[i].settings);
        p.lengths = cases[i].lengths;
        check_equal(cases[i].name, &p, cases[i].alone, 2, cases[i].bound);
    }
}

static void test_heads(void) {
    static const char *const settings[] = {"loss=bce", "loss=ce shard_optimizer=1 accumulate=2",
                                           "modality_dropout=0.5 head_input=sum", "freeze_base=1 head_lr_factor=10"};
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        char text[128];
        snprintf(text, sizeof text, "classes=5 %s", settings[i]);
        plan p = with(i % 2 ? &empty_first : &uneven, text);
        p.classes = 5;
        check_equal(settings[i], &p, "", 3, 1e-5);
    }
}

/* Two passes over chunks are one over all, to the bits of what is not a sum over clips. */
static void test_chunks_alone(void) {
    plan whole = with(&uneven, "contrast_weight=0.5 contrast_direction=both"), chunks = whole;
    strcat(chunks.settings, " chunk=5");
    run *a = train_world(&whole, 1), *b = train_world(&chunks, 1);
    if (!CHECK(b->out[0].status == CAVMAE_OK)) printf("  %s\n", b->out[0].error);
    CHECK(off(a->out[0].loss, b->out[0].loss) < 1e-5 && parameters_off(&a->out[0], &b->out[0]) < 1e-5);
    CHECK(a->out[0].pairs == b->out[0].pairs);
    free_run(a);
    free_run(b);
}

static void test_same_bits_twice(void) {
    plan p = with(&uneven, "contrast_scope=global shard_optimizer=1");
    run *a = train_world(&p, 3), *b = train_world(&p, 3);
    CHECK(a->out[0].elements && a->out[0].hash == b->out[0].hash);
    CHECK(memcmp(a->out[0].loss, b->out[0].loss, sizeof a->out[0].loss) == 0);
    free_run(a);
    free_run(b);
}

/* Saved by a world in the midst of an accumulation; read by others, and alone. */
static void test_checkpoints(void) {
    static const int32_t readers[] = {1, 2, 3, 5};
    const char *path = in_directory("checkpoint");
    plan p = with(&uneven, "contrast_scope=global shard_optimizer=1 accumulate=2"), first = p;
    run *whole = train_world(&p, 3);
    first.save = path;
    first.save_after = 5;
    first.clips[5] = 0;
    run *saved = train_world(&first, 3);
    for (int32_t r = 0; r < 3; r++)
        if (!CHECK(saved->out[r].status == CAVMAE_OK)) printf("  saving: %s\n", saved->out[r].error);
    for (size_t i = 0; i < sizeof readers / sizeof *readers && readers[i] <= most_ranks; i++) {
        plan rest = p;
        rest.load = path;
        rest.skip = 5;
        if (readers[i] == 2) strcat(rest.settings, " shard_optimizer=0");
        run *resumed = train_world(&rest, readers[i]);
        const outcome *out = &resumed->out[0];
        if (!CHECK(out->status == CAVMAE_OK)) printf("  %d ranks: %s\n", readers[i], out->error);
        for (int s = 5; s < STEPS; s++) CHECK(fabs(out->loss[s] - whole->out[0].loss[s]) <= 1e-5 * fabs(out->loss[s]));
        CHECK(parameters_off(out, &whole->out[0]) <= 1e-5);
        if (readers[i] == 3) CHECK(parameters_off(out, &whole->out[0]) <= 1e-6);
        free_run(resumed);
    }
    free_run(saved);
    free_run(whole);
}

/* ---- What goes wrong ---- */

static int says(const run *r, int32_t rank, cavmae_status status, const char *words) {
    const outcome *out = &r->out[rank];
    if (out->status == status && strstr(out->error, words)) return 1;
    printf("  rank %d: %s: %s\n", rank, cavmae_status_str(out->status), out->error);
    return 0;
}

static void test_other_configs(void) {
    plan p = with(&even, "");
    p.rank_of_fault = 1;
    run *r = train_world(&p, 3);
    CHECK(says(r, 1, CAVMAE_E_MISMATCH, "key lr is '0.5' on rank 1 and '0.001' on rank 0"));
    CHECK(says(r, 0, CAVMAE_E_PEER, "key lr is '0.5' on rank 1") && says(r, 2, CAVMAE_E_PEER, "rank 1"));
    free_run(r);
    p = with(&even, "contrast_shards=3");
    r = train_world(&p, 2);
    CHECK(says(r, 0, CAVMAE_E_ARG, "contrast_shards 3 is not a multiple of the world's 2 ranks"));
    free_run(r);
}

/* A checkpoint that cannot be written is everybody's failure. */
static void test_unwritable(void) {
    plan p = with(&even, "shard_optimizer=1");
    p.save = in_directory("no/such/folder");
    p.save_after = 1;
    run *r = train_world(&p, 2);
    CHECK(says(r, 0, CAVMAE_E_IO, "no/such/folder") && says(r, 1, CAVMAE_E_PEER, "rank 0 failed"));
    free_run(r);
}

typedef struct faults {
    cavmae_status status[3][4];
    char error[3][4][512];
    double loss[3];
    uint64_t hash[3];
} faults;

/* Step 1: rank 1's batch is too long. Step 2: rank 2 takes another step. Step 3: a NaN on rank 0. Step 4: all well. */
static void fail_in_turn(cavmae_world *world, cavmae_context *context, int32_t rank, void *arg) {
    faults *f = arg;
    cavmae_config *config = NULL;
    cavmae_model *model = NULL;
    cavmae_optimizer *optimizer = NULL;
    cavmae_trainer *trainer = NULL;
    plan p = with(&even, "");
    if (cavmae_config_create(context, "tiny", &config) || set_all(config, p.settings) ||
        cavmae_config_set_world(config, world) || cavmae_model_create(config, &model) ||
        cavmae_optimizer_create(model, config, &optimizer) || cavmae_trainer_create(model, optimizer, config, &trainer))
        exit(1);
    for (int step = 0; step < 4; step++) {
        tiny_inputs in;
        cavmae_batch batch;
        cavmae_step_result r = {.struct_size = sizeof r};
        make_share(&p, config, step, rank, 3, &in, NULL, &batch);
        if (step == 0 && rank == 1) batch.count++;
        if (step == 1 && rank == 2) batch.count--, batch.world_count = 9;
        if (step == 2 && rank == 0) in.audio[5] = NAN;
        f->status[rank][step] = cavmae_pretrain_step(trainer, &batch, &r);
        if (f->status[rank][step]) snprintf(f->error[rank][step], 512, "%s", cavmae_last_error());
        f->loss[rank] = r.loss;
        tiny_release(&in);
    }
    outcome out = {0};
    copy_parameters(model, &out);
    f->hash[rank] = out.hash;
    free(out.parameters);
    cavmae_trainer_free(trainer);
    cavmae_optimizer_free(optimizer);
    cavmae_model_free(model);
    cavmae_config_free(config);
}

static void test_failing_steps(void) {
    static faults f;
    run_ranks(3, NULL, fail_in_turn, &f);
    CHECK(f.status[1][0] == CAVMAE_E_SHAPE);
    for (int rank = 0; rank < 3; rank++) {
        if (rank != 1) CHECK(f.status[rank][0] == CAVMAE_E_PEER && strstr(f.error[rank][0], "rank 1"));
        CHECK(f.status[rank][1] == CAVMAE_E_PEER && strstr(f.error[rank][1], "step 1 of 9 clips"));
        CHECK(f.status[rank][2] == CAVMAE_E_NOT_FINITE);
        CHECK(f.status[rank][3] == CAVMAE_OK && f.loss[rank] == f.loss[0] && isfinite(f.loss[0]));
        CHECK(f.hash[rank] == f.hash[0]);
        if (f.status[rank][3]) printf("  %s\n  %s\n", f.error[rank][0], f.error[rank][3]);
    }
    CHECK(strstr(f.error[0][2], "audio of the batch"));
}

typedef struct misfit {
    cavmae_status status[3][4];
    char error[3][4][512];
} misfit;

static void note(misfit *m, int32_t rank, int what, cavmae_status status) {
    m->status[rank][what] = status;
    snprintf(m->error[rank][what], sizeof m->error[rank][what], "%s", status ? cavmae_last_error() : "");
}

/* Rank 1's model is another one: no trainer is made, and then one is. Its optimizer has a group of its own: no step is
 * taken. Its batch has no masked token of a picture, as nobody's: no step either; as others have: it is. */
static void misfit_in_turn(cavmae_world *world, cavmae_context *context, int32_t rank, void *arg) {
    misfit *m = arg;
    cavmae_config *config = NULL, *other = NULL;
    cavmae_model *model = NULL, *wrong = NULL;
    cavmae_optimizer *optimizer = NULL;
    cavmae_trainer *trainer = NULL;
    const plan p = with(&even, "contrast_scope=global");
    uint8_t sound[MOST_CLIPS * 8], pictures[MOST_CLIPS * 9];
    if (cavmae_config_create(context, "tiny", &config) || set_all(config, p.settings) ||
        cavmae_config_set_world(config, world) || cavmae_config_clone(config, &other) ||
        cavmae_config_set(other, "decoder_dim", "24") || cavmae_model_create(config, &model) ||
        cavmae_model_create(other, &wrong))
        exit(1);
    note(m, rank, 0, cavmae_trainer_create(rank == 1 ? wrong : model, NULL, config, &trainer));
    for (int again = 0; again < 2; again++) {
        if (cavmae_optimizer_create(model, config, &optimizer)) exit(1);
        if (!again && rank == 1 && cavmae_optimizer_group(optimizer, "blocks_a", 0.5, 0)) exit(1);
        if (cavmae_trainer_create(model, optimizer, config, &trainer)) exit(1);
        for (int step = again; step < 1 + 2 * again; step++) {
            tiny_inputs in;
            cavmae_batch batch;
            cavmae_step_result r = {.struct_size = sizeof r};
            make_share(&p, config, 0, rank, 3, &in, NULL, &batch);
            for (int i = 0; i < MOST_CLIPS * 8; i++) sound[i] = (uint8_t)(i % 2);
            for (int i = 0; i < MOST_CLIPS * 9; i++) pictures[i] = (uint8_t)(step == 2 && rank != 1 && i % 3 == 0);
            if (again) batch.mask_a = sound, batch.mask_v = pictures;
            note(m, rank, 1 + step, cavmae_pretrain_step(trainer, &batch, &r));
            tiny_release(&in);
        }
        cavmae_trainer_free(trainer);
        cavmae_optimizer_free(optimizer);
    }
    cavmae_model_free(wrong);
    cavmae_model_free(model);
    cavmae_config_free(other);
    cavmae_config_free(config);
}

static void test_misfits(void) {
    static misfit m;
    run_ranks(3, NULL, misfit_in_turn, &m);
    CHECK(m.status[1][0] == CAVMAE_E_MISMATCH && strstr(m.error[1][0], "decoder_dim"));
    for (int rank = 0; rank < 3; rank++) {
        if (rank != 1) CHECK(m.status[rank][0] == CAVMAE_E_PEER && strstr(m.error[rank][0], "rank 1 failed: trainer"));
        CHECK(m.status[rank][1] == CAVMAE_E_PEER && strstr(m.error[rank][1], "rank 1 is at") &&
              strstr(m.error[rank][1], "optimizer"));
        CHECK(m.status[rank][2] == CAVMAE_E_NOT_FINITE && strstr(m.error[rank][2], "no visual token of any rank"));
        if (!CHECK(m.status[rank][3] == CAVMAE_OK)) printf("  %s\n", m.error[rank][3]);
    }
}

/* On a GPU a failure ends the world; everybody knows. */
static void test_failing_on_gpus(void) {
    static faults f;
    const cavmae_world_options options = {.struct_size = sizeof options, .timeout = 2};
    run_ranks(3, &options, fail_in_turn, &f);
    CHECK(f.status[1][0] == CAVMAE_E_SHAPE);
    for (int rank = 0; rank < 3; rank++) {
        if (rank != 1) CHECK(f.status[rank][0] == CAVMAE_E_PEER);
        for (int step = 1; step < 4; step++) CHECK(f.status[rank][step] != CAVMAE_OK);
    }
}

static void find_devices(void) {
    setenv("CUDASIM_DEVICES", "3", 0);
    for (most_ranks = 0; most_ranks < 3; most_ranks++) {
        cavmae_context *context = rank_context(most_ranks);
        if (!context) break;
        cavmae_context_free(context);
    }
    if (most_ranks == 3) return;
    printf("there are %d devices; this test takes 3\n", most_ranks);
    exit(check_summary("world_training"));
}

/* One of the ranks that mpirun started: as many as it says. */
static int test_in_mpi(void) {
    mpi_context = tiny_context(1);
    if (!CHECK_OK(cavmae_world_create_mpi(mpi_context, NULL, NULL, &mpi_world))) return 1;
    most_ranks = cavmae_world_size(mpi_world);
    test_scopes(most_ranks);
    plan p = with(&uneven, "contrast_scope=global shard_optimizer=1 reduce_dtype=bfloat16");
    run *a = train_world(&p, most_ranks), *b = train_world(&p, most_ranks);
    CHECK(a->out[0].elements && a->out[0].hash == b->out[0].hash);
    free_run(a);
    free_run(b);
    const int failed = check_failed, shown = cavmae_world_rank(mpi_world) == 0;
    cavmae_world_free(mpi_world);
    cavmae_context_free(mpi_context);
    return shown ? check_summary("world_training over MPI") : failed != 0;
}

int main(void) {
    const char *world = getenv("CAVMAE_TEST_WORLD");
    if (world && !strcmp(world, "mpi")) return test_in_mpi();
    if (ranks_on_gpus()) find_devices();
    if (!mkdtemp(directory)) return 1;
    test_scopes(2);
    test_ways();
    test_heads();
    test_chunks_alone();
    test_same_bits_twice();
    test_checkpoints();
    if (ranks_on_gpus()) {
        test_failing_on_gpus();
    } else {
        test_other_configs();
        test_unwritable();
        test_failing_steps();
        test_misfits();
    }
    unlink(in_directory("checkpoint"));
    rmdir(directory);
    return check_summary("world_training");
}
