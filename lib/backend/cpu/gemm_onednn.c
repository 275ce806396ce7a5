#include "bf16_product.h"

#ifdef CAVMAE_WITHOUT_ONEDNN

cavmae_status cavmae__bf16_open(cavmae_context *context, int always, cavmae__bf16 **out) {
    (void)context;
    (void)always;
    *out = NULL;
    return CAVMAE_OK;
}

void cavmae__bf16_close(cavmae__bf16 *bf16) { (void)bf16; }

cavmae_status cavmae__bf16_multiply(cavmae__bf16 *bf16, const cavmae__bf16_product *product, void *scratch) {
    (void)bf16;
    (void)product;
    (void)scratch;
    return cavmae__fail(CAVMAE_E_INTERNAL, "a product by oneDNN in a library without it");
}

#else

#include <oneapi/dnnl/dnnl.h>
#include <pthread.h>

/* A primitive and what it was made for. */
typedef struct multiplier {
    struct multiplier *next;
    cavmae__bf16_product shape; /* without pointers */
    dnnl_primitive_t primitive;
    dnnl_primitive_desc_t description;
} multiplier;

struct cavmae__bf16 {
    cavmae_context *context;
    dnnl_engine_t engine;
    pthread_mutex_t lock;
    multiplier *multipliers; /* as many as there are shapes in a model; only ever added to */
};

static cavmae_status failed(const char *what, dnnl_status_t status) {
    if (status == dnnl_out_of_memory) return cavmae__fail(CAVMAE_E_NOMEM, "oneDNN has no memory for %s", what);
    return cavmae__fail(CAVMAE_E_BACKEND, "oneDNN: %s failed with status %d", what, (int)status);
}

#define DNNL_TRY_OUT(what, call)                                                                                       \
    do {                                                                                                               \
        dnnl_status_t dnnl_ = (call);                                                                                  \
        if (dnnl_ != dnnl_success) {                                                                                   \
            status = failed((what), dnnl_);                                                                            \
            goto out;                                                                                                  \
        }                                                                                                              \
    } while (0)

/* ---- What versions 2 and 3 of oneDNN write differently ---- */

#if DNNL_VERSION_MAJOR >= 3

typedef const_dnnl_memory_desc_t known_layout;

static dnnl_status_t make_layout(dnnl_memory_desc_t *out, const dnnl_dims_t size, dnnl_data_type_t type,
                                 const dnnl_dims_t strides) {
    return dnnl_memory_desc_create_with_strides(out, 2, size, type, strides);
}

static void free_layout(dnnl_memory_desc_t layout) {
    if (layout) dnnl_memory_desc_destroy(layout);
}

static dnnl_status_t describe(dnnl_primitive_desc_t *out, dnnl_engine_t engine, dnnl_memory_desc_t layouts[3],
                              const_dnnl_primitive_attr_t attributes) {
    return dnnl_matmul_primitive_desc_create(out, engine, layouts[0], layouts[1], NULL, layouts[2], attributes);
}

#else

typedef const dnnl_memory_desc_t *known_layout;

static dnnl_status_t make_layout(dnnl_memory_desc_t *out, const dnnl_dims_t size, dnnl_data_type_t type,
                                 const dnnl_dims_t strides) {
    return dnnl_memory_desc_init_by_strides(out, 2, size, type, strides);
}

static void free_layout(dnnl_memory_desc_t layout) { (void)layout; }

static dnnl_status_t describe(dnnl_primitive_desc_t *out, dnnl_engine_t engine, dnnl_memory_desc_t layouts[3],
                              const_dnnl_primitive_attr_t attributes) {
    dnnl_matmul_desc_t product;
    dnnl_status_t status = dnnl_matmul_desc_init(&product, &layouts[0], &layouts[1], NULL, &layouts[2]);
    return status == dnnl_success ? dnnl_primitive_desc_create(out, &product, attributes, engine, NULL) : status;
}

#endif

/* ---- Making primitives ---- */

static int same_shape(const cavmae__bf16_product *a, const cavmae__bf16_product *b) {
    return a->m == b->m && a->n == b->n && a->k == b->k && a->a_row == b->a_row && a->b_row == b->b_row &&
           a->c_row == b->c_row && a->a_transposed == b->a_transposed && a->b_transposed == b->b_transposed;
}

static void free_multiplier(cavmae_context *context, multiplier *m) {
    if (m->primitive) dnnl_primitive_destroy(m->primitive);
    if (m->description) dnnl_primitive_desc_destroy(m->description);
    cavmae__free(context, m);
}

static cavmae_status make_multiplier(cavmae__bf16 *bf16, const cavmae__bf16_product *p, multiplier **out) {
    const dnnl_dims_t sizes[3] = {{p->m, p->k}, {p->k, p->n}, {p->m, p->n}};
    const dnnl_dims_t strides[3] = {{p->a_transposed ? 1 : p->a_row, p->a_transposed ? p->a_row : 1},
                                    {p->b_transposed ? 1 : p->b_row, p->b_transposed ? p->b_row : 1},
                                    {p->c_row, 1}};
    dnnl_memory_desc_t layouts[3] = {0};
    dnnl_primitive_attr_t attributes = NULL;
    cavmae_status status = CAVMAE_OK;
    multiplier *m = cavmae__alloc_zero(bf16->context, sizeof *m);
    if (!m) return CAVMAE_E_NOMEM;
    m->shape = *p;
    for (int i = 0; i < 3; i++)
        DNNL_TRY_OUT("a layout", make_layout(&layouts[i], sizes[i], i < 2 ? dnnl_bf16 : dnnl_f32, strides[i]));
    DNNL_TRY_OUT("attributes", dnnl_primitive_attr_create(&attributes));
    DNNL_TRY_OUT("attributes", dnnl_primitive_attr_set_scratchpad_mode(attributes, dnnl_scratchpad_mode_user));
    DNNL_TRY_OUT("describing a product", describe(&m->description, bf16->engine, layouts, attributes));
    if (dnnl_memory_desc_get_size(dnnl_primitive_desc_query_md(m->description, dnnl_query_scratchpad_md, 0)) >
        CAVMAE__BF16_SCRATCH) {
        status = cavmae__fail(CAVMAE_E_BACKEND,
                              "oneDNN wants more than %d bytes of scratch for a product of %lld x %lld x %lld",
                              CAVMAE__BF16_SCRATCH, (long long)p->m, (long long)p->n, (long long)p->k);
        goto out;
    }
    DNNL_TRY_OUT("making a product", dnnl_primitive_create(&m->primitive, m->description));
    *out = m;
out:
    for (int i = 0; i < 3; i++) free_layout(layouts[i]);
    if (attributes) dnnl_primitive_attr_destroy(attributes);
    if (status != CAVMAE_OK) free_multiplier(bf16->context, m);
    return status;
}

static cavmae_status find_multiplier(cavmae__bf16 *bf16, const cavmae__bf16_product *p, multiplier **out) {
    cavmae_status status = CAVMAE_OK;
    pthread_mutex_lock(&bf16->lock);
    multiplier *m = bf16->multipliers;
    while (m && !same_shape(&m->shape, p)) m = m->next;
    if (!m) {
        CAVMAE__TRY_OUT(make_multiplier(bf16, p, &m));
        m->next = bf16->multipliers;
        bf16->multipliers = m;
    }
    *out = m;
out:
    pthread_mutex_unlock(&bf16->lock);
    return status;
}

/* ---- Multiplying ---- */

static known_layout layout_of(const multiplier *m, dnnl_query_t query) {
    return dnnl_primitive_desc_query_md(m->description, query, 0);
}

cavmae_status cavmae__bf16_multiply(cavmae__bf16 *bf16, const cavmae__bf16_product *p, void *scratch) {
    enum { ARGUMENTS = 4 };
    static const dnnl_query_t queries[ARGUMENTS] = {dnnl_query_src_md, dnnl_query_weights_md, dnnl_query_dst_md,
                                                    dnnl_query_scratchpad_md};
    static const int names[ARGUMENTS] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_SCRATCHPAD};
    /* oneDNN only reads the first two, but takes all as void *. */
    void *memory[ARGUMENTS] = {(void *)(uintptr_t)p->a, (void *)(uintptr_t)p->b, p->c, scratch};
    dnnl_exec_arg_t arguments[ARGUMENTS] = {{0}};
    dnnl_stream_t stream = NULL;
    cavmae_status status = CAVMAE_OK;
    multiplier *m;
    CAVMAE__TRY(find_multiplier(bf16, p, &m));
    DNNL_TRY_OUT("a stream", dnnl_stream_create(&stream, bf16->engine, dnnl_stream_default_flags));
    for (int i = 0; i < ARGUMENTS; i++) {
        arguments[i].arg = names[i];
        DNNL_TRY_OUT("a matrix",
                     dnnl_memory_create(&arguments[i].memory, layout_of(m, queries[i]), bf16->engine, memory[i]));
    }
    DNNL_TRY_OUT("a product", dnnl_primitive_execute(m->primitive, stream, ARGUMENTS, arguments));
    DNNL_TRY_OUT("a product", dnnl_stream_wait(stream));
out:
    for (int i = 0; i < ARGUMENTS; i++)
        if (arguments[i].memory) dnnl_memory_destroy(arguments[i].memory);
    if (stream) dnnl_stream_destroy(stream);
    return status;
}

/* ---- Life ---- */

/* Without AMX, Intel's processors do bfloat16 at half the speed of float32 (measured on Sapphire Rapids), AMD's since
 * Zen 4 at twice. A rule, not a measurement: results must not depend on the day. */
static int worth_it(int always) {
#ifdef CAVMAE_HAVE_X86
    const unsigned isa = (unsigned)dnnl_get_effective_cpu_isa(), bf16 = dnnl_cpu_isa_avx512_core_bf16,
                   matrix = dnnl_cpu_isa_avx512_core_amx;
    return (isa & matrix) == matrix || ((isa & bf16) == bf16 && (always || __builtin_cpu_is("amd")));
#else
    (void)always;
    return 0;
#endif
}

cavmae_status cavmae__bf16_open(cavmae_context *context, int always, cavmae__bf16 **out) {
    *out = NULL;
    if (!worth_it(always)) return CAVMAE_OK;
    cavmae_status status = CAVMAE_OK;
    cavmae__bf16 *bf16 = cavmae__alloc_zero(context, sizeof *bf16);
    if (!bf16) return CAVMAE_E_NOMEM;
    bf16->context = context;
    DNNL_TRY_OUT("an engine", dnnl_engine_create(&bf16->engine, dnnl_cpu, 0));
    pthread_mutex_init(&bf16->lock, NULL);
    *out = bf16;
out:
    if (status != CAVMAE_OK) cavmae__free(context, bf16);
    return status;
}

void cavmae__bf16_close(cavmae__bf16 *bf16) {
    if (!bf16) return;
    for (multiplier *m = bf16->multipliers, *next; m; m = next) {
        next = m->next;
        free_multiplier(bf16->context, m);
    }
    pthread_mutex_destroy(&bf16->lock);
    dnnl_engine_destroy(bf16->engine);
    cavmae__free(bf16->context, bf16);
}

#endif
