/* shapes.h: a small world to learn videos on: in each clip one shape of one colour moves over a dark ground,
 * at its own velocity, and bounces off the walls. Clip `index` depends on (seed, index) alone.
 *
 *     mf_shapes shapes = {.frames = 16, .height = 32, .width = 32, .seed = 1};
 *     mf_shapes_draw(&shapes, 7, out);                            // out: [16, 32, 32, 3]
 *     mf_shapes_label label = mf_shapes_describe(&shapes, 7);     // what it shows
 */
#ifndef MESHFOLD_SHAPES_H
#define MESHFOLD_SHAPES_H

#include "meshfold/base.h"

enum { MF_SHAPES_KINDS = 3, MF_SHAPES_COLOURS = 6, MF_SHAPES_CHANNELS = 3 };
enum { MF_SHAPES_CONDITION_TOKENS = 2, MF_SHAPES_CONDITION_CHANNELS = 16 };

typedef struct mf_shapes {
    int64_t frames, height, width;
    uint64_t seed;
} mf_shapes;

typedef struct mf_shapes_label {
    int kind;   /* disc, square, triangle */
    int colour; /* red, green, blue, yellow, magenta, cyan */
} mf_shapes_label;

mf_shapes_label mf_shapes_describe(const mf_shapes *shapes, int64_t index);
/* As two tokens, kind and colour, each 1 in a channel of its own and 0 in the others: attention doesn't tell
 * tokens of a condition by their order. out: [2, 16] f32, as the enum says. */
void mf_shapes_condition(mf_shapes_label label, float *out);
/* out: [frames, height, width, 3] f32, pixels as video.h has them. */
void mf_shapes_draw(const mf_shapes *shapes, int64_t index, float *out);

#endif
