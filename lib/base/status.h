/* Status and error text. Every internal function that can fail returns a cavmae_status and, where it
 * fails first, leaves one sentence in this thread's error text; callers pass the status on untouched. */
#ifndef CAVMAE_BASE_STATUS_H
#define CAVMAE_BASE_STATUS_H

#include "cavmae.h"

/* Control characters in a message become '?': names out of files must not rewrite the terminal of who prints it. */
void cavmae__no_controls(char *message);

/* Sets this thread's error text (printf rules; cut at 511 bytes; no control characters) and returns `code`. */
cavmae_status cavmae__fail(cavmae_status code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts "prefix: " before the current error text: for naming the file or step where a callee only knew the tensor. */
cavmae_status cavmae__fail_prefix(cavmae_status code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Forward a failure: TRY where nothing has to be released, TRY_OUT where a label `out:` releases and
 * returns the variable `status`. */
#define CAVMAE__TRY(expression)                                                                                        \
    do {                                                                                                               \
        cavmae_status try_ = (expression);                                                                             \
        if (try_ != CAVMAE_OK) return try_;                                                                            \
    } while (0)

#define CAVMAE__TRY_OUT(expression)                                                                                    \
    do {                                                                                                               \
        status = (expression);                                                                                         \
        if (status != CAVMAE_OK) goto out;                                                                             \
    } while (0)

#endif
