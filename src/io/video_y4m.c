/* video_y4m.c: YUV4MPEG2 (mjpegtools' yuv4mpeg(5)): a line of parameters, then frames, each a line and planes
 * of bytes: Y, Cb, Cr, or Y alone. Colours by ITU-R BT.601, limited range: Y from 16 to 235, Cb and Cr 112
 * around 128. */
#include "io/video_format.h"
#include "meshfold/io.h"

#include <string.h>

static const char magic[] = "YUV4MPEG2", frame_magic[] = "FRAME";
static const int64_t side_limit = 1 << 24; /* pixels; so that planes can be counted */
enum { MONO = -1 };

/* How chroma is held, by C's value; what is not said is 420jpeg. */
static const struct colours {
    const char *name;
    int down_x, down_y; /* MONO: there is none */
} colours[] = {{"420jpeg", 1, 1}, {"420paldv", 1, 1}, {"420mpeg2", 1, 1},  {"420", 1, 1},
               {"422", 1, 0},     {"444", 0, 0},      {"mono", MONO, MONO}};

/* A parameter: a letter, then its value. */
typedef struct word {
    const char *at;
    size_t length;
} word;

static bool is(word w, const char *text) {
    return w.length == strlen(text) && memcmp(w.at, text, w.length) == 0;
}

/* 0: none, or beyond the limit. */
static int64_t side_of(word digits) {
    int64_t side = 0;
    for (size_t i = 0; i < digits.length; i++) {
        if (digits.at[i] < '0' || digits.at[i] > '9' || side > side_limit) return 0;
        side = 10 * side + (digits.at[i] - '0');
    }
    return side > side_limit ? 0 : side;
}

static mf_status set_colours(mf_video *v, word name) {
    for (size_t i = 0; i < sizeof colours / sizeof *colours; i++) {
        if (!is(name, colours[i].name)) continue;
        v->down_x = colours[i].down_x;
        v->down_y = colours[i].down_y;
        v->shape.channels = v->down_x == MONO ? 1 : 3;
        return MF_OK;
    }
    return MF_FAIL(
        MF_EUNSUPPORTED,
        "%s: its colours are C%.*s; C420jpeg, C420paldv, C420mpeg2, C420, C422, C444 and Cmono can be read",
        v->path, (int)mf_min((int64_t)name.length, 32), name.at);
}

static mf_status set_side(mf_video *v, const char *name, word digits, int64_t *side) {
    *side = side_of(digits);
    if (*side) return MF_OK;
    return MF_FAIL(MF_EFORMAT, "%s: its %s is %.*s; 1 to %lld can be read", v->path, name,
                   (int)mf_min((int64_t)digits.length, 32), digits.at, (long long)side_limit);
}

/* Frame rate, pixels' aspect and comments change no pixel. */
static mf_status take_parameter(mf_video *v, word w) {
    word value = {w.at + 1, w.length - 1};
    if (*w.at == 'W') return set_side(v, "width", value, &v->shape.width);
    if (*w.at == 'H') return set_side(v, "height", value, &v->shape.height);
    if (*w.at == 'C') return set_colours(v, value);
    if (*w.at == 'I' && !is(value, "p") && !is(value, "?"))
        return MF_FAIL(MF_EUNSUPPORTED, "%s: is interlaced; progressive frames can be read", v->path);
    if (is(w, "XCOLORRANGE=FULL"))
        return MF_FAIL(MF_EUNSUPPORTED, "%s: its colours are of full range; limited range can be read",
                       v->path);
    return MF_OK;
}

/* A line that begins with `first`, at *at, which moves behind it. */
static bool take_line(const mf_video *v, size_t *at, const char *first, word *out) {
    size_t begins = strlen(first), left = v->bytes - *at;
    const char *line = (const char *)v->map + *at, *end = memchr(line, '\n', left);
    if (!end || (size_t)(end - line) < begins || memcmp(line, first, begins) != 0) return false;
    *out = (word){line + begins, (size_t)(end - line) - begins};
    *at += (size_t)(end - line) + 1;
    return out->length == 0 || *out->at == ' ';
}

static mf_status take_header(mf_video *v, size_t *at) {
    word line;
    if (!take_line(v, at, magic, &line))
        return MF_FAIL(MF_EFORMAT, "%s: is no .y4m file: it does not begin with a line of %s", v->path,
                       magic);
    v->shape.clips = 1;
    v->pixels = true;
    MF_TRY(set_colours(v, (word){"420jpeg", 7}));
    for (const char *next = line.at, *end = line.at + line.length; next < end;) {
        const char *space = memchr(next, ' ', (size_t)(end - next));
        word w = {next, (size_t)((space ? space : end) - next)};
        if (w.length > 0) MF_TRY(take_parameter(v, w));
        next += w.length + 1;
    }
    if (v->shape.width && v->shape.height) return MF_OK;
    return MF_FAIL(MF_EFORMAT, "%s: its header says no width or no height", v->path);
}

static int64_t chroma_width(const mf_video *v) { return (v->shape.width + v->down_x) >> v->down_x; }
static int64_t chroma_height(const mf_video *v) { return (v->shape.height + v->down_y) >> v->down_y; }
static int64_t plane_bytes(const mf_video *v) { return v->shape.width * v->shape.height; }

static int64_t frame_bytes(const mf_video *v) {
    return plane_bytes(v) + (v->down_x == MONO ? 0 : 2 * chroma_width(v) * chroma_height(v));
}

static mf_status take_frame(mf_video *v, size_t bytes, size_t *at) {
    word line;
    long long frame = (long long)v->shape.frames;
    if (!take_line(v, at, frame_magic, &line))
        return MF_FAIL(MF_EFORMAT, "%s: no line of %s begins frame %lld", v->path, frame_magic, frame);
    if (v->bytes - *at < bytes)
        return MF_FAIL(MF_EFORMAT, "%s: frame %lld ends %zu bytes too early", v->path, frame,
                       bytes - (v->bytes - *at));
    v->frame_at[v->shape.frames++] = *at;
    *at += bytes;
    return MF_OK;
}

static mf_status open_y4m(mf_video *v) {
    size_t at = 0;
    MF_TRY(take_header(v, &at));
    size_t bytes = (size_t)frame_bytes(v), least = bytes + sizeof frame_magic;
    MF_TRY(mf_host_alloc((v->bytes - at) / least + 1, sizeof *v->frame_at, &v->frame_at));
    while (at < v->bytes) MF_TRY(take_frame(v, bytes, &at));
    if (v->shape.frames == 0) return MF_FAIL(MF_EFORMAT, "%s: has no frames", v->path);
    return MF_OK;
}

/* y, cb, cr as bytes, r, g, b from 0 to 1. */
static void rgb_from_bytes(uint8_t y, uint8_t cb, uint8_t cr, float rgb[3]) {
    float light = ((float)y - 16) / 219, blue = ((float)cb - 128) / 224, red = ((float)cr - 128) / 224;
    rgb[0] = light + 1.402f * red;
    rgb[1] = light - 0.344136f * blue - 0.714136f * red;
    rgb[2] = light + 1.772f * blue;
}

static uint8_t byte_of(float level) { return (uint8_t)(level + 0.5f); }

static void bytes_from_rgb(const float rgb[3], uint8_t *y, uint8_t *cb, uint8_t *cr) {
    float light = 0.299f * rgb[0] + 0.587f * rgb[1] + 0.114f * rgb[2];
    *y = byte_of(16 + 219 * light);
    *cb = byte_of(128 + 224 * (rgb[2] - light) / 1.772f);
    *cr = byte_of(128 + 224 * (rgb[0] - light) / 1.402f);
}

static float unit_clamp(float value) { return value < 0 ? 0 : value > 1 ? 1 : value; }
static float pixel_from_unit(float value) { return 2 * unit_clamp(value) - 1; }
static float unit_from_pixel(float value) { return unit_clamp((value + 1) / 2); }

static void read_row(const mf_video *v, int64_t clip, int64_t frame, int64_t y, int64_t x, int64_t n,
                     float *out) {
    (void)clip;
    const uint8_t *plane = v->map + v->frame_at[frame], *row = plane + y * v->shape.width + x;
    if (v->down_x == MONO) {
        for (int64_t i = 0; i < n; i++) out[i] = pixel_from_unit(((float)row[i] - 16) / 219);
        return;
    }
    const uint8_t *cb = plane + plane_bytes(v) + (y >> v->down_y) * chroma_width(v);
    const uint8_t *cr = cb + chroma_width(v) * chroma_height(v);
    for (int64_t i = 0; i < n; i++, out += 3) {
        int64_t at = (x + i) >> v->down_x;
        rgb_from_bytes(row[i], cb[at], cr[at], out);
        for (int c = 0; c < 3; c++) out[c] = pixel_from_unit(out[c]);
    }
}

static mf_status begin(mf_video_writer *w, char **header, size_t *header_bytes) {
    const mf_video_shape *s = &w->options.shape;
    if (s->clips != 1)
        return MF_FAIL(MF_EINVAL, "%s: a .y4m holds one clip, not %lld; a .npy holds many", w->path,
                       (long long)s->clips);
    if (s->channels != 1 && s->channels != 3)
        return MF_FAIL(MF_EINVAL, "%s: a .y4m has 1 or 3 channels, not %lld", w->path,
                       (long long)s->channels);
    if (s->width > side_limit || s->height > side_limit)
        return MF_FAIL(MF_EINVAL, "%s: frames of %lldx%lld are beyond a .y4m's %lld a side", w->path,
                       (long long)s->width, (long long)s->height, (long long)side_limit);
    if (w->options.rate < 1)
        return MF_FAIL(MF_EINVAL, "%s: %d frames a second are none", w->path, w->options.rate);
    MF_TRY(mf_format(header, "%s W%lld H%lld F%d:1 Ip A1:1 C%s\n", magic, (long long)s->width,
                     (long long)s->height, w->options.rate, s->channels == 3 ? "444" : "mono"));
    *header_bytes = strlen(*header);
    w->frame_bytes = sizeof frame_magic + (size_t)(s->height * s->width * s->channels);
    return MF_OK;
}

static void encode(mf_video_writer *w, const float *values) {
    int64_t pixels = w->options.shape.height * w->options.shape.width;
    uint8_t *plane = w->frame + sizeof frame_magic;
    memcpy(w->frame, frame_magic, sizeof frame_magic);
    plane[-1] = '\n'; /* where the text's 0 was */
    if (w->options.shape.channels == 1) {
        for (int64_t i = 0; i < pixels; i++) plane[i] = byte_of(16 + 219 * unit_from_pixel(values[i]));
        return;
    }
    for (int64_t i = 0; i < pixels; i++) {
        float rgb[3];
        for (int c = 0; c < 3; c++) rgb[c] = unit_from_pixel(values[3 * i + c]);
        bytes_from_rgb(rgb, &plane[i], &plane[pixels + i], &plane[2 * pixels + i]);
    }
}

const mf_video_format mf_video_y4m = {
    .suffix = ".y4m", .open = open_y4m, .read_row = read_row, .begin = begin, .encode = encode};
