/* Threads of a context. Started by the first region that can use them; asleep when there is nothing to do. */
#ifndef CAVMAE_BASE_POOL_H
#define CAVMAE_BASE_POOL_H

#include "context.h"

typedef struct cavmae__pool cavmae__pool;

cavmae_status cavmae__pool_create(cavmae_context *context, int32_t threads, cavmae__pool **out);
void cavmae__pool_free(cavmae_context *context, cavmae__pool *pool);

/* As cavmae__parallel. */
void cavmae__pool_run(cavmae__pool *pool, int64_t count, cavmae__task *task, void *arg);

#endif
