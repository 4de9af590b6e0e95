/* video_data.c: training clips out of files: what is drawn, how often, what is held out, and what is refused;
 * conditions beside them; shapes that move. */
#include "support.h"

#include "meshfold/io.h"
#include "meshfold/shapes.h"
#include "meshfold/video_data.h"
#include "train/clips.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[64];

/* Good until the next call but seven. */
static const char *at(const char *name) {
    static char path[64][160]; /* a name lasts as long as a test needs it */
    static unsigned turn;
    char *out = path[turn++ % 64];
    snprintf(out, sizeof path[0], "%s/%s", folder, name);
    return out;
}

/* Every value says where it lies. */
static float value_at(int file, int64_t clip, int64_t frame, int64_t y, int64_t x) {
    return (float)(file * 100000 + clip * 10000 + frame * 1000 + y * 10 + x);
}

/* One channel of float32. */
static void put_clips(const char *name, int file, mf_video_shape s) {
    mf_video_writer *writer = NULL;
    float *clip = NULL;
    ASSERT_OK(mf_host_alloc((size_t)(s.frames * s.height * s.width), sizeof *clip, &clip));
    ASSERT_OK(mf_video_create(at(name), &(mf_video_options){.shape = s, .rate = 1}, &writer));
    for (int64_t c = 0; c < s.clips; c++) {
        float *to = clip;
        for (int64_t t = 0; t < s.frames; t++)
            for (int64_t i = 0; i < s.height * s.width; i++)
                *to++ = value_at(file, c, t, i / s.width, i % s.width);
        ASSERT_OK(mf_video_add(writer, clip));
    }
    ASSERT_OK(mf_video_finish(writer));
    mf_video_writer_close(writer);
    mf_host_free(clip);
}

enum {
    T = 3,
    H = 4,
    W = 2,
    P = 2,
    VALUES = T * H * W,
    TOKENS = 2,
    CHANNELS = 3,
    CONDITION = TOKENS * CHANNELS
};
static const mf_video_need need = {.frames = T, .height = H, .width = W, .patch = P};
static const mf_video_need described = {.frames = T,
                                        .height = H,
                                        .width = W,
                                        .patch = P,
                                        .condition_tokens = TOKENS,
                                        .condition_channels = CHANNELS};

/* No value is 0. */
static float condition_at(int file, int64_t clip, int i) { return (float)(file * 1000 + clip * 100 + i + 1); }

static void put_condition(const char *name, int file, int64_t clips) {
    float values[4 * CONDITION];
    for (int i = 0; i < clips * CONDITION; i++) values[i] = condition_at(file, i / CONDITION, i % CONDITION);
    ASSERT_OK(mf_condition_write(at(name), &(mf_condition_shape){clips, TOKENS, CHANNELS}, values));
}

static mf_video_set *open_folder(const mf_video_need *wanted) {
    mf_video_set *set = NULL;
    const char *path = at("set");
    ASSERT_OK(mf_video_set_open(&path, 1, wanted, &set));
    return set;
}

static void put_folder(void) {
    ASSERT_OK(mf_folder_make(at("set/in")));
    put_clips("set/a.npy", 0, (mf_video_shape){4, 6, H, W, 1});
    put_clips("set/in/b.npy", 1, (mf_video_shape){1, 8, H + 1, W + 2, 1});
    put_condition("set/a.npy", 0, 4);
    put_condition("set/in/b.npy", 1, 1);
    ASSERT_OK(mf_file_write(at("set/in/notes.txt"), "x", 1));
}

static void remove_folder(void) {
    static const char *const names[] = {"set/a.npy", "set/in/b.npy", "set/a.condition.npy",
                                        "set/in/b.condition.npy", "set/in/notes.txt"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) unlink(at(names[i]));
    rmdir(at("set/in"));
    rmdir(at("set"));
}

typedef struct origin {
    int file;
    int64_t clip, frame, y, x;
} origin;

/* Where a draw was taken, by its first value; the others must belong to it. */
static origin origin_of(const float *patches) {
    int64_t first = (int64_t)patches[0];
    origin o = {(int)(first / 100000), first / 10000 % 10, first / 1000 % 10, first / 10 % 100, first % 10};
    for (int t = 0; t < T; t++)
        for (int patch = 0; patch < H / P * (W / P); patch++)
            for (int i = 0; i < P * P; i++)
                assert_true(*patches++ == value_at(o.file, o.clip, o.frame + t,
                                                   o.y + patch / (W / P) * P + i / P,
                                                   o.x + patch % (W / P) * P + i % P));
    return o;
}

/* 4 clips of 4 runs of frames, and one of 6, of which the last 2 are held out and those before them share
 * frames with them: 18 are drawn to train, each about 500 times in 9000; the larger frames are cropped
 * everywhere. */
static void runs_are_as_likely(void **state) {
    (void)state;
    mf_video_set *set = open_folder(&need);
    float patches[VALUES];
    int runs[18] = {0}, crops[2][3] = {{0}};
    assert_int_equal(mf_video_set_files(set), 2);
    assert_int_equal(mf_video_set_clips(set), 5);
    assert_int_equal(mf_video_set_channels(set), 1);
    for (int64_t draw = 0; draw < 9000; draw++) {
        ASSERT_OK(mf_video_draw(set, &(mf_video_pick){7, draw / 100, draw % 100, false}, patches));
        origin o = origin_of(patches);
        int64_t run = o.file * 16 + o.clip * 4 + o.frame;
        assert_in_range(run, 0, 17);
        runs[run]++;
        if (o.file)
            crops[o.y][o.x]++;
        else
            assert_true(o.y == 0 && o.x == 0);
    }
    for (int i = 0; i < 18; i++) assert_in_range(runs[i], 400, 600);
    for (int i = 0; i < 6; i++) assert_in_range(crops[i / 3][i % 3], 100, 240);
    mf_video_set_close(set);
}

static void held_out_runs_are_the_last(void **state) {
    (void)state;
    mf_video_set *set = open_folder(&need);
    float patches[VALUES];
    int seen[2] = {0};
    for (int64_t draw = 0; draw < 600; draw++) {
        ASSERT_OK(mf_video_draw(set, &(mf_video_pick){7, 0, draw, true}, patches));
        origin o = origin_of(patches);
        assert_int_equal(o.file, 1);
        assert_in_range(o.frame, 4, 5);
        seen[o.frame - 4]++;
    }
    assert_in_range(seen[0], 240, 360);
    assert_int_equal(seen[0] + seen[1], 600);
    mf_video_set_close(set);
}

/* Runs of a single file's clips: all, those left to train on, those held out. */
static void a_tenth_is_held_out(void **state) {
    (void)state;
    static const struct {
        int64_t clips, frames;
        mf_video_runs runs;
    } cases[] = {{1, 3, {1, 1, 0}},   {1, 5, {3, 3, 0}},   {1, 6, {4, 1, 1}},   {1, 32, {30, 25, 3}},
                 {2, 3, {2, 1, 1}},   {2, 4, {4, 2, 1}},   {9, 3, {9, 8, 1}},   {30, 3, {30, 27, 3}},
                 {5, 8, {30, 25, 3}}, {6, 9, {42, 36, 4}}, {4, 7, {20, 16, 2}}, {9, 6, {36, 32, 3}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mf_video_set *set = NULL;
        const char *path = at("x.npy");
        put_clips("x.npy", 0, (mf_video_shape){cases[i].clips, cases[i].frames, H, W, 1});
        ASSERT_OK(mf_video_set_open(&path, 1, &need, &set));
        mf_video_runs runs = mf_video_set_runs(set);
        assert_int_equal(runs.all, cases[i].runs.all);
        assert_int_equal(runs.trained, cases[i].runs.trained);
        assert_int_equal(runs.held_out, cases[i].runs.held_out);
        mf_video_set_close(set);
    }
    unlink(at("x.npy"));
}

/* Where nothing can be held out, what is asked for as such comes out of all. */
static void without_held_out_all_are_drawn(void **state) {
    (void)state;
    mf_video_set *set = NULL;
    float patches[VALUES];
    int seen[3] = {0};
    const char *path = at("x.npy");
    put_clips("x.npy", 0, (mf_video_shape){1, T + 2, H, W, 1});
    ASSERT_OK(mf_video_set_open(&path, 1, &need, &set));
    for (int64_t draw = 0; draw < 90; draw++) {
        ASSERT_OK(mf_video_draw(set, &(mf_video_pick){7, 0, draw, true}, patches));
        seen[origin_of(patches).frame]++;
    }
    for (int i = 0; i < 3; i++) assert_in_range(seen[i], 15, 45);
    mf_video_set_close(set);
    unlink(at("x.npy"));
}

static void conditions_are_those_of_clips(void **state) {
    (void)state;
    mf_video_set *set = open_folder(&described), *plain = open_folder(&need);
    float patches[VALUES], condition[CONDITION];
    for (int64_t draw = 0; draw < 200; draw++) {
        mf_video_pick pick = {3, draw, 5, draw % 2};
        ASSERT_OK(mf_video_draw(set, &pick, patches));
        ASSERT_OK(mf_video_condition(set, &pick, condition));
        origin o = origin_of(patches);
        for (int i = 0; i < CONDITION; i++) assert_true(condition[i] == condition_at(o.file, o.clip, i));
    }
    ASSERT_FAILS(mf_video_condition(plain, &(mf_video_pick){0}, condition), MF_EINVAL,
                 "opened without its condition");
    mf_video_set_close(set);
    mf_video_set_close(plain);
}

static void values_must_be_finite(void **state) {
    (void)state;
    const mf_video_options options = {.shape = {1, T, H, W, 1}};
    const char *path = at("n.npy");
    float clip[VALUES] = {0}, condition[CONDITION] = {0};
    mf_video_writer *writer = NULL;
    mf_video_set *set = NULL;
    clip[VALUES - 1] = NAN;
    condition[0] = INFINITY;
    ASSERT_OK(mf_video_create(path, &options, &writer));
    ASSERT_OK(mf_video_add(writer, clip));
    ASSERT_OK(mf_video_finish(writer));
    mf_video_writer_close(writer);
    ASSERT_OK(mf_condition_write(path, &(mf_condition_shape){1, TOKENS, CHANNELS}, condition));
    ASSERT_OK(mf_video_set_open(&path, 1, &described, &set));
    ASSERT_FAILS(mf_video_draw(set, &(mf_video_pick){0}, clip), MF_ENONFINITE, "n.npy: a value is nan");
    ASSERT_FAILS(mf_video_condition(set, &(mf_video_pick){0}, condition), MF_ENONFINITE,
                 "n.npy: a value is inf");
    mf_video_set_close(set);
    unlink(at("n.npy"));
    unlink(at("n.condition.npy"));
}

enum { PLACED = 1000 };

/* At time 1 a clip is what it shows. */
static mf_status place(const mf_model *model, mf_clip_room *room, const mf_clip_draw *draw, bool *without) {
    float patches[VALUES], condition[CONDITION], nothing[CONDITION] = {0};
    MF_TRY(mf_clip_place(room, model, draw, 0));
    MF_TRY(mf_video_draw(draw->set, &draw->pick, patches));
    MF_TRY(mf_video_condition(draw->set, &draw->pick, condition));
    if (memcmp(room->input.data, patches, sizeof patches) != 0)
        return MF_FAIL(MF_ELIBRARY, "clip %lld is another", (long long)draw->pick.index);
    *without = memcmp(room->condition.data, nothing, sizeof nothing) == 0;
    if (*without || memcmp(room->condition.data, condition, sizeof condition) == 0) return MF_OK;
    return MF_FAIL(MF_ELIBRARY, "condition %lld is neither its own nor none", (long long)draw->pick.index);
}

/* without: [trained on, held out] counts of PLACED. */
static mf_status place_all(mf_world *world, void *without) {
    const mf_model_config config = {.family = MF_STDIT,
                                    .hidden = 8,
                                    .layers = 2,
                                    .heads = 2,
                                    .kv_heads = 2,
                                    .head_dim = 4,
                                    .ffn = 8,
                                    .norm_eps = 1e-6,
                                    .init_range = 0.02,
                                    .video = {T, H, W, 1, P, TOKENS, CHANNELS, false}};
    const mf_model_options options = {
        .config = config, .batch = 1, .tokens = VALUES / (P * P), .grid = {T, H / P, W / P}};
    mf_status status = MF_OK;
    mf_memory *memory = NULL;
    mf_device *device = NULL;
    mf_mesh mesh = {0};
    mf_model *model = NULL;
    mf_clip_room room = {0};
    mf_clip_draw draw = {.set = open_folder(&described), .time = 1};
    MF_GO(mf_memory_create(NULL, &memory));
    MF_GO(mf_device_create("cpu", memory, 1, &device));
    MF_GO(mf_mesh_create(world, &(mf_mesh_spec){0}, &mesh));
    mf_layout layout = mf_layout_of(&mesh.spec);
    MF_GO(mf_model_create(&options, &layout, &mesh, device, &model));
    MF_GO(mf_clip_room_open(&room, model, memory, device, 1));
    for (int i = 0; i < 2 * PLACED; i++) {
        bool is_without = false;
        draw.pick = (mf_video_pick){1, i / 2 / 10, i / 2 % 10, i % 2};
        MF_GO(place(model, &room, &draw, &is_without));
        ((int *)without)[i % 2] += is_without;
    }
fail:
    mf_clip_room_close(&room);
    mf_model_destroy(model);
    mf_mesh_destroy(&mesh);
    mf_device_destroy(device);
    mf_memory_destroy(memory);
    mf_video_set_close((mf_video_set *)(uintptr_t)draw.set);
    return status;
}

static void a_tenth_goes_without_condition(void **state) {
    (void)state;
    int without[2] = {0};
    ASSERT_OK(mf_launch(&(mf_launch_options){.engine = "local", .ranks = 1}, place_all, without));
    assert_in_range(without[0], PLACED / 10 - 30, PLACED / 10 + 30);
    assert_int_equal(without[1], 0);
}

/* (seed, step, index) and nothing else: in another set, in another order. */
static void draws_depend_on_their_numbers(void **state) {
    (void)state;
    enum { SEEDS = 2, STEPS = 3, INDICES = 4, DRAWS = SEEDS * STEPS * INDICES };
    static float drawn[DRAWS][VALUES];
    mf_video_pick numbers[DRAWS];
    mf_video_set *set = open_folder(&need), *other = open_folder(&need);
    int same = 0;
    for (int i = 0; i < DRAWS; i++)
        numbers[i] = (mf_video_pick){(uint64_t)(i / 12), i / INDICES % STEPS, i % INDICES, false};
    for (int i = 0; i < DRAWS; i++) ASSERT_OK(mf_video_draw(set, &numbers[i], drawn[i]));
    for (int i = DRAWS; i-- > 0;) {
        float again[VALUES];
        ASSERT_OK(mf_video_draw(other, &numbers[i], again));
        assert_memory_equal(again, drawn[i], sizeof again);
        for (int j = 0; j < i; j++) same += memcmp(drawn[j], drawn[i], sizeof again) == 0;
    }
    assert_in_range(same, 1, DRAWS * (DRAWS - 1) / 2 / 4); /* of 276 pairs a 20th or so */
    mf_video_set_close(set);
    mf_video_set_close(other);
}

static uint64_t digest_of(const char *const *paths, int count, mf_video_need wanted) {
    mf_video_set *set = NULL;
    ASSERT_OK(mf_video_set_open(paths, count, &wanted, &set));
    uint64_t digest = mf_video_set_digest(set);
    mf_video_set_close(set);
    return digest;
}

/* A file of so many frames of 20x20 has another digest when the byte at this share of it is another. */
static bool notices(int64_t frames, double share) {
    char *bytes = NULL;
    size_t size = 0;
    const char *const one[] = {at("one.npy")};
    put_clips("one.npy", 2, (mf_video_shape){1, frames, 20, 20, 1});
    const uint64_t before = digest_of(one, 1, need);
    ASSERT_OK(mf_file_read(one[0], &bytes, &size));
    bytes[(size_t)(share * (double)(size - 1))] ^= 1;
    ASSERT_OK(mf_file_write(one[0], bytes, size));
    bool noticed = digest_of(one, 1, need) != before;
    mf_host_free(bytes);
    unlink(one[0]);
    return noticed;
}

static void digests_tell_sets_apart(void **state) {
    (void)state;
    const char *const set[] = {at("set")}, *const files[] = {at("set/a.npy"), at("set/in/b.npy")};
    const char *const swapped[] = {files[1], files[0]};
    const uint64_t digest = digest_of(set, 1, need);
    assert_true(digest_of(files, 2, need) == digest);
    assert_true(digest_of(swapped, 2, need) != digest);
    assert_true(digest_of(files, 1, need) != digest);
    assert_true(digest_of(set, 1, (mf_video_need){T - 1, H, W, P, 0, 0}) != digest);
    assert_true(digest_of(set, 1, (mf_video_need){T, H, W, 1, 0, 0}) != digest);
    const uint64_t with_conditions = digest_of(set, 1, described);
    assert_true(with_conditions != digest);
    put_condition("set/a.npy", 2, 4);
    assert_true(digest_of(set, 1, described) != with_conditions && digest_of(set, 1, need) == digest);
    put_condition("set/a.npy", 0, 4);
    assert_true(notices(100, 0.5) && notices(100, 1));        /* 156 KiB: all of it */
    assert_true(notices(1000, 0.51) && !notices(1000, 0.49)); /* 1.5 MiB: beginnings of its eighths */
}

static void refuse(const char *const *paths, int count, mf_video_need wanted, mf_status status,
                   const char *part) {
    mf_video_set *set = NULL;
    ASSERT_FAILS(mf_video_set_open(paths, count, &wanted, &set), status, part);
    assert_null(set);
}

static void sets_refused(void **state) {
    (void)state;
    const mf_video_shape walk = {1, 1, 17, 31, 3};
    float pixels[17 * 31 * 3] = {0};
    mf_video_writer *writer = NULL;
    ASSERT_OK(mf_video_create(at("walk.y4m"), &(mf_video_options){walk, true, 1}, &writer));
    ASSERT_OK(mf_video_add(writer, pixels));
    ASSERT_OK(mf_video_finish(writer));
    mf_video_writer_close(writer);
    const char *const paths[] = {at("walk.y4m"), at("set")};
    const char *const named[] = {at("set/in/notes.txt")};
    ASSERT_OK(mf_folder_make(at("none")));
    const char *const none[] = {at("none")};
    refuse(paths, 1, (mf_video_need){8, 32, 32, 4, 0, 0}, MF_EINVAL,
           "walk.y4m has 1 frame of 31x17; 8 frames of 32x32 are needed");
    refuse(paths, 1, (mf_video_need){1, 18, 31, 1, 0, 0}, MF_EINVAL, "1 frame of 31x18 are needed");
    refuse(paths, 2, (mf_video_need){1, 4, 2, 2, 0, 0}, MF_EINVAL, "a.npy has 1 channel, ");
    refuse(named, 1, need, MF_EINVAL, "notes.txt: is named neither");
    refuse(none, 1, need, MF_EINVAL, "none: no .npy or .y4m file");
    refuse(NULL, 0, need, MF_EINVAL, "no video: no file or folder was named");
    refuse(paths, 1, (mf_video_need){1, 4, 4, 3, 0, 0}, MF_EINVAL,
           "patches of 3x3 pixels don't divide frames of 4x4");
    refuse(paths, 1, (mf_video_need){0, 4, 4, 2, 0, 0}, MF_EINVAL, "clips of 0 frames");
    unlink(at("walk.y4m"));
    rmdir(at("none"));
}

/* A file of clips, and what lies beside it. */
static void conditions_refused(void **state) {
    (void)state;
    const float values[2 * CONDITION] = {0};
    const char *path = at("x.npy");
    char *content = NULL;
    size_t bytes;
    put_clips("x.npy", 0, (mf_video_shape){2, T, H, W, 1});
    refuse(&path, 1, described, MF_EIO, "x.npy: a condition of 2 tokens of 3 channels is needed: ");
    refuse(&path, 1, described, MF_EIO, "x.condition.npy: cannot be opened");
    ASSERT_OK(mf_condition_write(path, &(mf_condition_shape){2, CHANNELS, TOKENS}, values));
    refuse(&path, 1, described, MF_EFORMAT,
           "x.condition.npy: is (2, 3, 2) of <f4; (2, 2, 3) of <f4 is needed");
    ASSERT_OK(mf_condition_write(path, &(mf_condition_shape){1, TOKENS, CHANNELS}, values));
    refuse(&path, 1, described, MF_EFORMAT, "is (1, 2, 3) of <f4");
    put_clips("other.npy", 0, (mf_video_shape){2, 1, TOKENS, CHANNELS, 1});
    assert_int_equal(rename(at("other.npy"), at("x.condition.npy")), 0);
    refuse(&path, 1, described, MF_EFORMAT, "is (2, 1, 2, 3, 1) of <f4");
    ASSERT_OK(mf_condition_write(path, &(mf_condition_shape){2, TOKENS, CHANNELS}, values));
    ASSERT_OK(mf_file_read(at("x.condition.npy"), &content, &bytes));
    ASSERT_OK(mf_file_write(at("x.condition.npy"), content, bytes - 1));
    refuse(&path, 1, described, MF_EFORMAT, "has 47 bytes of values; its header tells of 48");
    memcpy(strstr(content + 10, "<f4"), "<i4", 3);
    ASSERT_OK(mf_file_write(at("x.condition.npy"), content, bytes));
    refuse(&path, 1, described, MF_EFORMAT, "is (2, 2, 3) of <i4");
    const char *condition = at("x.condition.npy");
    refuse(&condition, 1, need, MF_EINVAL, "no .npy or .y4m file");
    mf_host_free(content);
    unlink(path);
    unlink(condition);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    float patches[VALUES];
    const char *path = at("set");
    for (int64_t n = 1, fired = 1; fired; n++) {
        mf_video_set *set = NULL;
        mf_fault_arm(MF_FAULT_ALLOC, n);
        mf_status status = mf_video_set_open(&path, 1, &described, &set);
        if (!status) status = mf_video_draw(set, &(mf_video_pick){0}, patches);
        fired = mf_fault_fired(MF_FAULT_ALLOC);
        mf_fault_arm(MF_FAULT_ALLOC, 0);
        assert_int_equal(status, fired ? MF_ENOMEM : MF_OK);
        mf_video_set_close(set);
    }
}

enum { FRAMES = 40, HEIGHT = 24, WIDTH = 36, PIXELS = HEIGHT * WIDTH };

/* How much of a frame the shape covers, and its centre, by the channel in which it stands out most. */
typedef struct blob {
    double area, y, x;
} blob;

static blob look_at(const float *frame) {
    blob best = {0};
    for (int c = 0; c < 3; c++) {
        blob b = {0};
        for (int i = 0; i < PIXELS; i++) {
            double part = (frame[3 * i + c] + 0.9) / 1.9;
            b.area += part;
            b.y += part * (i / WIDTH + 0.5);
            b.x += part * (i % WIDTH + 0.5);
        }
        if (b.area > best.area) best = b;
    }
    best.y /= best.area;
    best.x /= best.area;
    return best;
}

/* One step along an axis is the velocity, but where it bounces. */
static int bounces(const double *place, double *speed) {
    int turned = 0;
    *speed = 0;
    for (int t = 1; t < FRAMES; t++) *speed = fmax(*speed, fabs(place[t] - place[t - 1]));
    for (int t = 1; t < FRAMES; t++) turned += fabs(place[t] - place[t - 1]) < *speed - 0.1;
    return turned;
}

/* Nothing is lost at the walls, and the shape moves evenly but for its bounces. */
static void shapes_move(void **state) {
    (void)state;
    static float clip[FRAMES * PIXELS * 3];
    const mf_shapes shapes = {FRAMES, HEIGHT, WIDTH, 5};
    int bounced = 0;
    for (int64_t index = 0; index < 20; index++) {
        double y[FRAMES], x[FRAMES], down, across;
        mf_shapes_draw(&shapes, index, clip);
        blob first = look_at(clip);
        for (int i = 0; i < FRAMES * PIXELS * 3; i++) assert_true(clip[i] >= -0.9f && clip[i] <= 1);
        for (int t = 0; t < FRAMES; t++) {
            blob b = look_at(clip + t * PIXELS * 3);
            assert_true(fabs(b.area / first.area - 1) < 0.05);
            y[t] = b.y, x[t] = b.x;
        }
        int turns = bounces(y, &down) + bounces(x, &across);
        assert_true(down > 0.02 * HEIGHT - 0.1 && down < 0.1 * HEIGHT + 0.1);
        assert_true(across > 0.02 * HEIGHT - 0.1 && across < 0.1 * HEIGHT + 0.1);
        assert_in_range(turns, 0, 20); /* of 78 steps */
        bounced += turns > 0;
    }
    assert_in_range(bounced, 10, 20);
}

/* Kinds and colours have channels of their own. */
static void check_condition(mf_shapes_label label) {
    float condition[MF_SHAPES_CONDITION_TOKENS][MF_SHAPES_CONDITION_CHANNELS];
    const int one[] = {label.kind, MF_SHAPES_KINDS + label.colour};
    mf_shapes_condition(label, condition[0]);
    for (int token = 0; token < MF_SHAPES_CONDITION_TOKENS; token++)
        for (int i = 0; i < MF_SHAPES_CONDITION_CHANNELS; i++)
            assert_true(condition[token][i] == (i == one[token] ? 1.0f : 0.0f));
}

/* The label is what is seen: a disc is wider in its middle row than a triangle, narrower than a square is at
 * its top; the colour's channels are bright. */
static void labels_say_what_is_shown(void **state) {
    (void)state;
    static const int bright[MF_SHAPES_COLOURS] = {1, 2, 4, 3, 5, 6}; /* of red 1, green 2, blue 4 */
    static float frame[128 * 128 * 3];
    const mf_shapes shapes = {1, 128, 128, 11};
    int seen[MF_SHAPES_KINDS][MF_SHAPES_COLOURS] = {{0}};
    for (int64_t index = 0; index < 200; index++) {
        mf_shapes_label label = mf_shapes_describe(&shapes, index);
        double area = 0;
        int top = 128, bottom = 0, left = 128, right = 0;
        mf_shapes_draw(&shapes, index, frame);
        for (int i = 0; i < 128 * 128; i++) {
            int lit = 0;
            for (int c = 0; c < 3; c++) lit |= (frame[3 * i + c] > 0) << c;
            if (!lit) continue;
            assert_int_equal(lit, bright[label.colour]);
            area++;
            top = (int)mf_min(top, i / 128), bottom = (int)mf_max(bottom, i / 128);
            left = (int)mf_min(left, i % 128), right = (int)mf_max(right, i % 128);
        }
        double filled = area / ((bottom - top + 1) * (right - left + 1));
        double wanted = label.kind == 0 ? 0.785 : label.kind == 1 ? 1 : 0.5; /* of the box around it */
        assert_true(fabs(filled - wanted) < 0.05);
        seen[label.kind][label.colour]++;
        check_condition(label);
    }
    for (int i = 0; i < MF_SHAPES_KINDS * MF_SHAPES_COLOURS; i++)
        assert_true(seen[i / MF_SHAPES_COLOURS][i % MF_SHAPES_COLOURS] > 0);
}

int main(void) {
    snprintf(folder, sizeof folder, "/tmp/mf_test_video_data_XXXXXX");
    if (!mkdtemp(folder)) return 1;
    put_folder();
    const struct CMUnitTest tests[] = {cmocka_unit_test(runs_are_as_likely),
                                       cmocka_unit_test(held_out_runs_are_the_last),
                                       cmocka_unit_test(a_tenth_is_held_out),
                                       cmocka_unit_test(without_held_out_all_are_drawn),
                                       cmocka_unit_test(conditions_are_those_of_clips),
                                       cmocka_unit_test(values_must_be_finite),
                                       cmocka_unit_test(a_tenth_goes_without_condition),
                                       cmocka_unit_test(conditions_refused),
                                       cmocka_unit_test(draws_depend_on_their_numbers),
                                       cmocka_unit_test(digests_tell_sets_apart),
                                       cmocka_unit_test(sets_refused),
                                       cmocka_unit_test(every_allocation_may_fail),
                                       cmocka_unit_test(shapes_move),
                                       cmocka_unit_test(labels_say_what_is_shown)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    remove_folder();
    return rmdir(folder) || failed;
}
