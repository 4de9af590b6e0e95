/* video.c: the same bytes as a .npy and as a .y4m: what is let through can be read to its last value. */
#include "fuzz.h"

#include "meshfold/video.h"

#include <math.h>

const fuzz_shape fuzz_input = FUZZ_BYTES;

static void read_all(const mf_video *video) {
    const mf_video_shape *s = mf_video_shape_of(video);
    int64_t values = s->height * s->width * s->channels;
    float *frame = NULL;
    FUZZ_CLAIM(!mf_host_alloc((size_t)values, sizeof *frame, &frame));
    for (int64_t clip = 0; clip < s->clips; clip++)
        for (int64_t t = 0; t < s->frames; t++) {
            FUZZ_CLAIM(
                !mf_video_read(video, &(mf_video_window){clip, t, 1, 0, s->height, 0, s->width}, frame));
            for (int64_t i = 0; i < values; i++)
                FUZZ_CLAIM(!mf_video_has_pixels(video) || fabsf(frame[i]) <= 1);
        }
    FUZZ_CLAIM(mf_video_read(video, &(mf_video_window){0, 1, s->frames, 0, 1, 0, 1}, frame) == MF_EINVAL);
    mf_host_free(frame);
}

static void open_as(const char *name, const uint8_t *data, size_t bytes) {
    mf_video *video = NULL;
    fuzz_put(name, data, bytes);
    mf_status status = mf_video_open(fuzz_path(name), &video);
    if (status)
        fuzz_check_refusal(status, name);
    else
        read_all(video);
    mf_video_close(video);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    open_as("x.npy", data, bytes);
    open_as("x.y4m", data, bytes);
    return 0;
}
