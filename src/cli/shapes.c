/* shapes.c: `meshfold shapes`: a file of videos to learn on: shapes that move. */
#include "cli/commands.h"
#include "cli/flag_table.h"
#include "cli/flag_value.h"

#include "meshfold/shapes.h"
#include "meshfold/video.h"

#include <string.h>

enum { SIDE_LEAST = 8, SIDE_MOST = 4096, RATE = 8 /* frames a second of a .y4m */ };

typedef struct command {
    const char *out, *size;
    int64_t count, frames, seed;
    mf_flag_table table;
    mf_flags flags;
} command;

static void describe(command *c) {
    mf_flag_table *t = &c->table;
    mf_table_group(t, "Output");
    mf_flag out = MF_TEXT("out", &c->out, "FILE",
                          "NAME.npy of bytes [clips, frames, height, width, 3], or "
                          "NAME.y4m of one clip; NAME.condition.npy beside it says what each shows");
    out.required = true;
    mf_table_add(t, out);
    mf_table_group(t, "Clips");
    mf_table_add(t, MF_INT("count", &c->count, "256", 1, 1 << 30, "clips"));
    mf_table_add(t, MF_INT("frames", &c->frames, "16", 1, 1 << 20, "of each"));
    mf_flag size = MF_TEXT("size", &c->size, "WxH", "width and height, 8 to 4096 pixels each");
    size.fallback = "32x32";
    mf_table_add(t, size);
    mf_table_add(t, MF_INT("seed", &c->seed, "1", 0, 1LL << 53, "a clip depends on it and its number alone"));
    c->flags =
        (mf_flags){.command = "meshfold shapes",
                   .usage = "--out FILE [flags]",
                   .about = "draws videos to learn on: discs, squares and triangles that move and bounce",
                   .groups = t->group,
                   .group_count = t->groups};
}

static void help(const command *c) {
    mf_flags_help(&c->flags, stdout);
    printf("\nExamples\n"
           "  meshfold shapes --out shapes.npy\n"
           "  meshfold shapes --out one.y4m --count 1 --frames 64 --size 128x96 --seed 7\n");
}

static mf_status read_size(const char *text, mf_shapes *out) {
    int64_t width = 0, height = 0;
    if (mf_pair_read(text, &width, &height) && width >= SIDE_LEAST && width <= SIDE_MOST &&
        height >= SIDE_LEAST && height <= SIDE_MOST) {
        out->width = width;
        out->height = height;
        return MF_OK;
    }
    return MF_FAIL(MF_EINVAL, "--size %.100s: expected a width and a height from %d to %d, as in 32x32", text,
                   SIDE_LEAST, SIDE_MOST);
}

static mf_status write_clips(const command *c, const mf_shapes *shapes) {
    mf_status status = MF_OK;
    mf_video_writer *writer = NULL;
    float *clip = NULL;
    mf_video_options options = {
        .shape = {c->count, c->frames, shapes->height, shapes->width, MF_SHAPES_CHANNELS},
        .pixels = true,
        .rate = RATE};
    MF_GO(mf_video_create(c->out, &options, &writer));
    MF_GO(mf_host_alloc((size_t)(c->frames * shapes->height * shapes->width),
                        MF_SHAPES_CHANNELS * sizeof *clip, &clip));
    for (int64_t i = 0; i < c->count; i++) {
        mf_shapes_draw(shapes, i, clip);
        MF_GO(mf_video_add(writer, clip));
    }
    MF_GO(mf_video_finish(writer));
fail:
    mf_video_writer_close(writer);
    mf_host_free(clip);
    return status;
}

static mf_status write_condition(const command *c, const mf_shapes *shapes) {
    mf_condition_shape shape = {c->count, MF_SHAPES_CONDITION_TOKENS, MF_SHAPES_CONDITION_CHANNELS};
    int64_t of_clip = shape.tokens * shape.channels;
    float *values = NULL;
    MF_TRY(mf_host_alloc((size_t)(c->count * of_clip), sizeof *values, &values));
    for (int64_t i = 0; i < c->count; i++)
        mf_shapes_condition(mf_shapes_describe(shapes, i), values + i * of_clip);
    mf_status status = mf_condition_write(c->out, &shape, values);
    mf_host_free(values);
    return status;
}

static mf_status run(const command *c) {
    mf_shapes shapes = {.frames = c->frames, .seed = (uint64_t)c->seed};
    MF_TRY(read_size(c->size, &shapes));
    MF_TRY(write_clips(c, &shapes));
    return write_condition(c, &shapes);
}

int mf_command_shapes(int argc, char **argv) {
    command c = {0};
    describe(&c);
    mf_status status = mf_flags_parse(&c.flags, argc, argv);
    bool parsed = !status;
    if (parsed && c.flags.help)
        help(&c);
    else if (parsed)
        status = run(&c);
    int code = status ? mf_report_error(status) : 0;
    if (status == MF_EIO && parsed) code = 1; /* nothing but the output was left to fail */
    mf_flags_free(&c.flags);
    return code;
}
