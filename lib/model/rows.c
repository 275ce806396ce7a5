#include "rows.h"

#include <string.h>

static int64_t largest(int64_t a, int64_t b) { return a > b ? a : b; }

static void layout_starts(cavmae__starts *starts, int64_t segments, cavmae__arena *device, cavmae__arena *host) {
    CAVMAE__TAKE(host, starts->host, segments + 1);
    CAVMAE__TAKE(device, starts->device, segments + 1);
}

void cavmae__rows_layout(cavmae__rows *rows, const cavmae__extent *extent, cavmae__arena *device, cavmae__arena *host) {
    int64_t encoder = extent->visible[0] + extent->visible[1], tokens = extent->tokens[0] + extent->tokens[1];
    int64_t joint = cavmae__joint_rows(extent);
    int64_t segments = 0;
    for (int s = 0; s < 3; s++) segments += cavmae__stream_units(extent, s);
    for (int m = 0; m < 2; m++) {
        int64_t visible = extent->visible[m], all = extent->tokens[m], units = cavmae__units(extent, m);
        layout_starts(&rows->tokens_at[m], units, device, host);
        layout_starts(&rows->visible_at[m], units, device, host);
        CAVMAE__TAKE(host, rows->columns_host[m], units);
        CAVMAE__TAKE(host, rows->offset_host[m], units);
        CAVMAE__TAKE(device, rows->columns[m], units);
        CAVMAE__TAKE(device, rows->offset[m], units);
        CAVMAE__TAKE(device, rows->visible_clip[m], visible);
        CAVMAE__TAKE(device, rows->visible_token[m], visible);
        CAVMAE__TAKE(device, rows->visible_position[m], visible);
        /* The first also takes the draw over both modalities' tokens of a clip. */
        int64_t drawn = m == 0 ? extent->longest[0] + extent->longest[1] : 0;
        if (extent->masked) CAVMAE__TAKE(device, rows->mask[m], largest(all, drawn));
        if (!extent->decode) continue;
        CAVMAE__TAKE(device, rows->token_clip[m], all);
        CAVMAE__TAKE(device, rows->token_token[m], all);
        CAVMAE__TAKE(device, rows->token_position[m], all);
        CAVMAE__TAKE(device, rows->token_row[m], all);
        CAVMAE__TAKE(device, rows->token_removed[m], all);
    }
    layout_starts(&rows->joint_at, segments, device, host);
    CAVMAE__TAKE(device, rows->joint_source, joint);
    for (int i = 0; i < 2; i++)
        if (extent->backward || extent->decode) CAVMAE__TAKE(device, rows->joint_back[i], encoder);
    if (extent->decode) {
        layout_starts(&rows->decoder_at, extent->clips, device, host);
        CAVMAE__TAKE(device, rows->decoder_row, tokens);
        CAVMAE__TAKE(device, rows->decoder_token, tokens);
    }
    CAVMAE__TAKE(host, rows->staging, largest(joint, tokens));
}

static cavmae_status upload(const cavmae__pass *pass, void *device, const void *host, size_t size) {
    return size ? pass->backend->ops->upload(pass->backend, device, host, size) : CAVMAE_OK;
}

static cavmae_status finish_segments(const cavmae__pass *pass, const cavmae__starts *at, int32_t count,
                                     cavmae__segments *out) {
    int32_t longest = 0;
    for (int32_t i = 0; i < count; i++) {
        int32_t length = at->host[i + 1] - at->host[i];
        if (length > longest) longest = length;
    }
    *out = (cavmae__segments){.count = count, .longest = longest, .start_host = at->host, .start = at->device};
    return upload(pass, at->device, at->host, (size_t)(count + 1) * sizeof *at->host);
}

static cavmae_status fill_modality(cavmae__rows *rows, int m, const cavmae__pass *pass,
                                   const cavmae__batch_rows *batch) {
    int64_t offset = 0;
    int32_t units = m == CAVMAE__VISUAL ? batch->clips * batch->pictures : batch->clips;
    int32_t *tokens = rows->tokens_at[m].host, *visible = rows->visible_at[m].host;
    tokens[0] = visible[0] = 0;
    for (int32_t i = 0; i < units; i++) {
        int32_t columns = batch->columns[m] ? batch->columns[m][i] : 0, all = columns * batch->grid_rows[m];
        rows->columns_host[m][i] = columns;
        rows->offset_host[m][i] = offset;
        offset += columns * batch->clip_stride[m];
        tokens[i + 1] = tokens[i] + all;
        visible[i + 1] = visible[i] + (batch->visible[m] ? batch->visible[m][i] : all);
    }
    rows->token_rows[m] = tokens[units];
    rows->visible_rows[m] = visible[units];
    rows->table_columns[m] = batch->table_columns[m];
    CAVMAE__TRY(finish_segments(pass, &rows->tokens_at[m], units, &rows->tokens[m]));
    CAVMAE__TRY(finish_segments(pass, &rows->visible_at[m], units, &rows->visible[m]));
    rows->encoder_streams[m] = (cavmae__streams){.rows = rows->visible_rows[m],
                                                 .groups = 1,
                                                 .group_rows = {rows->visible_rows[m]},
                                                 .segments = rows->visible[m]};
    CAVMAE__TRY(upload(pass, rows->columns[m], rows->columns_host[m], (size_t)units * sizeof(int32_t)));
    return upload(pass, rows->offset[m], rows->offset_host[m], (size_t)units * sizeof(int64_t));
}

/* The joint encoder's streams, and which encoder row each joint row is a copy of. */
static cavmae_status fill_joint(cavmae__rows *rows, const cavmae__extent *extent, const cavmae__pass *pass,
                                const cavmae__batch_rows *batch) {
    int32_t *source = rows->staging, *start = rows->joint_at.host, segment = 0, row = 0;
    cavmae__streams *streams = &rows->joint_streams;
    const int32_t *visible[2] = {rows->visible_at[0].host, rows->visible_at[1].host};
    int32_t first[2] = {0, (int32_t)rows->visible_rows[0]}; /* encoder row where each modality starts */
    memset(streams, 0, sizeof *streams);
    start[0] = 0;
    for (int s = 0; s < 3; s++) {
        rows->stream_rows[s] = 0;
        rows->stream[s].count = 0;
        if (!(extent->streams & 1 << s)) continue;
        int32_t before = row, units = s == 1 ? batch->clips : batch->clips * batch->pictures;
        rows->stream[s] =
            (cavmae__segments){.count = units, .start_host = start + segment, .start = rows->joint_at.device + segment};
        for (int32_t i = 0; i < units; i++) {
            for (int m = 0; m < 2; m++) {
                int32_t unit = s == 0 && m == CAVMAE__AUDIO ? i / batch->pictures : i;
                for (int32_t r = visible[m][unit]; (s == 0 || s == 1 + m) && r < visible[m][unit + 1]; r++)
                    source[row++] = first[m] + r;
            }
            start[++segment] = row;
        }
        rows->stream_rows[s] = row - before;
        streams->stream[streams->groups] = s;
        streams->group_rows[streams->groups++] = rows->stream_rows[s];
    }
    rows->joint_rows = row;
    streams->rows = row;
    CAVMAE__TRY(upload(pass, rows->joint_source, source, (size_t)row * sizeof *source));
    CAVMAE__TRY(finish_segments(pass, &rows->joint_at, segment, &rows->joint));
    streams->segments = rows->joint;
    for (int s = 0; s < 3; s++) rows->stream[s].longest = rows->joint.longest;
    return CAVMAE_OK;
}

/* The way back: where each encoder row was copied to, in the stream of both and in its own. */
static cavmae_status fill_joint_back(cavmae__rows *rows, const cavmae__extent *extent, const cavmae__pass *pass,
                                     int32_t clips) {
    size_t size = (size_t)rows->encoder_rows * sizeof(int32_t);
    int32_t *back = rows->staging, first[2] = {0, (int32_t)rows->visible_rows[0]};
    for (int m = 0; m < 2; m++) {
        const int32_t *visible = rows->visible_at[m].host;
        for (int32_t i = 0; i < clips; i++) {
            int32_t shift = m == 0 ? rows->visible_at[1].host[i] : rows->visible_at[0].host[i + 1];
            for (int32_t r = visible[i]; r < visible[i + 1]; r++)
                back[first[m] + r] = extent->streams & CAVMAE__STREAM_BOTH ? r + shift : -1;
        }
    }
    CAVMAE__TRY(upload(pass, rows->joint_back[0], back, size));
    int64_t own[2] = {rows->stream_rows[0], rows->stream_rows[0] + rows->stream_rows[1]};
    for (int m = 0; m < 2; m++) {
        int wanted = (extent->streams & (m == 0 ? CAVMAE__STREAM_A : CAVMAE__STREAM_V)) != 0;
        for (int32_t r = 0; r < rows->visible_rows[m]; r++) back[first[m] + r] = wanted ? (int32_t)own[m] + r : -1;
    }
    return upload(pass, rows->joint_back[1], back, size);
}

static cavmae_status fill_decoder(cavmae__rows *rows, const cavmae__pass *pass, int32_t clips) {
    int32_t *start = rows->decoder_at.host, *list = rows->staging;
    const int32_t *tokens[2] = {rows->tokens_at[0].host, rows->tokens_at[1].host};
    size_t size = (size_t)rows->decoder_rows * sizeof(int32_t);
    for (int32_t i = 0; i <= clips; i++) start[i] = tokens[0][i] + tokens[1][i];
    for (int inverse = 0; inverse < 2; inverse++) {
        int32_t token = 0;
        for (int m = 0; m < 2; m++) {
            for (int32_t i = 0; i < clips; i++) {
                int32_t row = start[i] + (m ? tokens[0][i + 1] - tokens[0][i] : 0);
                for (int32_t k = tokens[m][i]; k < tokens[m][i + 1]; k++, row++, token++)
                    list[inverse ? row : token] = inverse ? token : row;
            }
        }
        CAVMAE__TRY(upload(pass, inverse ? rows->decoder_token : rows->decoder_row, list, size));
    }
    CAVMAE__TRY(finish_segments(pass, &rows->decoder_at, clips, &rows->decoder));
    rows->decoder_streams = (cavmae__streams){
        .rows = rows->decoder_rows, .groups = 1, .group_rows = {rows->decoder_rows}, .segments = rows->decoder};
    return CAVMAE_OK;
}

cavmae_status cavmae__rows_fill(cavmae__rows *rows, const cavmae__extent *extent, const cavmae__pass *pass,
                                const cavmae__batch_rows *batch) {
    for (int m = 0; m < 2; m++) CAVMAE__TRY(fill_modality(rows, m, pass, batch));
    rows->encoder_rows = rows->visible_rows[0] + rows->visible_rows[1];
    rows->decoder_rows = rows->token_rows[0] + rows->token_rows[1];
    CAVMAE__TRY(fill_joint(rows, extent, pass, batch));
    if (extent->backward || extent->decode) CAVMAE__TRY(fill_joint_back(rows, extent, pass, batch->clips));
    return extent->decode ? fill_decoder(rows, pass, batch->clips) : CAVMAE_OK;
}

cavmae_status cavmae__rows_index(cavmae__rows *rows, const cavmae__extent *extent, const cavmae__pass *pass,
                                 int masked) {
    for (int m = 0; m < 2; m++) {
        if (!rows->token_rows[m]) continue;
        cavmae__index_tokens index = {.tokens = rows->tokens[m],
                                      .visible = rows->visible[m],
                                      .mask = masked ? rows->mask[m] : NULL,
                                      .columns = rows->columns[m],
                                      .table_columns = rows->table_columns[m],
                                      .visible_clip = rows->visible_clip[m],
                                      .visible_token = rows->visible_token[m],
                                      .visible_position = rows->visible_position[m]};
        if (extent->decode) {
            index.token_clip = rows->token_clip[m];
            index.token_token = rows->token_token[m];
            index.token_position = rows->token_position[m];
            index.token_row = rows->token_row[m];
            index.token_removed = rows->token_removed[m];
        }
        CAVMAE__TRY(pass->backend->ops->index_tokens(pass->backend, &index));
    }
    return CAVMAE_OK;
}
