/* A library as small as can be, with cavmae.h's conventions: what test/abi/breaks.sh plants breaks into. */
#ifndef TOY_H
#define TOY_H

#include <stddef.h>
#include <stdint.h>

#define TOY_API __attribute__((visibility("default")))
#define TOY_CHECKED __attribute__((warn_unused_result))

typedef int32_t toy_status;
#define TOY_OK ((toy_status)0)
#define TOY_E_ARG ((toy_status)-1)
#define TOY_MODE_SUM 1
#define TOY_MODE_MEAN                                                                                                  \
    2 /* of what was
       * put in */
#define TOY_NAME "toy"

typedef struct toy_box toy_box; /* opaque */

typedef struct toy_options {
    uint32_t struct_size;
    int32_t mode; /* TOY_MODE_*; 0: sum */
    double scale; /* 0: 1 */
    int64_t most; /* 0: 8 */
    int16_t low, *lower;
    int32_t reserved; /* 0 */
    void (*log)(void *user, const char *message);
} toy_options;

typedef toy_status toy_sink(void *user, int32_t value);

TOY_API toy_status toy_create(const toy_options *options, toy_box **out) TOY_CHECKED;
TOY_API void toy_free(toy_box *box);
TOY_API toy_status toy_put(toy_box *box, int32_t value) TOY_CHECKED;
TOY_API toy_status toy_each(const toy_box *box, toy_sink *sink, void *user) TOY_CHECKED;
TOY_API double toy_result(const toy_box *box);
TOY_API int32_t toy_count(const toy_box *box);

#endif
