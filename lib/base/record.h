/* Records that cross the API: structs whose first field is the caller's sizeof, so that they may grow at the end
 * while old callers and new libraries, or the other way round, still understand one another. */
#ifndef CAVMAE_BASE_RECORD_H
#define CAVMAE_BASE_RECORD_H

#include "status.h"

/* Copies the caller's record into the library's own [size], zeros where the caller's is shorter. The copy's
 * struct_size is the caller's. ARG when src is NULL or its struct_size was not set. */
cavmae_status cavmae__record_in(void *record, size_t size, const void *src);

/* Copies the library's record [size] into the caller's, as much of it as the caller has; what the caller has
 * beyond it becomes zero; the caller's struct_size stays. ARG as above: a call that returns a record checks it
 * with record_in before it starts to work. */
cavmae_status cavmae__record_out(void *dst, const void *record, size_t size);

#endif
