/* Sums of rows into tables on the device against the CPU's: those of larger tables add in the same order, exactly. */
#include "compare.h"

typedef struct table_case {
    int64_t count;
    int32_t width, table_rows, accumulate;
    int index; /* 0: NULL, 1: some negative, 2: all of them, 3: nearly all 0 */
    int row;   /* 1: a list */
    int shift; /* elements by which dy is off its alignment */
} table_case;

static void check_case(both *b, const table_case *c) {
    const int failed = check_failed;
    const int64_t rows = c->count + 3, size = (int64_t)c->table_rows * c->width;
    int32_t *index = malloc((size_t)(c->count + 1) * sizeof *index),
            *row = malloc((size_t)(c->count + 1) * sizeof *row);
    for (int64_t k = 0; k < c->count; k++) {
        index[k] = (int32_t)(next_random() % (uint32_t)c->table_rows);
        if (c->index == 2 || next_random() % 4 == 0) index[k] = -1;
        if (c->index == 3 && next_random() % 50) index[k] = 0;
        row[k] = (int32_t)(next_random() % (uint32_t)rows);
    }
    twin dy = twin_input(b, rows * c->width + c->shift, CAVMAE_FLOAT32, -1, 2);
    twin indices = twin_ints(b, c->count, index), list = twin_ints(b, c->count, row);
    twin dtable = twin_input(b, size, CAVMAE_FLOAT32, -1, 1), again = twin_copy(b, &dtable);
    const cavmae__limits limits = {.rows = rows, .width = c->width, .clips = 1, .tokens = 1, .backward = 1};
    both_workspace(b, &limits);
    for (int i = 0; i < 3; i++) {
        const int device = i > 0;
        cavmae__backend *backend = device ? b->cuda : b->cpu;
        const cavmae__table_grad op = {.count = c->count,
                                       .width = c->width,
                                       .table_rows = c->table_rows,
                                       .accumulate = c->accumulate,
                                       .dy = (const float *)twin_at(&dy, device) + c->shift,
                                       .index = c->index ? twin_at(&indices, device) : NULL,
                                       .row = c->row ? twin_at(&list, device) : NULL,
                                       .dtable = twin_at(i == 2 ? &again : &dtable, device),
                                       .workspace = device ? b->cuda_workspace : b->cpu_workspace};
        CHECK_OK(backend->ops->table_grad(backend, &op));
    }
    if (c->table_rows == 1)
        CHECK_TWIN(b, &dtable, 1e-6);
    else
        CHECK_TWIN_EXACT(b, &dtable);
    CHECK_DEVICE_SAME(b, &dtable, &again);
    twin *twins[] = {&dy, &indices, &list, &dtable, &again};
    for (size_t i = 0; i < sizeof twins / sizeof *twins; i++) twin_free(b, twins[i]);
    free(index);
    free(row);
    if (check_failed > failed)
        printf("  %lld rows of width %d into %d, accumulate %d, index %d, row %d, shift %d\n", (long long)c->count,
               (int)c->width, (int)c->table_rows, (int)c->accumulate, c->index, c->row, c->shift);
}

static const int32_t widths[] = {1, 4, 12, 20, 33, 96, 260, 768, 1028};
enum { WIDTHS = sizeof widths / sizeof *widths };

static void test_one_row(both *b) {
    static const int64_t counts[] = {0, 1, 31, 63, 64, 65, 129, 700};
    for (int i = 0; i < 8; i++)
        for (int w = 0; w < 3; w++)
            check_case(b, &(table_case){.count = counts[i],
                                        .width = widths[(i + 3 * w) % WIDTHS],
                                        .table_rows = 1,
                                        .accumulate = (i + w) % 2,
                                        .index = w,
                                        .row = i % 2});
    /* More rows than as many of the smallest blocks as there may be. */
    check_case(b, &(table_case){.count = 40001, .width = 12, .table_rows = 1, .index = 1, .row = 1});
    check_case(b, &(table_case){.count = 70, .width = 12, .table_rows = 1, .shift = 1});
}

static void test_table(both *b) {
    static const int64_t counts[] = {0, 1, 31, 65, 700};
    for (int i = 0; i < 5; i++)
        for (int w = 0; w < 3; w++)
            check_case(b, &(table_case){.count = counts[i],
                                        .width = widths[(2 * i + 3 * w) % WIDTHS],
                                        .table_rows = 2 + 15 * w,
                                        .accumulate = (i + w) % 2,
                                        .index = i == 3 ? 2 : 1,
                                        .row = i % 2});
    /* Lists of several tiles: kept until there is no room for another, nearly all of them one row's; and sparse. */
    for (int row = 0; row < 2; row++) {
        check_case(b, &(table_case){.count = 20000, .width = 4, .table_rows = 2, .index = 3, .row = row});
        check_case(b, &(table_case){.count = 4096 * 3, .width = 8, .table_rows = 7, .index = 1, .row = row});
        check_case(b, &(table_case){.count = 9001, .width = 4, .table_rows = 1000, .index = 1, .row = row});
    }
    check_case(b, &(table_case){.count = 70, .width = 12, .table_rows = 5, .index = 1, .shift = 1});
}

int main(void) {
    both b;
    open_both(&b);
    test_one_row(&b);
    test_table(&b);
    close_both(&b);
    return check_summary("cuda table_grad_test");
}
