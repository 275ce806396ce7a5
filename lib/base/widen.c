#include "widen.h"

#include <string.h>

#include "cavmae.h"

int cavmae__is_floating(int32_t dtype) {
    return dtype == CAVMAE_FLOAT32 || dtype == CAVMAE_FLOAT64 || dtype == CAVMAE_FLOAT16 || dtype == CAVMAE_BFLOAT16;
}

static float float_from_bits(uint32_t bits) {
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

/* Exponent and mantissa in float32's places are the number divided by 2^112; multiplying back also makes subnormal
 * numbers normal. Infinities and NaN have all bits of the exponent set, which stay set. */
static float from_float16(uint16_t half) {
    float magnitude = float_from_bits((uint32_t)(half & 0x7FFF) << 13) * 0x1p112f;
    uint32_t bits;
    memcpy(&bits, &magnitude, sizeof bits);
    if ((half & 0x7C00) == 0x7C00) bits = 0x7F800000u | (uint32_t)(half & 0x03FF) << 13;
    return float_from_bits(bits | (uint32_t)(half & 0x8000) << 16);
}

void cavmae__widen(int32_t dtype, const void *data, int64_t count, float *out) {
    if (dtype == CAVMAE_FLOAT64) {
        const double *from = data;
        for (int64_t i = 0; i < count; i++) out[i] = (float)from[i];
    } else if (dtype == CAVMAE_FLOAT16) {
        const uint16_t *from = data;
        for (int64_t i = 0; i < count; i++) out[i] = from_float16(from[i]);
    } else if (dtype == CAVMAE_BFLOAT16) {
        const uint16_t *from = data;
        for (int64_t i = 0; i < count; i++) out[i] = float_from_bits((uint32_t)from[i] << 16);
    } else if (count) {
        memcpy(out, data, (size_t)count * sizeof *out);
    }
}
