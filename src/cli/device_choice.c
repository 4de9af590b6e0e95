/* device_choice.c: see device_choice.h. */
#include "cli/device_choice.h"

#include "cli/machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void mf_device_flag_add(const char **target, mf_flag_table *t, const char *name, const char *about) {
    mf_flag flag = MF_TEXT(name, target, "NAME", about);
    flag.fallback = "auto";
    mf_table_add(t, flag);
}

static bool is_auto(const char *device) { return strcmp(device, "auto") == 0; }

static mf_status refuse(const char *flag, const char *device) {
    return MF_FAIL(
        MF_EINVAL,
        "--%s %.40s: is none of auto, cpu, cuda, cuda+cudnn and, of several GPUs, cuda:0, cuda:1, ...", flag,
        device);
}

static bool is_known(const char *device) {
    return strcmp(device, "cpu") == 0 || (strncmp(device, "dry", 3) != 0 && mf_device_is_gpu(device));
}

mf_status mf_device_choose(const char *flag, const char **device) {
    char words[64];
    if (is_auto(*device)) *device = mf_cuda_count() > 0 ? "cuda" : "cpu";
    if (!is_known(*device)) return refuse(flag, *device);
    snprintf(words, sizeof words, "--%s %.40s", flag, *device);
    return mf_blame(words, mf_device_check(*device));
}

mf_status mf_device_choose_dry(const char *flag, const char **device) {
    if (is_auto(*device)) *device = mf_cuda_count() > 0 ? "cuda" : "cpu";
    return is_known(*device) ? MF_OK : refuse(flag, *device);
}

void mf_device_words(const char *device, char out[MF_DEVICE_WORDS]) {
    mf_machine machine;
    const char *colon = strchr(device, ':');
    int number = colon ? atoi(colon + 1) : 0;
    if (mf_device_is_gpu(device) && !mf_cuda_gpu_description(number, out)) return;
    bool named = !mf_device_is_gpu(device) && !mf_machine_look(&machine) && *machine.processor;
    snprintf(out, MF_DEVICE_WORDS, "%s", named ? machine.processor : device);
}
