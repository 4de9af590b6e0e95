/* part.c: a checkpoint's part, loaded into a model on one rank: refused, or the model is whole. */
#include "fuzz.h"

#include "train/checkpoint.h"

const fuzz_shape fuzz_input = FUZZ_HEADER;

enum { STEPS = 2 };

static mf_status load(mf_model *model, mf_device *device) {
    float step_s[STEPS];
    mf_digest digest = {0};
    mf_checkpoint checkpoint = {.path = (char *)(uintptr_t)fuzz_path(""),
                                .manifest = {.parts = 1, .part = &digest, .progress.step = STEPS}};
    mf_checkpoint_progress progress = {.step_s_out = step_s};
    mf_optimizer *optimizer = NULL;
    mf_status status = MF_OK;
    MF_GO(mf_optimizer_allocate(model, device, &(mf_adam_options){.steps = STEPS}, &optimizer));
    MF_GO(mf_checkpoint_load(&checkpoint, optimizer, &progress));
    FUZZ_CLAIM(progress.step == STEPS);
fail:
    mf_optimizer_destroy(optimizer);
    return status;
}

static mf_status body(mf_world *world, void *argument) {
    const mf_model_options options = {.config = {.hidden = 4,
                                                 .layers = 1,
                                                 .heads = 2,
                                                 .kv_heads = 1,
                                                 .head_dim = 2,
                                                 .ffn = 3,
                                                 .vocab = 5,
                                                 .rope_theta = 10000,
                                                 .norm_eps = 1e-5,
                                                 .init_range = 0.1},
                                      .batch = 1,
                                      .tokens = 4};
    mf_mesh_spec spec;
    mf_layout layout;
    mf_memory *memory = NULL;
    mf_device *device = NULL;
    mf_mesh mesh = {0};
    mf_model *model = NULL;
    mf_status status = MF_OK;
    (void)argument;
    MF_GO(mf_mesh_parse("single", &spec));
    layout = mf_layout_of(&spec);
    MF_GO(mf_memory_create(NULL, &memory));
    MF_GO(mf_device_create("cpu", memory, 1, &device));
    MF_GO(mf_mesh_create(world, &spec, &mesh));
    MF_GO(mf_model_create(&options, &layout, &mesh, device, &model));
    MF_GO(load(model, device));
fail:
    mf_model_destroy(model);
    mf_mesh_destroy(&mesh);
    mf_device_destroy(device);
    mf_memory_destroy(memory);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    fuzz_put("part-00000.safetensors", data, bytes);
    mf_status status = mf_launch(&(mf_launch_options){.engine = "local", .ranks = 1}, body, NULL);
    if (status) fuzz_check_refusal(status, FUZZ_FOLDER);
    return 0;
}
