/* Masks and lists of tokens on the device: to the bit the CPU's. */
#include "compare.h"
#include "philox.h"

typedef struct mask_case {
    int32_t clips, rows, columns, keep, mode;
    double ratio;
} mask_case;

static void check_masks(both *b, const mask_case *c, uint64_t seed, uint64_t step, int32_t first) {
    const int64_t tokens = (int64_t)c->rows * c->columns, values[] = {(int64_t)step};
    twin mask = twin_output(b, c->clips * tokens, CAVMAE_UINT8), steps = twin_longs(b, 1, values);
    const cavmae__limits limits = {.rows = 1, .width = 4, .clips = c->clips, .tokens = tokens};
    both_workspace(b, &limits);
    cavmae__draw_masks op = {.seed = seed,
                             .step = steps.cpu,
                             .purpose = CAVMAE__PURPOSE_MASK_A + seed % 2,
                             .mode = c->mode,
                             .first = first,
                             .clips = c->clips,
                             .rows = c->rows,
                             .columns = c->columns,
                             .keep = c->keep,
                             .ratio = c->ratio,
                             .mask = mask.cpu,
                             .workspace = b->cpu_workspace};
    CHECK_OK(b->cpu->ops->draw_masks(b->cpu, &op));
    op.step = steps.device;
    op.mask = mask.device;
    op.workspace = b->cuda_workspace;
    CHECK_OK(b->cuda->ops->draw_masks(b->cuda, &op));
    if (!CHECK_TWIN_EXACT(b, &mask))
        printf("  mode %d: %d of %d x %d, seed %llu, step %llu\n", (int)c->mode, (int)c->keep, (int)c->rows,
               (int)c->columns, (unsigned long long)seed, (unsigned long long)step);
    twin_free(b, &mask);
    twin_free(b, &steps);
}

static void test_draw_masks(both *b) {
    static const mask_case cases[] = {
        {5, 8, 64, 128, 0, 0.75},  {5, 8, 64, 128, 1, 0.75}, {5, 8, 64, 128, 2, 0.75},  {5, 8, 64, 128, 3, 0.75},
        {3, 14, 14, 49, 0, 0.75},  {3, 14, 14, 49, 1, 0.3},  {3, 14, 14, 49, 3, 1},     {3, 14, 14, 49, 2, 0},
        {2, 708, 1, 177, 0, 0.75}, {2, 4, 7, 0, 0, 1},       {2, 4, 7, 28, 0, 0},       {2, 4, 7, 28, 3, 0.5},
        {2, 4, 7, 0, 1, 1},        {7, 1, 1, 1, 0, 0},       {7, 1, 1, 0, 3, 1},        {4, 3, 11, 1, 1, 0.5},
        {2, 1, 33, 32, 1, 0.9},    {2, 65, 1, 20, 2, 0.9},   {1, 33, 33, 500, 3, 0.75}, {2, 5, 205, 1000, 1, 0.1}};
    static const uint64_t steps[] = {0, 1, 123456, (uint64_t)5 << 33};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t s = 0; s < sizeof steps / sizeof *steps; s++)
            for (uint64_t seed = 0; seed < 3; seed++)
                check_masks(b, &cases[i], seed | seed << 40, steps[s], seed == 2 ? 1000 : 0);
    /* Too many tokens for shared memory. */
    static const mask_case large[] = {
        {2, 100, 250, 6000, 0, 0.75}, {2, 100, 250, 6000, 3, 0.75}, {1, 1, 9000, 2, 1, 1}};
    for (size_t i = 0; i < sizeof large / sizeof *large; i++) check_masks(b, &large[i], 11, 3, 0);
}

/* With so many tokens some noise is equal: the earlier token goes first. */
static void test_ties(both *b) {
    const int64_t tokens = 20000;
    const cavmae__philox stream = cavmae__philox_key(1, CAVMAE__PURPOSE_MASK_V, 3, 0);
    uint8_t *seen = calloc(1 << 24, 1);
    int equal = 0;
    for (int64_t t = 0; t < tokens; t++) equal += seen[cavmae__philox_u32(&stream, (uint64_t)t) >> 8]++ > 0;
    free(seen);
    CHECK(equal > 0);
    for (int32_t keep = 0; keep <= tokens; keep += 2500)
        check_masks(b, &(mask_case){1, 1, (int32_t)tokens, keep, 0, 0}, 1, 3, 0);
}

enum { LISTS = 8 }; /* three of visible rows, five of tokens */

static void set_lists(cavmae__index_tokens *op, twin *lists, int device, unsigned wanted) {
    int32_t **fields[LISTS] = {&op->visible_clip, &op->visible_token,  &op->visible_position, &op->token_clip,
                               &op->token_token,  &op->token_position, &op->token_row,        &op->token_removed};
    for (int i = 0; i < LISTS; i++) *fields[i] = !(wanted >> i & 1) ? NULL : device ? lists[i].device : lists[i].cpu;
}

/* share: of 8 tokens about how many are visible; -1: no mask. wanted: bit i for list i. */
static void check_lists(both *b, int32_t clips, const int32_t *lengths, int share, unsigned wanted) {
    int32_t visible_lengths[64] = {0}, columns[64];
    twin_segments tokens = make_segments(b, clips, lengths);
    const int32_t total = tokens.cpu.start_host[clips];
    twin mask = twin_output(b, total, CAVMAE_UINT8), lists[LISTS];
    for (int32_t clip = 0, t = 0; clip < clips; clip++) {
        columns[clip] = 1 + (int32_t)(next_random() % 12);
        for (int32_t i = 0; i < lengths[clip]; i++) {
            uint8_t *removed = (uint8_t *)mask.cpu + t++;
            *removed = (int)(next_random() % 8) >= share;
            visible_lengths[clip] += share < 0 || !*removed;
        }
    }
    twin_upload(b, &mask);
    twin_segments visible = make_segments(b, clips, visible_lengths);
    twin column = twin_ints(b, clips, columns);
    for (int i = 0; i < LISTS; i++)
        lists[i] = twin_output(b, i < 3 ? visible.cpu.start_host[clips] : total, CAVMAE_INT32);

    cavmae__index_tokens op = {.tokens = tokens.cpu,
                               .visible = visible.cpu,
                               .mask = share < 0 ? NULL : mask.cpu,
                               .columns = column.cpu,
                               .table_columns = 13};
    set_lists(&op, lists, 0, wanted);
    CHECK_OK(b->cpu->ops->index_tokens(b->cpu, &op));
    op.tokens = tokens.device;
    op.visible = visible.device;
    op.mask = share < 0 ? NULL : mask.device;
    op.columns = column.device;
    set_lists(&op, lists, 1, wanted);
    CHECK_OK(b->cuda->ops->index_tokens(b->cuda, &op));
    for (int i = 0; i < LISTS; i++) {
        CHECK_TWIN_EXACT(b, &lists[i]);
        twin_free(b, &lists[i]);
    }
    twin_free(b, &mask);
    twin_free(b, &column);
    free_segments(b, &tokens);
    free_segments(b, &visible);
}

static void test_index_tokens(both *b) {
    static const int32_t lengths[] = {1, 31, 32, 33, 255, 256, 257, 708, 0, 7, 512, 196, 1025};
    for (int share = -1; share <= 8; share++) check_lists(b, 13, lengths, share, 0xff);
    for (unsigned list = 3; list < LISTS; list++) check_lists(b, 4, lengths, 3, 7 | 1u << list);
    check_lists(b, 1, lengths, 4, 7);
}

int main(void) {
    both b;
    open_both(&b);
    test_draw_masks(&b);
    test_ties(&b);
    test_index_tokens(&b);
    close_both(&b);
    return check_summary("masks");
}
