/* video_patches.c: space to depth and back. */
#include "meshfold/video.h"

#include <string.h>

mf_status mf_video_patch_check(int64_t height, int64_t width, int64_t p) {
    if (p > 0 && height % p == 0 && width % p == 0) return MF_OK;
    return MF_FAIL(MF_EINVAL, "patches of %lldx%lld pixels don't divide frames of %lldx%lld", (long long)p,
                   (long long)p, (long long)width, (long long)height);
}

/* Where the p pixels of row y that belong to patch column px lie. */
static int64_t run_in_patches(const mf_video_shape *s, int64_t p, int64_t y, int64_t px) {
    int64_t patch = y / p * (s->width / p) + px;
    return (patch * p + y % p) * p * s->channels;
}

mf_status mf_video_to_patches(const mf_video_shape *s, int64_t p, const float *values, float *patches) {
    MF_TRY(mf_video_patch_check(s->height, s->width, p));
    int64_t run = p * s->channels, frame = s->height * s->width * s->channels;
    for (int64_t f = 0; f < s->clips * s->frames; f++, patches += frame)
        for (int64_t y = 0; y < s->height; y++)
            for (int64_t px = 0; px < s->width / p; px++, values += run)
                memcpy(patches + run_in_patches(s, p, y, px), values, (size_t)run * sizeof *values);
    return MF_OK;
}

mf_status mf_video_from_patches(const mf_video_shape *s, int64_t p, const float *patches, float *values) {
    MF_TRY(mf_video_patch_check(s->height, s->width, p));
    int64_t run = p * s->channels, frame = s->height * s->width * s->channels;
    for (int64_t f = 0; f < s->clips * s->frames; f++, patches += frame)
        for (int64_t y = 0; y < s->height; y++)
            for (int64_t px = 0; px < s->width / p; px++, values += run)
                memcpy(values, patches + run_in_patches(s, p, y, px), (size_t)run * sizeof *values);
    return MF_OK;
}
