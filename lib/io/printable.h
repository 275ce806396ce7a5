/* Words from a file that is not trusted, in a sentence for people: control characters could rewrite their terminal. */
#ifndef CAVMAE_IO_PRINTABLE_H
#define CAVMAE_IO_PRINTABLE_H

#include <stddef.h>

enum { CAVMAE__PRINTABLE = 80 };

/* `out` with everything but ASCII's printable characters as '?', cut to fit; returns `out`. */
static inline const char *cavmae__printable(char out[CAVMAE__PRINTABLE], const char *text, size_t length) {
    size_t used = length < CAVMAE__PRINTABLE ? length : CAVMAE__PRINTABLE - 1;
    for (size_t i = 0; i < used; i++) out[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    out[used] = '\0';
    return out;
}

#endif
