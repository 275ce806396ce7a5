/* The harness of every unit test: CHECK counts and, where it fails, says so and goes on; check_summary ends the
 * program with "NAME: N passed, N failed". */
#ifndef CAVMAE_TEST_CHECK_H
#define CAVMAE_TEST_CHECK_H

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>

#include "cavmae.h"

static atomic_int check_passed, check_failed; /* by any thread */

static inline int check_report(int good, const char *file, int line) {
    if (good)
        check_passed++;
    else
        check_failed++;
    if (!good) printf("%s:%d: ", file, line);
    return good;
}

static inline int check_true(int good, const char *text, const char *file, int line) {
    if (!check_report(good, file, line)) printf("not true: %s\n", text);
    return good;
}

static inline int check_status(cavmae_status got, cavmae_status expected, const char *text, const char *file,
                               int line) {
    if (!check_report(got == expected, file, line))
        printf("%s gave \"%s\" (%s), not \"%s\"\n", text, cavmae_status_str(got), cavmae_last_error(),
               cavmae_status_str(expected));
    return got == expected;
}

static inline int check_close(double got, double expected, double tolerance, const char *text, const char *file,
                              int line) {
    int good = fabs(got - expected) <= tolerance; /* false for NaN */
    if (!check_report(good, file, line)) printf("%s is %.9g, not %.9g within %g\n", text, got, expected, tolerance);
    return good;
}

/* All give whether the check passed. */
#define CHECK(condition) check_true(!!(condition), #condition, __FILE__, __LINE__)
#define CHECK_OK(call) check_status((call), CAVMAE_OK, #call, __FILE__, __LINE__)
#define CHECK_STATUS(call, expected) check_status((call), (expected), #call, __FILE__, __LINE__)
#define CHECK_CLOSE(got, expected, tolerance) check_close((got), (expected), (tolerance), #got, __FILE__, __LINE__)

/* The exit code of the test. */
static inline int check_summary(const char *name) {
    printf("%s: %d passed, %d failed\n", name, check_passed, check_failed);
    return check_failed != 0;
}

#endif
