/* ops.h: what the tests of single operations share: devices, values, comparisons.
 *
 *     static void test_cast(void **state) {
 *         (void)state;
 *         void *in = values("in", n, MF_F32), *out = blank(n, MF_BF16);
 *         ASSERT_OK(mf_cast(machine[0], ...));
 *         check_close("cast", n, out, MF_BF16, doubles(in, n, MF_F32));
 *     }
 *
 * What is taken belongs to the test, and ends with it or with drop_to. */
#ifndef MF_TEST_OPS_H
#define MF_TEST_OPS_H

#include "support.h"
#include "meshfold/device.h"

enum { MACHINES = 2, SIZES = 8 };

/* A test's devices, of threads 1 and 2, from ops_begin to ops_end. */
extern mf_memory *memory;
extern mf_device *machine[MACHINES];
int ops_begin(void **state);
int ops_end(void **state);
#define OPS_TEST(name) cmocka_unit_test_setup_teardown(name, ops_begin, ops_end)

/* Awkward [rows, width], and the compute types. */
extern const int64_t sizes[SIZES][2];
extern const mf_dtype types[2];

/* Sizes are exact, so that a sanitizer sees a step over the end; the content is NaN in either type, so that
 * what should have been overwritten shows. */
void *take(size_t bytes);
/* What the test holds; drop_to frees the youngest until `count` are left. */
extern int held_count;
void drop_to(int count);

size_t bytes_of(int64_t n, mf_dtype type);
void *blank(int64_t n, mf_dtype type);
/* n normal values from the name; values are rounded to the type. */
float *normals(const char *name, int64_t n);
void *values(const char *name, int64_t n, mf_dtype type);
void *copy_of(const void *data, int64_t n, mf_dtype type);
double *doubles(const void *data, int64_t n, mf_dtype type);
double at(const void *data, mf_dtype type, int64_t i);
/* The nearest bf16, ties to the even one, from distances alone. */
uint16_t nearest(float value);

/* Elements from the first to the last of rows of `width` at distance ld. */
int64_t span(int64_t rows, int64_t width, int64_t ld);
/* Such rows, made dense. */
void *packed(const void *data, mf_dtype type, int64_t rows, int64_t width, int64_t ld);

/* Fails unless got: [n] is `want` to the type's tolerance; NaN is never close. */
void check_close(const char *what, int64_t n, const void *got, mf_dtype type, const double *want);
void check_same(const char *what, const void *got, const void *want, size_t bytes);
/* The bytes between rows, which nothing may touch: still what `take` left there. */
void check_gaps(const char *what, const void *data, int64_t rows, size_t row, size_t ld);

#endif
