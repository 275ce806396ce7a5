/* Pillow's two passes (Resample.c, ImagingResampleHorizontal_8bpc and Vertical_8bpc): integer sums of pixel times
 * weight, rounded to 8 bits after each pass. Exact on every machine. */
#include "lanes.h"

/* Fixed point to a pixel: shifted down, clipped to 0..255. */
static inline lanes_u8 to_pixels(lanes_i32 sum) {
    lanes_i32 x = sum >> CAVMAE__WEIGHT_BITS;
    x &= x > 0;
    lanes_i32 over = x > 255;
    return __builtin_convertvector(SELECT(over, 255, x), lanes_u8);
}

static inline lanes_i32 half_up(void) { return (lanes_i32){0} + (1 << (CAVMAE__WEIGHT_BITS - 1)); }

/* TILE rows of `bytes` bytes -> strip [bytes rounded up][TILE]: each byte column becomes contiguous. Rows past the last
 * repeat it. */
static void transpose_strip(const uint8_t *pixels, size_t stride, int32_t rows, size_t bytes, uint8_t *strip) {
    for (size_t x = 0; x < bytes; x += CAVMAE__TILE) {
        size_t n = bytes - x < CAVMAE__TILE ? bytes - x : CAVMAE__TILE;
        tile_row tile[CAVMAE__TILE] = {{0}};
        for (int32_t r = 0; r < CAVMAE__TILE; r++) {
            const uint8_t *from = pixels + (size_t)(r < rows ? r : rows - 1) * stride + x;
            if (n == CAVMAE__TILE)
                memcpy(&tile[r], from, CAVMAE__TILE);
            else
                memcpy(&tile[r], from, n);
        }
        transpose_tile(tile);
        for (int r = 0; r < CAVMAE__TILE; r++) memcpy(strip + (x + (size_t)r) * CAVMAE__TILE, &tile[r], CAVMAE__TILE);
    }
}

enum { PARTS = CAVMAE__TILE / LANES };

/* Output column x of `together` channels from c on, TILE rows high, into *column[0], ... `together` is a constant to
 * the compiler: the sums stay in registers, and a weight is loaded once for all channels. */
static inline void resize_column(const cavmae__resize_axis *axis, int32_t x, const uint8_t *strip, int32_t channels,
                                 int32_t c, const int together, tile_row *const column[]) {
    const int32_t *weights = axis->weights + (size_t)x * (size_t)axis->taps;
    const uint8_t *from = strip + ((size_t)axis->first[x] * (size_t)channels + (size_t)c) * CAVMAE__TILE;
    lanes_i32 sum[3 * PARTS];
    for (int i = 0; i < together * PARTS; i++) sum[i] = half_up();
    for (int32_t t = 0; t < axis->length[x]; t++, from += (size_t)channels * CAVMAE__TILE)
        for (int i = 0; i < together * PARTS; i++) sum[i] += load_bytes(from + i * LANES) * weights[t];
    for (int i = 0; i < together * PARTS; i++) {
        lanes_u8 result = to_pixels(sum[i]);
        memcpy((uint8_t *)column[i / PARTS] + i % PARTS * LANES, &result, sizeof result);
    }
}

void CAVMAE__SIMD(cavmae__resize_columns)(const cavmae__resize_axis *axis, const uint8_t *pixels, size_t stride,
                                          int32_t rows, int32_t columns, int32_t channels, uint8_t *out, size_t plane,
                                          size_t pitch, uint8_t *strip) {
    transpose_strip(pixels, stride, rows, (size_t)columns * (size_t)channels, strip);
    int together = channels % 3 == 0 ? 3 : 1;
    for (int32_t c = 0; c < channels; c += together)
        for (int32_t x = 0; x < axis->count; x += CAVMAE__TILE) {
            int32_t width = axis->count - x < CAVMAE__TILE ? axis->count - x : CAVMAE__TILE;
            tile_row tile[3][CAVMAE__TILE] = {{{0}}}; /* an output column in each row, until transposed */
            for (int32_t i = 0; i < width; i++) {
                tile_row *const column[3] = {&tile[0][i], &tile[1][i], &tile[2][i]};
                if (together == 3)
                    resize_column(axis, x + i, strip, channels, c, 3, column);
                else
                    resize_column(axis, x + i, strip, channels, c, 1, column);
            }
            for (int k = 0; k < together; k++) {
                transpose_tile(tile[k]);
                for (int32_t r = 0; r < rows; r++)
                    memcpy(out + (size_t)r * pitch + (size_t)(c + k) * plane + x, &tile[k][r], CAVMAE__TILE);
            }
        }
}

void CAVMAE__SIMD(cavmae__resize_rows)(const cavmae__resize_axis *axis, const uint8_t *plane, size_t pitch,
                                       int32_t width, const float level[256], float *out) {
    for (int32_t y = 0; y < axis->count; y++, out += width) {
        const int32_t *weights = axis->weights + (size_t)y * (size_t)axis->taps;
        for (int32_t x = 0; x < width; x += LANES) {
            const uint8_t *from = plane + (size_t)axis->first[y] * pitch + x;
            lanes_i32 sum = half_up();
            for (int32_t t = 0; t < axis->length[y]; t++, from += pitch) sum += load_bytes(from) * weights[t];
            lanes_u8 result = to_pixels(sum);
            int32_t count = width - x < LANES ? width - x : LANES;
            for (int32_t l = 0; l < count; l++) out[x + l] = level[result[l]];
        }
    }
}
