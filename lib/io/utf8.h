/* UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, nothing past U+10FFFF. */
#ifndef CAVMAE_IO_UTF8_H
#define CAVMAE_IO_UTF8_H

#include <stddef.h>

/* Length (1 to 4) of the sequence that starts at `at` with `left` > 0 bytes to go; 0 if there is none. */
static inline size_t cavmae__utf8_length(const char *at, size_t left) {
    const unsigned char *s = (const unsigned char *)at;
    size_t length;
    unsigned char lowest = 0x80, highest = 0xBF; /* of the second byte: this is where the three rules show */
    if (s[0] < 0x80) return 1;
    if (s[0] < 0xC2 || s[0] > 0xF4) return 0;
    length = s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
    if (left < length) return 0;
    if (s[0] == 0xE0) lowest = 0xA0;
    if (s[0] == 0xED) highest = 0x9F;
    if (s[0] == 0xF0) lowest = 0x90;
    if (s[0] == 0xF4) highest = 0x8F;
    if (s[1] < lowest || s[1] > highest) return 0;
    for (size_t i = 2; i < length; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;
    return length;
}

#endif
