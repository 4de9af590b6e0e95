/* values.c: floats of files: every f16 and bf16 there and back, rounding held against the nearest of all,
 * what is too large found. */
#include "support.h"

#include "io/values.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ALL = 1 << 16 };

static float widened(mf_file_type type, uint16_t value) {
    float out;
    mf_values_widen(type, &value, 1, &out);
    return out;
}

static uint16_t narrowed(mf_file_type type, float value) {
    uint16_t out;
    mf_values_narrow(type, &value, 1, &out);
    return out;
}

/* By the formats' definitions: sign, exponent, fraction. */
static double defined(mf_file_type type, uint16_t bits) {
    int fraction_bits = type == MF_FILE_F16 ? 10 : 7, bias = type == MF_FILE_F16 ? 15 : 127;
    int exponent = (bits & 0x7fff) >> fraction_bits, fraction = bits & ((1 << fraction_bits) - 1);
    double sign = bits & 0x8000 ? -1 : 1;
    if (exponent == 2 * bias + 1) return fraction ? (double)NAN : sign * (double)INFINITY;
    if (exponent == 0) return sign * ldexp(fraction, 1 - bias - fraction_bits);
    return sign * ldexp((1 << fraction_bits) + fraction, exponent - bias - fraction_bits);
}

static void there_and_back(void **state) {
    (void)state;
    static const mf_file_type types[] = {MF_FILE_BF16, MF_FILE_F16};
    for (int t = 0; t < 2; t++)
        for (int bits = 0; bits < ALL; bits++) {
            uint16_t value = (uint16_t)bits;
            float wide = widened(types[t], value);
            double expected = defined(types[t], value);
            if (isnan(expected)) {
                assert_true(isnan(wide) && isnan(widened(types[t], narrowed(types[t], wide))));
                continue;
            }
            assert_true((double)wide == expected);
            assert_int_equal(narrowed(types[t], wide), value);
        }
}

/* Of a type's finite values that are not negative, in order, `below` is the last that is not above `value`.
 */
static void assert_nearest(mf_file_type type, float value, uint16_t infinity) {
    uint16_t got = narrowed(type, value), below = 0, above = infinity;
    while (above - below > 1) {
        uint16_t middle = (uint16_t)((below + above) / 2);
        if (defined(type, middle) <= (double)value)
            below = middle;
        else
            above = middle;
    }
    double down = (double)value - defined(type, below), up = defined(type, above) - (double)value;
    uint16_t nearest = down < up || (down == up && below % 2 == 0) ? below : above;
    if (got != nearest) fail_msg("%a becomes %04x, not %04x", (double)value, got, nearest);
    assert_int_equal(narrowed(type, -value), nearest | 0x8000);
}

static void rounded_to_nearest_even(void **state) {
    (void)state;
    for (int bits = 0; bits < 0x7bff; bits++) { /* midway between neighbours, and beside that */
        float low = (float)defined(MF_FILE_F16, (uint16_t)bits),
              high = widened(MF_FILE_F16, (uint16_t)(bits + 1));
        float middle = low + (high - low) / 2;
        assert_nearest(MF_FILE_F16, middle, 0x7c00);
        assert_nearest(MF_FILE_F16, nextafterf(middle, 0), 0x7c00);
        assert_nearest(MF_FILE_F16, nextafterf(middle, high), 0x7c00);
    }
    for (uint64_t i = 0; i < 100000; i++) {
        uint32_t random = (uint32_t)mf_random_u64(3, 1, i) & 0x7f7fffffu;
        float value;
        memcpy(&value, &random, sizeof value);
        if (value < 65504) assert_nearest(MF_FILE_F16, value, 0x7c00);
        if (value < 3.3e38f) assert_nearest(MF_FILE_BF16, value, 0x7f80);
    }
}

static void too_large_is_found(void **state) {
    (void)state;
    uint16_t out[4];
    const float fits[] = {65519.99f, -65504, INFINITY, NAN}, too_large[] = {1, INFINITY, -65520, 2},
                of_bf16[] = {65520, 3.4e38f, 0, 0};
    float same[4];
    assert_int_equal(mf_values_narrow(MF_FILE_F16, fits, 4, out), 4);
    assert_int_equal(out[0], 0x7bff);
    assert_int_equal(out[2], 0x7c00);
    assert_int_equal(mf_values_narrow(MF_FILE_F16, too_large, 4, out), 2);
    assert_int_equal(mf_values_narrow(MF_FILE_BF16, of_bf16, 4, out), 1);
    assert_int_equal(mf_values_narrow(MF_FILE_F32, fits, 4, same), 4);
    assert_memory_equal(same, fits, sizeof fits);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(there_and_back),
                                       cmocka_unit_test(rounded_to_nearest_even),
                                       cmocka_unit_test(too_large_is_found)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
