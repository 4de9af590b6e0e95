/* support.h: what the tests share: cmocka, tolerances in one table, random data, errors of vectors. */
#ifndef MF_TEST_SUPPORT_H
#define MF_TEST_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "meshfold/base.h"

/* Largest relative error (norm of the difference over norm) that an operation or a schedule may have. */
static inline double mf_tolerance(mf_dtype type) { return type == MF_F32 ? 1e-5 : 2e-2; }

/* Fails the test with the library's message when status is not MF_OK. */
#define ASSERT_OK(call)                                                                                      \
    do {                                                                                                     \
        mf_status assert_status_ = (call);                                                                   \
        if (assert_status_) {                                                                                \
            print_error("%s: %s\n", mf_status_name(assert_status_), mf_error_last()->message);               \
            fail();                                                                                          \
        }                                                                                                    \
    } while (0)
/* Fails unless the call fails with `expected` and a message that contains `part`. */
#define ASSERT_FAILS(call, expected, part) assert_failure((call), (expected), (part), __FILE__, __LINE__)
void assert_failure(mf_status got, mf_status expected, const char *part, const char *file, int line);

/* n normal values of deviation `scale`, from (name, index). */
void fill_normal(const char *name, float scale, int64_t n, float *out);
/* norm(a - b) / norm(b), in double; norm(a - b) when b is all zero. */
double relative_error(int64_t n, const float *a, const double *b);

/* Sanitized builds take ten times as long: tests whose point is many sizes of the same code take fewer there.
 */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { MF_TEST_SPARSE = 1 };
#else
enum { MF_TEST_SPARSE = 0 };
#endif

#endif
