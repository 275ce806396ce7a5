#define _POSIX_C_SOURCE 200809L /* the strerror_r that returns an int */
#include "file_error.h"

#include <errno.h>
#include <string.h>

cavmae_status cavmae__file_error(const char *path, const char *what) {
    char reason[128];
    if (strerror_r(errno, reason, sizeof reason) != 0) reason[0] = '\0';
    return cavmae__fail(CAVMAE_E_IO, "%s: cannot %s: %s", path, what, reason);
}
