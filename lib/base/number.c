#define _GNU_SOURCE /* strtod_l, uselocale */
#include "number.h"

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>

/* A locale is made for each call: keeping one would be state of the process. Where there is no memory for one, the
 * thread's own serves. */
static locale_t plain_locale(void) { return newlocale(LC_ALL_MASK, "C", (locale_t)0); }

double cavmae__parse_f64(const char *text, char **end) {
    locale_t plain = plain_locale();
    double number = strtod_l(text, end, plain ? plain : uselocale((locale_t)0));
    if (plain) freelocale(plain);
    return number;
}

void cavmae__format_f64(char out[32], double number) {
    locale_t plain = plain_locale(), own = plain ? uselocale(plain) : (locale_t)0;
    number += 0.0; /* -0 is 0 */
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(out, 32, "%.*g", digits, number);
        if (cavmae__parse_f64(out, NULL) == number) break;
    }
    if (!plain) return;
    uselocale(own); /* of this thread alone */
    freelocale(plain);
}
