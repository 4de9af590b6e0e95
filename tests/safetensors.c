/* safetensors.c: files written and read back, slices of every type, and headers that lie. */
#include "support.h"

#include "meshfold/io.h"

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static char folder[64], file[96];

/* Writes header length, header and data as a file has them. */
static void put_raw(const char *header, const void *data, size_t data_bytes) {
    uint64_t length = strlen(header);
    char *all = NULL;
    ASSERT_OK(mf_host_alloc(8 + length + data_bytes, 1, &all));
    memcpy(all, &length, 8);
    memcpy(all + 8, header, length);
    if (data_bytes) memcpy(all + 8 + length, data, data_bytes);
    ASSERT_OK(mf_file_write(file, all, 8 + length + data_bytes));
    mf_host_free(all);
}

static const mf_tensor_spec specs[] = {
    {.name = "z.first", .rows = 6, .cols = 10},  {.name = "a \"quoted\" n\xc3\xa4me", .rows = 0, .cols = 7},
    {.name = "large", .rows = 3, .cols = 30001}, /* more than is converted at a time */
    {.name = "empty", .rows = 0, .cols = 0},     {.name = "last", .rows = 1, .cols = 3},
};
enum { SPECS = sizeof specs / sizeof *specs };

static float *values_of(int index, mf_dtype type) {
    int64_t n = mf_max(specs[index].rows, 1) * specs[index].cols;
    float *values = NULL;
    ASSERT_OK(mf_host_alloc((size_t)n, sizeof *values, &values));
    fill_normal(specs[index].name, 1, n, values);
    if (type == MF_BF16)
        for (int64_t i = 0; i < n; i++) values[i] = mf_f32_from_bf16(mf_bf16_from_f32(values[i]));
    return values;
}

/* Fills tensor `index` with a left and a right part of columns, the latter first and row block by row block.
 */
static void write_in_slices(mf_tensor_writer *writer, int index, const float *values) {
    int64_t rows = mf_max(specs[index].rows, 1), cols = specs[index].cols, cut = cols / 3;
    float *part = NULL;
    ASSERT_OK(mf_host_alloc((size_t)(rows * cols), sizeof *part, &part));
    for (int64_t r = 0; r < rows; r++)
        memcpy(part + r * (cols - cut), values + r * cols + cut, (size_t)(cols - cut) * sizeof *part);
    int64_t half = rows / 2;
    ASSERT_OK(
        mf_tensors_write(writer, index, half, rows - half, cut, cols - cut, part + half * (cols - cut)));
    ASSERT_OK(mf_tensors_write(writer, index, 0, half, cut, cols - cut, part));
    for (int64_t r = 0; r < rows; r++) memcpy(part + r * cut, values + r * cols, (size_t)cut * sizeof *part);
    ASSERT_OK(mf_tensors_write(writer, index, 0, rows, 0, cut, part));
    mf_host_free(part);
}

static void check_tensor(const mf_safetensors *in, int index, mf_dtype type) {
    const mf_tensor_info *t = mf_safetensors_find(in, specs[index].name);
    int64_t rows = mf_max(specs[index].rows, 1), cols = specs[index].cols;
    float *values = values_of(index, type), *got = NULL;
    assert_non_null(t);
    assert_string_equal(t->name, specs[index].name);
    assert_string_equal(t->type_name, type == MF_F32 ? "F32" : "BF16");
    assert_int_equal(t->dims, specs[index].rows ? 2 : 1);
    assert_int_equal(t->shape[t->dims - 1], cols);
    assert_int_equal(t->bytes, (size_t)(rows * cols) * mf_dtype_bytes(type));
    ASSERT_OK(mf_host_alloc((size_t)(rows * cols), sizeof *got, &got));
    ASSERT_OK(mf_tensor_read(t, 0, rows, 0, cols, got));
    assert_memory_equal(got, values, (size_t)(rows * cols) * sizeof *got);
    if (rows > 2) {
        ASSERT_OK(mf_tensor_read(t, 1, rows - 1, 3, 5, got));
        for (int64_t r = 0; r < rows - 1; r++)
            assert_memory_equal(got + 5 * r, values + (r + 1) * cols + 3, 5 * sizeof *got);
    }
    mf_host_free(got);
    mf_host_free(values);
}

static void round_trip(mf_dtype type) {
    mf_tensor_writer *writer = NULL;
    mf_safetensors *in = NULL;
    ASSERT_OK(mf_tensors_create(file, specs, SPECS, type));
    ASSERT_OK(mf_tensors_open_writer(file, specs, SPECS, type, &writer));
    for (int i = 0; i < SPECS; i++) {
        float *values = values_of(i, type);
        write_in_slices(writer, i, values);
        mf_host_free(values);
    }
    ASSERT_OK(mf_tensors_close_writer(writer));
    ASSERT_OK(mf_safetensors_open(file, &in));
    assert_int_equal(mf_safetensors_count(in), SPECS);
    assert_string_equal(mf_safetensors_at(in, 0)->name, specs[0].name);
    assert_int_equal((uintptr_t)mf_safetensors_at(in, 0)->data % 8, 0);
    assert_null(mf_safetensors_find(in, "absent"));
    assert_null(mf_safetensors_find(in, "__metadata__"));
    for (int i = 0; i < SPECS; i++) check_tensor(in, i, type);
    mf_safetensors_close(in);
}

static void test_round_trip_f32(void **state) {
    (void)state;
    round_trip(MF_F32);
}

static void test_round_trip_bf16(void **state) {
    (void)state;
    round_trip(MF_BF16);
}

typedef struct filler {
    pthread_t thread;
    int index;
    mf_status status;
} filler;
enum { FILLERS = 4, SIDE = 64 };
static const mf_tensor_spec square = {.name = "square", .rows = SIDE, .cols = SIDE};

/* Each thread has its own writer and every fourth block of columns. */
static void *fill(void *argument) {
    filler *f = argument;
    mf_tensor_writer *writer = NULL;
    float part[SIDE * 4];
    f->status = mf_tensors_open_writer(file, &square, 1, MF_BF16, &writer);
    for (int block = f->index; !f->status && block < SIDE / 4; block += FILLERS) {
        for (int i = 0; i < SIDE * 4; i++) part[i] = (float)(i / 4 + block * 4 + i % 4);
        f->status = mf_tensors_write(writer, 0, 0, SIDE, block * 4, 4, part);
    }
    mf_status closed = mf_tensors_close_writer(writer);
    if (!f->status) f->status = closed;
    return NULL;
}

static void test_concurrent_writers(void **state) {
    (void)state;
    filler fillers[FILLERS];
    mf_safetensors *in = NULL;
    static float got[SIDE * SIDE];
    ASSERT_OK(mf_tensors_create(file, &square, 1, MF_BF16));
    for (int i = 0; i < FILLERS; i++) {
        fillers[i] = (filler){.index = i};
        assert_int_equal(pthread_create(&fillers[i].thread, NULL, fill, &fillers[i]), 0);
    }
    for (int i = 0; i < FILLERS; i++) {
        pthread_join(fillers[i].thread, NULL);
        assert_int_equal(fillers[i].status, MF_OK);
    }
    ASSERT_OK(mf_safetensors_open(file, &in));
    ASSERT_OK(mf_tensor_read(mf_safetensors_at(in, 0), 0, SIDE, 0, SIDE, got));
    for (int i = 0; i < SIDE * SIDE; i++) assert_true(got[i] == (float)(i / SIDE + i % SIDE));
    mf_safetensors_close(in);
}

static void test_writer_refused(void **state) {
    (void)state;
    mf_tensor_writer *writer = NULL;
    float value = 0;
    const mf_tensor_spec twice[] = {{"t", 1, 1}, {"t", 1, 1}}, negative = {"n", -1, 4},
                         other = {"square", 32, 128}, bad_name = {"\xff", 1, 1},
                         reserved = {"__metadata__", 1, 1}, huge = {"h", INT64_MAX / 2, 4};
    ASSERT_FAILS(mf_tensors_create(file, twice, 2, MF_F32), MF_EINVAL, "its name is taken");
    ASSERT_FAILS(mf_tensors_create(file, &reserved, 1, MF_F32), MF_EINVAL, "its name is taken");
    ASSERT_FAILS(mf_tensors_create(file, &bad_name, 1, MF_F32), MF_EINVAL, "its name is not UTF-8");
    ASSERT_FAILS(mf_tensors_create(file, &negative, 1, MF_F32), MF_EINVAL, "-1 x 4 is no shape");
    ASSERT_FAILS(mf_tensors_create(file, &huge, 1, MF_F32), MF_EINVAL, "overflows");
    ASSERT_FAILS(mf_tensors_create("/nonexistent/x", &square, 1, MF_F32), MF_EIO, "/nonexistent/x");
    ASSERT_FAILS(mf_tensors_create(folder, &square, 1, MF_F32), MF_EIO, "is not a regular file");
    ASSERT_OK(mf_tensors_create(file, &square, 1, MF_F32));
    ASSERT_FAILS(mf_tensors_open_writer(file, &other, 1, MF_F32, &writer), MF_EINVAL, "was not created for");
    ASSERT_FAILS(mf_tensors_open_writer(file, &square, 1, MF_BF16, &writer), MF_EINVAL,
                 "was not created for");
    assert_null(writer);
    ASSERT_OK(mf_tensors_open_writer(file, &square, 1, MF_F32, &writer));
    ASSERT_FAILS(mf_tensors_write(writer, 1, 0, 1, 0, 1, &value), MF_EINVAL, "has no tensor 1");
    ASSERT_FAILS(mf_tensors_write(writer, 0, SIDE, 1, 0, 1, &value), MF_EINVAL, "square is 64 x 64");
    ASSERT_FAILS(mf_tensors_write(writer, 0, 0, 1, INT64_MAX, 1, &value), MF_EINVAL, "leave it");
    ASSERT_FAILS(mf_tensors_write(writer, 0, 0, 1, -1, 1, &value), MF_EINVAL, "leave it");
    ASSERT_OK(mf_tensors_close_writer(writer));
    ASSERT_OK(mf_tensors_close_writer(NULL));
}

static void limit_file_size(rlim_t bytes) {
    struct rlimit limit;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes == RLIM_INFINITY ? limit.rlim_max : bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* A limit on file sizes stands in for a full disk. The file that stood there before must survive. */
static void test_no_room(void **state) {
    (void)state;
    mf_tensor_writer *writer = NULL;
    mf_safetensors *in = NULL;
    const mf_tensor_spec large = {"large", 1024, 1024};
    static const float values[SIDE * SIDE];
    ASSERT_OK(mf_tensors_create(file, &square, 1, MF_F32));
    ASSERT_OK(mf_tensors_open_writer(file, &square, 1, MF_F32, &writer));
    limit_file_size(8192); /* the first write that crosses it is cut short there, and the next one fails */
    mf_status written = mf_tensors_write(writer, 0, 0, SIDE, 0, SIDE, values);
    limit_file_size(1 << 20);
    mf_status created = mf_tensors_create(file, &large, 1, MF_F32);
    char message[512];
    snprintf(message, sizeof message, "%s", mf_error_last()->message);
    limit_file_size(RLIM_INFINITY);
    assert_int_equal(written, MF_EIO);
    assert_int_equal(created, MF_EIO);
    assert_non_null(strstr(message, "no room for 4194416 bytes: File too large"));
    ASSERT_OK(mf_tensors_close_writer(writer));
    ASSERT_OK(mf_safetensors_open(file, &in));
    assert_string_equal(mf_safetensors_at(in, 0)->name, "square");
    mf_safetensors_close(in);
}

#define ENTRY(type, shape, begin, end)                                                                       \
    "{\"dtype\":\"" type "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

static void refuse(const char *header, size_t data_bytes, mf_status status, const char *part) {
    static const uint8_t data[64];
    mf_safetensors *in = NULL;
    put_raw(header, data, data_bytes);
    ASSERT_FAILS(mf_safetensors_open(file, &in), status, part);
    assert_non_null(strstr(mf_error_last()->message, file));
    assert_null(in);
}

static void test_headers_refused(void **state) {
    (void)state;
    refuse("[]", 0, MF_EFORMAT, "its header is no JSON object");
    refuse("", 0, MF_EFORMAT, "its header is no JSON object");
    refuse("{\"t\":", 0, MF_EFORMAT, "not valid JSON");
    refuse("{} {}", 0, MF_EFORMAT, "not valid JSON");
    refuse("{\"t\":" ENTRY("U8", "[1]", 0, 1) ",\"t\":" ENTRY("U8", "[1]", 1, 2) "}", 2, MF_EFORMAT,
           "duplicate");
    refuse("{\"t\":7}", 0, MF_EFORMAT, "tensor t is no JSON object");
    refuse("{\"t\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, MF_EFORMAT, "tensor t states no dtype");
    refuse("{\"t\":" ENTRY("F33", "[1]", 0, 4) "}", 4, MF_EUNSUPPORTED, "unknown type F33");
    refuse("{\"t\":" ENTRY("F32", "1", 0, 4) "}", 4, MF_EFORMAT, "states no shape");
    refuse("{\"t\":" ENTRY("F32", "[-1]", 0, 4) "}", 4, MF_EFORMAT, "not a whole number from 0");
    refuse("{\"t\":" ENTRY("F32", "[1.0]", 0, 4) "}", 4, MF_EFORMAT, "not a whole number from 0");
    refuse("{\"t\":" ENTRY("F32", "[1,1,1,1,1]", 0, 4) "}", 4, MF_EUNSUPPORTED,
           "has 5 dimensions; at most 4");
    refuse("{\"t\":" ENTRY("F32", "[4294967296,4294967296]", 0, 4) "}", 4, MF_EFORMAT, "overflows");
    refuse("{\"t\":" ENTRY("F32", "[4611686018427387905]", 0, 4) "}", 4, MF_EFORMAT, "do not fill");
    refuse("{\"t\":" ENTRY("F32", "[2]", 0, 4) "}", 4, MF_EFORMAT, "4 bytes of data, which 2 values of F32");
    refuse("{\"t\":" ENTRY("F4", "[3]", 0, 1) "}", 1, MF_EFORMAT, "3 values of F4");
    refuse("{\"t\":" ENTRY("F32", "[1]", 0, 4) "}", 3, MF_EFORMAT,
           "data_offsets 0 to 4; the file's data are 0 to 3");
    refuse("{\"t\":" ENTRY("F32", "[1]", -4, 0) "}", 4, MF_EFORMAT, "data_offsets -4 to 0");
    refuse("{\"t\":" ENTRY("F32", "[1]", 4, 0) "}", 4, MF_EFORMAT, "data_offsets 4 to 0");
    refuse("{\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1, MF_EFORMAT,
           "not two whole numbers");
    refuse("{\"t\":" ENTRY("F32", "[1]", 0, 4) "}", 8, MF_EFORMAT, "last 4 bytes belong to no tensor");
    refuse("{\"t\":" ENTRY("U8", "[1]", 1, 2) "}", 2, MF_EFORMAT, "tensor t leaves a hole after");
    refuse("{\"t\":" ENTRY("U8", "[4]", 0, 4) ",\"u\":" ENTRY("U8", "[4]", 2, 6) "}", 6, MF_EFORMAT,
           "tensor u overlaps");
    refuse("{\"__metadata__\":{\"a\":1}}", 0, MF_EFORMAT, "not text under a");
    refuse("{\"__metadata__\":[]}", 0, MF_EFORMAT, "__metadata__ is no JSON object");
}

static void test_files_refused(void **state) {
    (void)state;
    mf_safetensors *in = NULL;
    const uint64_t lengths[] = {UINT64_MAX, 100000001, 9};
    ASSERT_FAILS(mf_safetensors_open("/nonexistent/x", &in), MF_EIO, "/nonexistent/x");
    ASSERT_FAILS(mf_safetensors_open(folder, &in), MF_EIO, "is not a regular file");
    ASSERT_FAILS(mf_safetensors_open("/dev/zero", &in), MF_EIO, "is not a regular file");
    ASSERT_OK(mf_file_write(file, "1234567", 7));
    ASSERT_FAILS(mf_safetensors_open(file, &in), MF_EFORMAT, "7 bytes are too few");
    ASSERT_OK(mf_file_write(file, "", 0));
    ASSERT_FAILS(mf_safetensors_open(file, &in), MF_EFORMAT, "0 bytes are too few");
    for (int i = 0; i < 3; i++) {
        char raw[16] = "        {}      ";
        memcpy(raw, &lengths[i], 8);
        ASSERT_OK(mf_file_write(file, raw, sizeof raw));
        ASSERT_FAILS(mf_safetensors_open(file, &in), MF_EFORMAT, "cut short");
    }
    /* As long as it claims, but too long; the file is all hole and takes no room. */
    ASSERT_OK(mf_file_write(file, (const char *)&lengths[1], 8));
    assert_int_equal(truncate(file, 200000000), 0);
    ASSERT_FAILS(mf_safetensors_open(file, &in), MF_EFORMAT, "header would have 100000001 bytes");
}

/* Halves with known values at an odd address, a type that can't be read as numbers, 0 and 3 dimensions. */
static void test_types(void **state) {
    (void)state;
    uint8_t data[1 + 16 + 8 + 8 + 4] = {0};
    const uint16_t halves[8] = {0x3c00, 0xc000, 0x7bff, 0x0001, 0x83ff, 0x7c00, 0x8000, 0x7e00};
    const float expected[7] = {1, -2, 65504, 0x1p-24f, -1023 * 0x1p-24f, INFINITY, -0.0f};
    float got[8], cube[2] = {1, 2};
    mf_safetensors *in = NULL;
    memcpy(data + 1, halves, sizeof halves);
    memcpy(data + 25, cube, sizeof cube);
    put_raw("{\"scalar\":" ENTRY("F32", "[]", 33, 37) ",\"b\":" ENTRY("BOOL", "[1]", 0, 1) ",\"h\":" ENTRY(
                "F16", "[2,4]", 1,
                17) ",\"i\":" ENTRY("I64", "[1]", 17,
                                    25) ",\"c\":" ENTRY("F32", "[1,2,1]", 25,
                                                        33) ",\"none\":" ENTRY("F32", "[0,5]", 17, 17) "}   ",
            data, sizeof data);
    ASSERT_OK(mf_safetensors_open(file, &in));
    assert_int_equal(mf_safetensors_count(in), 6);
    const mf_tensor_info *h = mf_safetensors_find(in, "h");
    assert_int_equal(h->type, MF_FILE_F16);
    ASSERT_OK(mf_tensor_read(h, 0, 2, 0, 4, got));
    assert_memory_equal(got, expected, sizeof expected);
    assert_true(isnan(got[7]));
    ASSERT_OK(mf_tensor_read(h, 0, 2, 1, 2, got));
    assert_true(got[0] == -2 && got[1] == 65504 && isinf(got[2]) && got[3] == 0);
    ASSERT_FAILS(mf_tensor_read(h, 1, 2, 0, 4, got), MF_EINVAL, "tensor h is 2 x 4");
    ASSERT_FAILS(mf_tensor_read(h, INT64_MAX, INT64_MAX, 0, 4, got), MF_EINVAL, "leave it");
    ASSERT_FAILS(mf_tensor_read(h, -1, 1, 0, 4, got), MF_EINVAL, "leave it");
    ASSERT_FAILS(mf_tensor_read(h, 0, 1, 2, 3, got), MF_EINVAL, "leave it");
    ASSERT_OK(mf_tensor_read(mf_safetensors_find(in, "none"), 0, 0, 0, 5, got));
    ASSERT_FAILS(mf_tensor_read(mf_safetensors_find(in, "i"), 0, 1, 0, 1, got), MF_EUNSUPPORTED,
                 "tensor i is I64");
    ASSERT_FAILS(mf_tensor_read(mf_safetensors_find(in, "c"), 0, 1, 0, 1, got), MF_EINVAL,
                 "has 3 dimensions");
    ASSERT_FAILS(mf_tensor_read(mf_safetensors_find(in, "scalar"), 0, 1, 0, 1, got), MF_EINVAL,
                 "has 0 dimensions");
    mf_safetensors_close(in);
}

/* Opens a damaged file and, where it opens, reads all that it claims to hold. */
static void read_all(void) {
    mf_safetensors *in = NULL;
    float row[16];
    if (mf_safetensors_open(file, &in)) return;
    for (int i = 0; i < mf_safetensors_count(in); i++) {
        const mf_tensor_info *t = mf_safetensors_at(in, i);
        int64_t cols = t->dims ? t->shape[t->dims - 1] : 1;
        int64_t rows = t->dims == 2 ? t->shape[0] : 1;
        assert_ptr_equal(mf_safetensors_find(in, t->name), t);
        for (int64_t r = 0; r < mf_min(rows, 64); r++)
            if (mf_tensor_read(t, r, 1, mf_max(cols - 16, 0), mf_min(cols, 16), row)) break;
    }
    mf_safetensors_close(in);
}

static void test_damage(void **state) {
    (void)state;
    static const mf_tensor_spec small[] = {{"a", 2, 3}, {"b", 0, 5}, {"c", 4, 4}};
    char *good = NULL, *bad = NULL;
    size_t bytes = 0;
    ASSERT_OK(mf_tensors_create(file, small, 3, MF_BF16));
    ASSERT_OK(mf_file_read(file, &good, &bytes));
    ASSERT_OK(mf_host_alloc(bytes, 1, &bad));
    mf_safetensors *in = NULL;
    for (size_t length = 0; length < bytes; length += 3) {
        ASSERT_OK(mf_file_write(file, good, length));
        assert_int_equal(mf_safetensors_open(file, &in), MF_EFORMAT);
    }
    for (uint64_t i = 0; i < 300; i++) {
        memcpy(bad, good, bytes);
        for (uint64_t change = 0; change <= i % 3; change++) {
            uint64_t random = mf_random_u64(5, i, change);
            /* digits often, since those make headers that still parse */
            bad[random % bytes] = random >> 63 ? (char)('0' + (random >> 40) % 10) : (char)(random >> 32);
        }
        ASSERT_OK(mf_file_write(file, bad, bytes));
        read_all();
    }
    mf_host_free(good);
    mf_host_free(bad);
}

static mf_status write_and_read(void) {
    mf_tensor_writer *writer = NULL;
    mf_safetensors *in = NULL;
    MF_TRY(mf_tensors_create(file, specs, SPECS, MF_F32));
    MF_TRY(mf_tensors_open_writer(file, specs, SPECS, MF_F32, &writer));
    MF_TRY(mf_tensors_close_writer(writer));
    MF_TRY(mf_safetensors_open(file, &in));
    mf_safetensors_close(in);
    return MF_OK;
}

static void test_allocation_faults(void **state) {
    (void)state;
    for (int n = 1;; n++) {
        mf_fault_arm(MF_FAULT_ALLOC, n);
        mf_status status = write_and_read();
        bool fired = mf_fault_fired(MF_FAULT_ALLOC);
        mf_fault_arm(MF_FAULT_ALLOC, 0);
        assert_int_equal(status, fired ? MF_ENOMEM : MF_OK);
        if (!fired) break;
    }
}

int main(void) {
    snprintf(folder, sizeof folder, "/tmp/mf_test_safetensors_XXXXXX");
    if (!mkdtemp(folder)) return 1;
    snprintf(file, sizeof file, "%s/model.safetensors", folder);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip_f32),
        cmocka_unit_test(test_round_trip_bf16),
        cmocka_unit_test(test_concurrent_writers),
        cmocka_unit_test(test_writer_refused),
        cmocka_unit_test(test_no_room),
        cmocka_unit_test(test_headers_refused),
        cmocka_unit_test(test_files_refused),
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_allocation_faults),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(file);
    /* Fails when a writer left something behind. */
    return rmdir(folder) || failed;
}
