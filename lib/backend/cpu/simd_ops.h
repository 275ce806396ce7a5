/* The operations of one instruction set, and what they share. */
#ifndef CAVMAE_BACKEND_CPU_SIMD_OPS_H
#define CAVMAE_BACKEND_CPU_SIMD_OPS_H

#include "cpu_backend.h"

cavmae_status CAVMAE__SIMD(linear)(cavmae__backend *backend, const cavmae__linear *op);
cavmae_status CAVMAE__SIMD(linear_grad)(cavmae__backend *backend, const cavmae__linear_grad *op);
cavmae_status CAVMAE__SIMD(gelu)(cavmae__backend *backend, const cavmae__gelu *op);
cavmae_status CAVMAE__SIMD(convert)(cavmae__backend *backend, const cavmae__convert *op);
cavmae_status CAVMAE__SIMD(layernorm)(cavmae__backend *backend, const cavmae__layernorm *op);
cavmae_status CAVMAE__SIMD(layernorm_grad)(cavmae__backend *backend, const cavmae__layernorm *op);
cavmae_status CAVMAE__SIMD(attention)(cavmae__backend *backend, const cavmae__attention *op);
cavmae_status CAVMAE__SIMD(attention_grad)(cavmae__backend *backend, const cavmae__attention *op);
cavmae_status CAVMAE__SIMD(patches)(cavmae__backend *backend, const cavmae__patches *op);
cavmae_status CAVMAE__SIMD(place)(cavmae__backend *backend, const cavmae__place *op);
cavmae_status CAVMAE__SIMD(table_grad)(cavmae__backend *backend, const cavmae__table_grad *op);
cavmae_status CAVMAE__SIMD(combine)(cavmae__backend *backend, const cavmae__combine *op);
cavmae_status CAVMAE__SIMD(segment_mean)(cavmae__backend *backend, const cavmae__segment_mean *op);
cavmae_status CAVMAE__SIMD(segment_mean_grad)(cavmae__backend *backend, const cavmae__segment_mean *op);
cavmae_status CAVMAE__SIMD(mix)(cavmae__backend *backend, const cavmae__mix *op);
cavmae_status CAVMAE__SIMD(mix_grad)(cavmae__backend *backend, const cavmae__mix *op);
cavmae_status CAVMAE__SIMD(contrastive)(cavmae__backend *backend, const cavmae__contrastive *op);
cavmae_status CAVMAE__SIMD(sum_squares)(cavmae__backend *backend, const cavmae__sum_squares *op);
cavmae_status CAVMAE__SIMD(adam)(cavmae__backend *backend, const cavmae__adam *op);

/* dweight and dbias of linear_grad. */
cavmae_status CAVMAE__SIMD(weight_grad)(cavmae__backend *backend, const cavmae__linear_grad *op);

/* bfloat16 to float32, and back rounded to nearest even. */
void CAVMAE__SIMD(widen)(const uint16_t *from, int64_t count, float *to);
void CAVMAE__SIMD(narrow)(const float *from, int64_t count, uint16_t *to);

/* This set's table. */
extern const cavmae__backend_ops CAVMAE__SIMD(cpu_ops);

#endif
