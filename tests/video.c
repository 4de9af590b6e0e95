/* video.c: files of video against bytes written by hand, files that lie, colours, patches, sheets. */
#include "support.h"

#include "io/file.h"
#include "meshfold/io.h"
#include "meshfold/video.h"

#include <math.h>
#include <png.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static char folder[64];

/* Good until the next call but three. */
static const char *at(const char *name) {
    static char path[4][160];
    static unsigned turn;
    char *out = path[turn++ % 4];
    snprintf(out, sizeof path[0], "%s/%s", folder, name);
    return out;
}

static void put(const char *name, const void *data, size_t bytes) {
    ASSERT_OK(mf_file_write(at(name), data, bytes));
}

/* A .npy file of this version, whose header's length is as it is. */
static void put_npy(const char *name, int version, const char *header, const void *values, size_t bytes) {
    uint8_t file[1024] = {0x93, 'N', 'U', 'M', 'P', 'Y', (uint8_t)version, 0, (uint8_t)strlen(header)};
    size_t begin = version == 1 ? 10 : 12, length = strlen(header);
    assert_true(length < 256 && begin + length + bytes <= sizeof file);
    memcpy(file + begin, header, length);
    if (bytes) memcpy(file + begin + length, values, bytes);
    put(name, file, begin + length + bytes);
}

static void assert_shape(const mf_video *video, mf_video_shape wanted) {
    const mf_video_shape *s = mf_video_shape_of(video);
    assert_int_equal(s->clips, wanted.clips);
    assert_int_equal(s->frames, wanted.frames);
    assert_int_equal(s->height, wanted.height);
    assert_int_equal(s->width, wanted.width);
    assert_int_equal(s->channels, wanted.channels);
}

/* All of a clip; the caller frees it. */
static float *whole_clip(const mf_video *video, int64_t clip) {
    const mf_video_shape *s = mf_video_shape_of(video);
    mf_video_window all = {clip, 0, s->frames, 0, s->height, 0, s->width};
    float *out = NULL;
    ASSERT_OK(mf_host_alloc((size_t)(s->frames * s->height * s->width * s->channels), sizeof *out, &out));
    ASSERT_OK(mf_video_read(video, &all, out));
    return out;
}

static float *whole_file(const char *name) {
    mf_video *video = NULL;
    ASSERT_OK(mf_video_open(at(name), &video));
    float *out = whole_clip(video, 0);
    mf_video_close(video);
    return out;
}

static void npy_bytes_are_pixels(void **state) {
    (void)state;
    const uint8_t bytes[] = {0, 255, 51, 204, 102, 153, 1, 254, 0, 255, 85, 170};
    mf_video *video = NULL;
    put_npy("x.npy", 1, "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 1, 2, 3), }   \n", bytes, 12);
    ASSERT_OK(mf_video_open(at("x.npy"), &video));
    assert_string_equal(mf_video_path(video), at("x.npy"));
    assert_shape(video, (mf_video_shape){1, 2, 1, 2, 3});
    assert_true(mf_video_has_pixels(video));
    float *values = whole_clip(video, 0);
    assert_true(values[0] == -1 && values[1] == 1);
    for (int i = 0; i < 12; i++) assert_true(fabs(values[i] - (2.0 * bytes[i] / 255 - 1)) < 1e-6);
    mf_host_free(values);
    mf_video_close(video);
}

/* The header's keys in any order, with any quotes; windows of one clip of several. */
static void npy_floats_are_values(void **state) {
    (void)state;
    float wide[2 * 2 * 3 * 4];
    const uint16_t half[] = {0x3c00, 0xc000, 0x0001, 0x7bff}; /* 1, -2, 2^-24, 65504 */
    mf_video *video = NULL;
    for (int i = 0; i < 48; i++) wide[i] = (float)i * 1e3f;
    put_npy("x.npy", 2, "{\"shape\":(2,2,3,4,1),\"fortran_order\":False,\"descr\":\"<f4\"}", wide,
            sizeof wide);
    ASSERT_OK(mf_video_open(at("x.npy"), &video));
    assert_shape(video, (mf_video_shape){2, 2, 3, 4, 1});
    assert_false(mf_video_has_pixels(video));
    float part[4];
    ASSERT_OK(mf_video_read(video, &(mf_video_window){1, 1, 1, 1, 2, 2, 2}, part));
    assert_memory_equal(part, ((float[]){42e3f, 43e3f, 46e3f, 47e3f}), sizeof part);
    mf_video_close(video);

    put_npy("x.npy", 3, "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 1, 2, 2, 1)}", half,
            sizeof half);
    float *values = whole_file("x.npy");
    assert_memory_equal(values, ((float[]){1, -2, 0x1p-24f, 65504}), sizeof part);
    mf_host_free(values);
}

static void windows_stay_inside(void **state) {
    (void)state;
    static const mf_video_window outside[] = {
        {-1, 0, 1, 0, 1, 0, 1},        {1, 0, 1, 0, 1, 0, 1}, {0, -1, 1, 0, 1, 0, 1}, {0, 1, 2, 0, 1, 0, 1},
        {0, 0, 1, 2, 1, 0, 1},         {0, 0, 1, 0, 3, 0, 1}, {0, 0, 1, 0, 1, 3, 1},  {0, 0, 1, 0, 1, 0, 4},
        {0, INT64_MAX, 1, 0, 1, 0, 1}, {0, 0, 0, 0, 1, 0, 1}, {0, 0, 1, 0, 0, 0, 1},  {0, 0, 1, 0, 1, 0, -1}};
    const uint8_t bytes[12] = {0};
    float out[12];
    mf_video *video = NULL;
    put_npy("x.npy", 1, "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2, 3, 1)}", bytes, 12);
    ASSERT_OK(mf_video_open(at("x.npy"), &video));
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++)
        ASSERT_FAILS(mf_video_read(video, &outside[i], out), MF_EINVAL, "x.npy: ");
    mf_video_close(video);
}

static void refuse(const char *name, mf_status status, const char *part) {
    mf_video *video = NULL;
    ASSERT_FAILS(mf_video_open(at(name), &video), status, name);
    ASSERT_FAILS(mf_video_open(at(name), &video), status, part);
    assert_null(video);
}

static void npy_that_lies(void **state) {
    (void)state;
    static const struct lie {
        int version;
        const char *header;
        size_t bytes;
        mf_status status;
        const char *part;
    } lies[] = {
        {1, "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 2, 2, 1)}", 3, MF_EFORMAT,
         "has 3 bytes of values; its header tells of 4"},
        {1, "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 2, 2, 1)}", 5, MF_EFORMAT, "tells of 4"},
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2, 2, 1)}", 4, MF_EFORMAT, "tells of 16"},
        {1, "{'descr': '|u1', 'fortran_order': False, 'shape': (0, 2, 2, 1)}", 0, MF_EFORMAT,
         "dimension 1 is 0"},
        {1, "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2, 1)}", 4, MF_EFORMAT,
         "has 3 dimensions"},
        {1, "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1, 1, 1, 1, 1)}", 1, MF_EFORMAT,
         "has 6 dimensions"},
        {1, "{'descr': '|u1', 'fortran_order': False, 'shape': ()}", 1, MF_EFORMAT, "has 0 dimensions"},
        {1, "{'descr': '|u1', 'fortran_order': False, 'shape': (4294967296, 4294967296, 4294967296, 1)}", 4,
         MF_EFORMAT, "tells of more than"},
        {1, "{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999999999, 1, 1, 1)}", 4,
         MF_EFORMAT, "describes no array"},
        {1, "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 1, 1, 1)}", 4, MF_EFORMAT,
         "describes no array"},
        {1, "{'descr': '|u1', 'fortran_order': True, 'shape': (1, 2, 2, 1)}", 4, MF_EUNSUPPORTED, "Fortran"},
        {1, "{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1, 1, 1)}", 8, MF_EUNSUPPORTED,
         "are <f8;"},
        {1, "{'descr': '>f4', 'fortran_order': False, 'shape': (1, 1, 1, 1)}", 4, MF_EUNSUPPORTED,
         "are >f4;"},
        {1, "{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (1, 1, 1, 1)}", 1, MF_EFORMAT,
         "describes no array of plain values: {'descr': [('a'"},
        {1, "{'descr': '|u1', 'fortran_order': False}", 1, MF_EFORMAT, "describes no array"},
        {1, "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1, 1, 1), 'more': 1}", 1, MF_EFORMAT,
         "describes no array"},
        {1, "{'descr': '|u1', 'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1, 1)}", 1, MF_EFORMAT,
         "describes no array"},
        {1, "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1, 1, 1)} x", 1, MF_EFORMAT,
         "describes no array"},
        {1, "", 1, MF_EFORMAT, "describes no array"},
        {0, "{}", 0, MF_EUNSUPPORTED, "version 0.0"},
        {4, "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1, 1, 1)}", 1, MF_EUNSUPPORTED,
         "version 4.0"},
    };
    const uint8_t bytes[8] = {0};
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        put_npy("x.npy", lies[i].version, lies[i].header, bytes, lies[i].bytes);
        refuse("x.npy", lies[i].status, lies[i].part);
    }
    put("x.npy", "\x93NUMPY\1\0\xff\xff{}", 12);
    refuse("x.npy", MF_EFORMAT, "its header would have 65535 bytes, the file has 12");
    put("x.npy", "\x93NUMPY\2\0\xff\xff\xff", 11);
    refuse("x.npy", MF_EFORMAT, "ends within its header");
    put("x.npy", "YUV4MPEG2 W1 H1 Cmono\nFRAME\n.", 29);
    refuse("x.npy", MF_EFORMAT, "is no .npy file");
    put("x.npy", "", 0);
    refuse("x.npy", MF_EFORMAT, "is empty");
    put("x.mp4", "x", 1);
    refuse("x.mp4", MF_EINVAL, "named neither .npy nor .y4m");
    refuse("none.npy", MF_EIO, "cannot be opened");
    unlink(at("x.mp4"));
}

/* Every shorter file is refused, but where a .y4m ends between frames. */
static void cut_short(void **state) {
    (void)state;
    static const char stream[] = "YUV4MPEG2 W2 H1 Cmono\nFRAME\nabFRAME Ip\ncd";
    mf_video *video = NULL;
    char *npy = NULL;
    size_t bytes = 0;
    for (size_t n = 1; n < sizeof stream - 1; n++) {
        put("x.y4m", stream, n);
        mf_status status = mf_video_open(at("x.y4m"), &video);
        assert_int_equal(status, n == 30 ? MF_OK : MF_EFORMAT);
        mf_video_close(video);
    }
    put_npy("x.npy", 1, "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 2, 2, 1)}", "abcd", 4);
    ASSERT_OK(mf_file_read(at("x.npy"), &npy, &bytes));
    for (size_t n = 1; n < bytes; n++) {
        put("x.npy", npy, n);
        assert_int_equal(mf_video_open(at("x.npy"), &video), MF_EFORMAT);
    }
    mf_host_free(npy);
}

static void y4m_that_lies(void **state) {
    (void)state;
    static const struct lie {
        const char *text;
        mf_status status;
        const char *part;
    } lies[] = {
        {"YUV4MPEG W1 H1 Cmono\nFRAME\na", MF_EFORMAT, "is no .y4m file"},
        {"YUV4MPEG2W1 H1 Cmono\nFRAME\na", MF_EFORMAT, "is no .y4m file"},
        {"YUV4MPEG2 W1 Cmono\nFRAME\na", MF_EFORMAT, "no width or no height"},
        {"YUV4MPEG2 W0 H1 Cmono\nFRAME\na", MF_EFORMAT, "its width is 0; 1 to"},
        {"YUV4MPEG2 W1 H-1 Cmono\nFRAME\na", MF_EFORMAT, "its height is -1; 1 to"},
        {"YUV4MPEG2 W1 H16777217 Cmono\nFRAME\na", MF_EFORMAT, "its height is 16777217; 1 to 16777216"},
        {"YUV4MPEG2 W1 H99999999999999999999 Cmono\nFRAME\na", MF_EFORMAT, "its height is 9999"},
        {"YUV4MPEG2 W16777216 H16777216\nFRAME\na", MF_EFORMAT,
         "frame 0 ends 422212465065983 bytes too early"},
        {"YUV4MPEG2 W1 H1 Cmono\n", MF_EFORMAT, "has no frames"},
        {"YUV4MPEG2 W1 H1 Cmono\nFRAMES\na", MF_EFORMAT, "no line of FRAME begins frame 0"},
        {"YUV4MPEG2 W1 H1 Cmono\nFRAME\naa", MF_EFORMAT, "no line of FRAME begins frame 1"},
        {"YUV4MPEG2 W1 H1 C420p10\nFRAME\na", MF_EUNSUPPORTED, "its colours are C420p10; C420jpeg"},
        {"YUV4MPEG2 W1 H1 Cmono It\nFRAME\na", MF_EUNSUPPORTED, "interlaced"},
        {"YUV4MPEG2 W1 H1 Cmono XCOLORRANGE=FULL\nFRAME\na", MF_EUNSUPPORTED, "full range"},
    };
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        put("x.y4m", lies[i].text, strlen(lies[i].text));
        refuse("x.y4m", lies[i].status, lies[i].part);
    }
}

/* Chroma of 3 x 3 pixels: planes of 2 x 2 and of 2 x 3, each sample over two columns, and rows. */
static void chroma_is_repeated(void **state) {
    (void)state;
    static const char luma[] = "\x50\x60\x70\x80\x90\xa0\x78\x88\x98";
    static const struct subsampling {
        const char *name, *cb, *cr; /* and as C444 has them */
        const char *all_cb, *all_cr;
    } kinds[] = {{"C420jpeg", "abcd", "xyzw", "aabaabccd", "xxyxxyzzw"},
                 {"C420paldv", "abcd", "xyzw", "aabaabccd", "xxyxxyzzw"},
                 {"C420mpeg2", "abcd", "xyzw", "aabaabccd", "xxyxxyzzw"},
                 {"C420", "abcd", "xyzw", "aabaabccd", "xxyxxyzzw"},
                 {"F25:1", "abcd", "xyzw", "aabaabccd", "xxyxxyzzw"},
                 {"C422", "abcdef", "xyzwuv", "aabccdeef", "xxyzzwuuv"}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        char text[128];
        int n = snprintf(text, sizeof text, "YUV4MPEG2 W3 H3 F30:1 Ip A1:1 %s\nFRAME\n%s%s%s", kinds[i].name,
                         luma, kinds[i].cb, kinds[i].cr);
        put("x.y4m", text, (size_t)n);
        float *got = whole_file("x.y4m");
        n = snprintf(text, sizeof text, "YUV4MPEG2 H3 W3 C444 Xany\nFRAME I? Xx\n%s%s%s", luma,
                     kinds[i].all_cb, kinds[i].all_cr);
        put("x.y4m", text, (size_t)n);
        float *wanted = whole_file("x.y4m");
        assert_memory_equal(got, wanted, 3 * 3 * 3 * sizeof *got);
        mf_host_free(got);
        mf_host_free(wanted);
    }
}

static void write_clips(const char *name, mf_video_shape shape, bool pixels, const float *values) {
    mf_video_options options = {.shape = shape, .pixels = pixels, .rate = 24};
    int64_t clip = shape.frames * shape.height * shape.width * shape.channels;
    mf_video_writer *writer = NULL;
    ASSERT_OK(mf_video_create(at(name), &options, &writer));
    for (int64_t i = 0; i < shape.clips; i++) ASSERT_OK(mf_video_add(writer, values + i * clip));
    assert_int_equal(access(at(name), F_OK), -1); /* not before it is whole */
    ASSERT_OK(mf_video_finish(writer));
    mf_video_writer_close(writer);
}

static void assert_content(const char *name, const void *wanted, size_t bytes) {
    char *content = NULL;
    size_t found = 0;
    ASSERT_OK(mf_file_read(at(name), &content, &found));
    assert_int_equal(found, bytes);
    assert_memory_equal(content, wanted, bytes);
    mf_host_free(content);
    unlink(at(name));
}

/* Colours that BT.601 has in whole numbers, near enough: white, black, red, green, blue. */
static void y4m_colours(void **state) {
    (void)state;
    static const float rgb[] = {1, 1, 1, -1, -1, -1, 1, -1, -1, -1, 1, -1, -1, -1, 1};
    static const char wanted[] =
        "YUV4MPEG2 W5 H1 F24:1 Ip A1:1 C444\nFRAME\n\xeb\x10\x51\x91\x29\x80\x80\x5a\x36\xf0"
        "\x80\x80\xf0\x22\x6e";
    write_clips("new.y4m", (mf_video_shape){1, 1, 1, 5, 3}, true, rgb);
    float *back = whole_file("new.y4m");
    for (int i = 0; i < 15; i++) assert_true(fabsf(back[i] - rgb[i]) < 0.0126f && fabsf(back[i]) <= 1);
    mf_host_free(back);
    assert_content("new.y4m", wanted, sizeof wanted - 1);

    write_clips("new.y4m", (mf_video_shape){1, 2, 1, 2, 1}, true, (float[]){-1, 1, -9, 9});
    back = whole_file("new.y4m");
    assert_memory_equal(back, ((float[]){-1, 1, -1, 1}), 4 * sizeof *back);
    mf_host_free(back);
    assert_content("new.y4m",
                   "YUV4MPEG2 W2 H1 F24:1 Ip A1:1 Cmono\nFRAME\n\x10\xeb"
                   "FRAME\n\x10\xeb",
                   52);
}

static void fill_uniform(uint64_t key, float scale, int64_t n, float *out) {
    for (int64_t i = 0; i < n; i++)
        out[i] = scale * ((float)(mf_random_u64(3, key, (uint64_t)i) >> 40) * 0x1p-23f - 1);
}

/* RGB to Y'CbCr and back: half a step of each, as the matrix adds them up; then the same bytes again. */
static void y4m_there_and_back(void **state) {
    (void)state;
    enum { COUNT = 3 * 7 * 9 * 3 };
    const mf_video_shape shape = {1, 3, 7, 9, 3};
    float values[COUNT];
    char *first = NULL;
    size_t bytes = 0;
    fill_uniform(1, 0.9f, COUNT, values);
    write_clips("new.y4m", shape, true, values);
    ASSERT_OK(mf_file_read(at("new.y4m"), &first, &bytes));
    float *back = whole_file("new.y4m");
    for (int i = 0; i < COUNT; i++) assert_true(fabsf(back[i] - values[i]) < 0.0126f);
    unlink(at("new.y4m"));
    write_clips("new.y4m", shape, true, back);
    assert_content("new.y4m", first, bytes);
    mf_host_free(first);
    mf_host_free(back);
}

static void npy_there_and_back(void **state) {
    (void)state;
    enum { CLIP = 2 * 5 * 3 * 4 };
    const mf_video_shape shape = {3, 2, 5, 3, 4};
    float values[3 * CLIP];
    mf_video *video = NULL;
    fill_uniform(2, 1, 3 * CLIP, values);
    for (int pixels = 0; pixels < 2; pixels++) {
        write_clips("new.npy", shape, pixels, values);
        ASSERT_OK(mf_video_open(at("new.npy"), &video));
        assert_shape(video, shape);
        assert_int_equal(mf_video_has_pixels(video), pixels);
        for (int clip = 0; clip < 3; clip++) {
            float *back = whole_clip(video, clip);
            for (int i = 0; i < CLIP; i++)
                assert_true(fabsf(back[i] - values[clip * CLIP + i]) <= (pixels ? 1.001f / 255 : 0));
            mf_host_free(back);
        }
        mf_video_close(video);
        unlink(at("new.npy"));
    }
}

/* As NumPy 1.24 writes the same array. */
static void npy_is_numpys(void **state) {
    (void)state;
    uint8_t wanted[130] =
        "\x93NUMPY\1\0\x76\0{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1, 1, 2, 1), }";
    size_t text = strlen((char *)wanted + 10) + 10;
    memset(wanted + text, ' ', 127 - text);
    wanted[127] = '\n', wanted[128] = 0, wanted[129] = 255;
    write_clips("new.npy", (mf_video_shape){1, 1, 1, 2, 1}, true, (float[]){-1, 1});
    assert_content("new.npy", wanted, sizeof wanted);
}

/* Every byte becomes a pixel that becomes this byte. */
static void bytes_come_back(void **state) {
    (void)state;
    uint8_t bytes[256];
    for (int i = 0; i < 256; i++) bytes[i] = (uint8_t)i;
    put_npy("x.npy", 1, "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 16, 16, 1)}", bytes, 256);
    float *values = whole_file("x.npy");
    write_clips("new.npy", (mf_video_shape){1, 1, 16, 16, 1}, true, values);
    mf_host_free(values);
    char *content = NULL;
    size_t found = 0;
    ASSERT_OK(mf_file_read(at("new.npy"), &content, &found));
    assert_memory_equal(content + found - 256, bytes, 256);
    mf_host_free(content);
    unlink(at("new.npy"));
}

static void refuse_create(const char *name, mf_video_shape shape, int rate, const char *part) {
    mf_video_writer *writer = NULL;
    ASSERT_FAILS(mf_video_create(at(name), &(mf_video_options){shape, true, rate}, &writer), MF_EINVAL, part);
    assert_null(writer);
}

static void writers_refuse(void **state) {
    (void)state;
    const float clip[] = {0, NAN};
    mf_video_writer *writer = NULL;
    refuse_create("new.y4m", (mf_video_shape){2, 1, 1, 1, 3}, 24, "new.y4m: a .y4m holds one clip, not 2");
    refuse_create("new.y4m", (mf_video_shape){1, 1, 1, 1, 2}, 24,
                  "new.y4m: a .y4m has 1 or 3 channels, not 2");
    refuse_create("new.y4m", (mf_video_shape){1, 1, 1, 1, 3}, 0, "new.y4m: 0 frames a second");
    refuse_create("new.y4m", (mf_video_shape){1, 1, 1, 1 << 25, 3}, 24, "new.y4m: frames of 33554432x1");
    refuse_create("new.npy", (mf_video_shape){1, 0, 1, 1, 3}, 24, "new.npy: can't hold");
    refuse_create("new.npy", (mf_video_shape){1LL << 40, 1 << 20, 1, 1, 3}, 24, "new.npy: can't hold");
    refuse_create("new.mp4", (mf_video_shape){1, 1, 1, 1, 3}, 24, "new.mp4: is named neither");
    ASSERT_OK(mf_video_create(at("new.npy"), &(mf_video_options){{1, 2, 1, 1, 1}, true, 0}, &writer));
    ASSERT_FAILS(mf_video_finish(writer), MF_EINVAL, "got 0 of its 1 clips");
    ASSERT_FAILS(mf_video_add(writer, clip), MF_ENONFINITE, "new.npy: a value is nan");
    mf_video_writer_close(writer);
    ASSERT_OK(mf_video_create(at("new.npy"), &(mf_video_options){{1, 2, 1, 1, 1}, false, 0}, &writer));
    ASSERT_OK(mf_video_add(writer, clip)); /* values may be anything */
    ASSERT_FAILS(mf_video_add(writer, clip), MF_EINVAL, "gets more than its 1 clips");
    mf_video_writer_close(writer);
    assert_int_equal(access(at("new.npy"), F_OK), -1);
}

static mf_status write_sheet(void) {
    static const float values[3 * 40 * 30];
    return mf_video_sheet(at("new.png"), &(mf_video_shape){1, 3, 40, 30, 1}, values, &(mf_sheet_options){0});
}

static mf_status write_video(const char *name) {
    static const float values[40 * 30];
    mf_video_writer *writer = NULL;
    mf_status status = mf_video_create(at(name), &(mf_video_options){{1, 1, 40, 30, 1}, true, 24}, &writer);
    if (!status) status = mf_video_add(writer, values);
    if (!status) status = mf_video_finish(writer);
    mf_video_writer_close(writer);
    return status;
}

static mf_status write_condition(void) {
    const float values[4] = {0};
    return mf_condition_write(at("new.npy"), &(mf_condition_shape){2, 2, 1}, values);
}

/* The test ends by removing the folder, which fails where a draft was left. */
static void full_disk(void **state) {
    (void)state;
    struct rlimit before, now;
    getrlimit(RLIMIT_FSIZE, &before);
    now = (struct rlimit){100, before.rlim_max};
    void (*old)(int) = signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &now);
    mf_status npy = write_video("new.npy"), y4m = write_video("new.y4m"), png = write_sheet(),
              condition = write_condition();
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, old);
    assert_int_equal(npy, MF_EIO);
    assert_int_equal(y4m, MF_EIO);
    assert_int_equal(png, MF_EIO);
    assert_int_equal(condition, MF_EIO);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    for (int kind = 0; kind < 5; kind++)
        for (int64_t n = 1, fired = 1; fired; n++) {
            mf_video *video = NULL;
            mf_fault_arm(MF_FAULT_ALLOC, n);
            mf_status status = kind == 0   ? write_video("new.npy")
                               : kind == 1 ? write_video("new.y4m")
                               : kind == 2 ? mf_video_open(at("new.y4m"), &video)
                               : kind == 3 ? write_condition()
                                           : write_sheet();
            fired = mf_fault_fired(MF_FAULT_ALLOC);
            mf_fault_arm(MF_FAULT_ALLOC, 0);
            assert_int_equal(status, fired ? MF_ENOMEM : MF_OK);
            mf_video_close(video);
        }
    unlink(at("new.npy"));
    unlink(at("new.y4m"));
    unlink(at("new.png"));
    unlink(at("new.condition.npy"));
}

static void patches_and_back(void **state) {
    (void)state;
    enum { H = 4, W = 6, C = 3, COUNT = 2 * 2 * H * W * C };
    const mf_video_shape shape = {2, 2, H, W, C};
    float values[COUNT], patches[COUNT], back[COUNT];
    for (int i = 0; i < COUNT; i++) values[i] = (float)i;
    ASSERT_OK(mf_video_to_patches(&shape, 2, values, patches));
    const float *next = patches;
    for (int frame = 0; frame < 4; frame++)
        for (int patch = 0; patch < H / 2 * (W / 2); patch++)
            for (int i = 0; i < 2 * 2 * C; i++) {
                int y = patch / (W / 2) * 2 + i / (2 * C), x = patch % (W / 2) * 2 + i / C % 2;
                assert_true(*next++ == (float)(((frame * H + y) * W + x) * C + i % C));
            }
    ASSERT_OK(mf_video_from_patches(&shape, 2, patches, back));
    assert_memory_equal(back, values, sizeof values);
    ASSERT_OK(mf_video_to_patches(&shape, 1, values, patches));
    assert_memory_equal(patches, values, sizeof values);
    ASSERT_FAILS(mf_video_to_patches(&shape, 4, values, patches), MF_EINVAL, "don't divide frames of 6x4");
    ASSERT_FAILS(mf_video_from_patches(&shape, 0, values, patches), MF_EINVAL, "patches of 0x0");
}

/* Two clips of seven frames, each of its own level, three of which are shown: the first, the middle, the
 * last. */
static void sheet(void **state) {
    (void)state;
    float values[2 * 7 * 2 * 3];
    const mf_video_shape shape = {2, 7, 2, 3, 1};
    for (int i = 0; i < 84; i++) values[i] = (float)(i / 6) * 16 / 127.5f - 1;
    ASSERT_OK(mf_video_sheet(at("new.png"), &shape, values, &(mf_sheet_options){.columns = 3}));
    png_image image = {.version = PNG_IMAGE_VERSION};
    assert_true(png_image_begin_read_from_file(&image, at("new.png")));
    assert_int_equal(image.height, 2 * 64 + 2);
    assert_int_equal(image.width, 3 * 96 + 2 * 2);
    image.format = PNG_FORMAT_GRAY;
    uint8_t *pixels = NULL;
    ASSERT_OK(mf_host_alloc(PNG_IMAGE_SIZE(image), 1, &pixels));
    assert_true(png_image_finish_read(&image, NULL, pixels, 0, NULL));
    for (int y = 0; y < 130; y++)
        for (int x = 0; x < 292; x++) {
            bool gap = y / 64 == 1 && y < 66;
            int row = y >= 66, column = x / 98;
            gap = gap || x % 98 >= 96;
            assert_int_equal(pixels[y * 292 + x], gap ? 255 : 16 * (7 * row + 3 * column));
        }
    mf_host_free(pixels);
    unlink(at("new.png"));
}

static void sheets_refused(void **state) {
    (void)state;
    const float values[] = {0, 0, INFINITY};
    const mf_sheet_options plain = {0};
    ASSERT_FAILS(mf_video_sheet(at("new.png"), &(mf_video_shape){1, 1, 1, 1, 2}, values, &plain), MF_EINVAL,
                 "new.png: a sheet has 1 or 3 channels, not 2");
    ASSERT_FAILS(mf_video_sheet(at("new.png"), &(mf_video_shape){1, 1, 1, 1, 3}, values, &plain),
                 MF_ENONFINITE, "new.png: a value is inf");
    ASSERT_FAILS(mf_video_sheet(at("new.png"), &(mf_video_shape){1, 1, 1, 1, 1}, values,
                                &(mf_sheet_options){.scale = INT64_MAX}),
                 MF_EINVAL, "beyond 65535 pixels a side");
}

int main(void) {
    snprintf(folder, sizeof folder, "/tmp/mf_test_video_XXXXXX");
    if (!mkdtemp(folder)) return 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(npy_bytes_are_pixels),
                                       cmocka_unit_test(npy_floats_are_values),
                                       cmocka_unit_test(windows_stay_inside),
                                       cmocka_unit_test(npy_that_lies),
                                       cmocka_unit_test(cut_short),
                                       cmocka_unit_test(y4m_that_lies),
                                       cmocka_unit_test(chroma_is_repeated),
                                       cmocka_unit_test(y4m_colours),
                                       cmocka_unit_test(y4m_there_and_back),
                                       cmocka_unit_test(npy_there_and_back),
                                       cmocka_unit_test(npy_is_numpys),
                                       cmocka_unit_test(bytes_come_back),
                                       cmocka_unit_test(writers_refuse),
                                       cmocka_unit_test(full_disk),
                                       cmocka_unit_test(every_allocation_may_fail),
                                       cmocka_unit_test(patches_and_back),
                                       cmocka_unit_test(sheet),
                                       cmocka_unit_test(sheets_refused)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(at("x.npy"));
    unlink(at("x.y4m"));
    /* Fails when a writer left something behind. */
    return rmdir(folder) || failed;
}
