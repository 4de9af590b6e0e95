/* shapes.c: see shapes.h. */
#include "meshfold/shapes.h"

#include <math.h>

/* What is drawn at random for a clip, each at its place in the clip's numbers. */
enum choice { KIND, COLOUR, RADIUS, PLACE_Y, PLACE_X, SPEED_Y, SPEED_X, WAY_Y, WAY_X, CHOICES = 16 };

/* In pixels, over the shorter side. */
static const double radius_least = 0.15, radius_most = 0.25, speed_least = 0.02, speed_most = 0.1;

static const float ground = -0.9f;
static const float colour_of[MF_SHAPES_COLOURS][MF_SHAPES_CHANNELS] = {
    {1, -0.8f, -0.8f}, {-0.8f, 1, -0.8f}, {-0.8f, -0.8f, 1}, {1, 1, -0.8f}, {1, -0.8f, 1}, {-0.8f, 1, 1}};

static uint64_t number(const mf_shapes *s, int64_t index, enum choice which) {
    return mf_random_u64(s->seed, mf_random_key("moving shapes"), (uint64_t)index * CHOICES + which);
}

static double between(const mf_shapes *s, int64_t index, enum choice which, double low, double high) {
    return low + (high - low) * ((double)(number(s, index, which) >> 11) * 0x1p-53);
}

mf_shapes_label mf_shapes_describe(const mf_shapes *s, int64_t index) {
    return (mf_shapes_label){.kind = (int)(number(s, index, KIND) % MF_SHAPES_KINDS),
                             .colour = (int)(number(s, index, COLOUR) % MF_SHAPES_COLOURS)};
}

void mf_shapes_condition(mf_shapes_label label, float *out) {
    for (int i = 0; i < MF_SHAPES_CONDITION_TOKENS * MF_SHAPES_CONDITION_CHANNELS; i++) out[i] = 0;
    out[label.kind] = 1;
    out[MF_SHAPES_CONDITION_CHANNELS + MF_SHAPES_KINDS + label.colour] = 1;
}

/* Where something is that began at `place` in a room of `length`, went `way` and bounced off both ends. */
static double bounced(double place, double way, double length) {
    double turn = fmod(fabs(place + way), 2 * length);
    return turn > length ? 2 * length - turn : turn;
}

/* The centre's path along an axis of `size` pixels. */
typedef struct path {
    double radius, place, speed, room;
} path;

static path path_of(const mf_shapes *s, int64_t index, double size, enum choice place, enum choice speed,
                    enum choice way) {
    double shorter = (double)mf_min(s->height, s->width);
    double radius = shorter * between(s, index, RADIUS, radius_least, radius_most), room = size - 2 * radius;
    double step = shorter * between(s, index, speed, speed_least, speed_most);
    return (path){radius, between(s, index, place, 0, room), number(s, index, way) % 2 ? step : -step, room};
}

static double centre_at(const path *p, int64_t frame) {
    return p->radius + bounced(p->place, p->speed * (double)frame, p->room);
}

/* How far (y, x) from the centre lies outside the shape; below 0: inside. */
static double distance(int kind, double radius, double y, double x) {
    const double half_square = 0.85 * radius, half_root_3 = 0.8660254037844386;
    if (kind == 0) return sqrt(y * y + x * x) - radius;
    if (kind == 1) return fmax(fabs(y), fabs(x)) - half_square;
    return fmax(y, half_root_3 * fabs(x) - 0.5 * y) - 0.5 * radius; /* three sides, the lower one level */
}

static float covered(double outside) { return (float)fmin(1, fmax(0, 0.5 - outside)); }

/* out: [height, width, 3] */
static void draw_frame(const mf_shapes *s, mf_shapes_label label, double radius, double y, double x,
                       float *out) {
    const float *colour = colour_of[label.colour];
    for (int64_t row = 0; row < s->height; row++)
        for (int64_t column = 0; column < s->width; column++) {
            float part =
                covered(distance(label.kind, radius, (double)row + 0.5 - y, (double)column + 0.5 - x));
            for (int c = 0; c < MF_SHAPES_CHANNELS; c++) *out++ = ground + part * (colour[c] - ground);
        }
}

void mf_shapes_draw(const mf_shapes *s, int64_t index, float *out) {
    path down = path_of(s, index, (double)s->height, PLACE_Y, SPEED_Y, WAY_Y);
    path across = path_of(s, index, (double)s->width, PLACE_X, SPEED_X, WAY_X);
    mf_shapes_label label = mf_shapes_describe(s, index);
    for (int64_t frame = 0; frame < s->frames; frame++, out += s->height * s->width * MF_SHAPES_CHANNELS)
        draw_frame(s, label, down.radius, centre_at(&down, frame), centre_at(&across, frame), out);
}
