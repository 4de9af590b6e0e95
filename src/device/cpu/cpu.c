/* cpu.c: the CPU's operations table. */
#include "device/cpu/cpu.h"

static mf_status open_with(mf_device *device, bool dry) {
    mf_cpu *cpu = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *cpu, &cpu));
    device->state = cpu;
    MF_TRY(mf_cpu_gemms_create(device, dry, &cpu->gemms));
    MF_TRY(mf_cpu_widened_create(device, &cpu->widened));
    MF_TRY(mf_cpu_thin_create(device, &cpu->thin));
    MF_TRY(mf_cpu_attention_create(device, &cpu->attention));
    return MF_OK;
}

static mf_status cpu_open(mf_device *device) { return open_with(device, false); }

static mf_status open_dry(mf_device *device) { return open_with(device, true); }

static mf_status source(int number, mf_memory_source *out) {
    (void)number;
    *out = mf_memory_heap;
    return MF_OK;
}

static void cpu_close(mf_device *device) {
    mf_cpu *cpu = mf_cpu_of(device);
    if (!cpu) return;
    mf_cpu_attention_destroy(cpu->attention);
    mf_cpu_thin_destroy(cpu->thin);
    mf_cpu_widened_destroy(cpu->widened);
    mf_cpu_gemms_destroy(cpu->gemms);
    mf_host_free(cpu);
}

const mf_device_ops mf_device_cpu = {
    .name = "cpu",
    .open = cpu_open,
    .source = source,
    .close = cpu_close,
    .gemm = mf_cpu_gemm,
    .attention_forward = mf_cpu_attention_forward,
    .attention_backward = mf_cpu_attention_backward,
    .attention_delta = mf_cpu_attention_delta,
    .attention_merge = mf_cpu_attention_merge,
    .rmsnorm_forward = mf_cpu_rmsnorm_forward,
    .rmsnorm_backward = mf_cpu_rmsnorm_backward,
    .rope = mf_cpu_rope,
    .rope_table = mf_cpu_rope_table,
    .headnorm_forward = mf_cpu_headnorm_forward,
    .headnorm_backward = mf_cpu_headnorm_backward,
    .bias_forward = mf_cpu_bias_forward,
    .bias_backward = mf_cpu_bias_backward,
    .modulate_forward = mf_cpu_modulate_forward,
    .modulate_backward = mf_cpu_modulate_backward,
    .gate_scale = mf_cpu_gate_scale,
    .gate_add = mf_cpu_gate_add,
    .gate_grads = mf_cpu_gate_grads,
    .activation_forward = mf_cpu_activation_forward,
    .activation_backward = mf_cpu_activation_backward,
    .embed_forward = mf_cpu_embed_forward,
    .embed_backward = mf_cpu_embed_backward,
    .grid_embed = mf_cpu_grid_embed,
    .xent_begin = mf_cpu_xent_begin,
    .xent_update = mf_cpu_xent_update,
    .xent_merge = mf_cpu_xent_merge,
    .xent_grad = mf_cpu_xent_grad,
    .xent_loss = mf_cpu_xent_loss,
    .adamw = mf_cpu_adamw,
    .sum_squares = mf_cpu_sum_squares,
    .squared_error = mf_cpu_squared_error,
    .cast = mf_cpu_cast,
    .add = mf_cpu_add,
    .accumulate = mf_cpu_accumulate,
    .fill = mf_cpu_fill,
    .fill_normal = mf_cpu_fill_normal,
    .zero = mf_cpu_zero,
    .copy_rows = mf_cpu_copy_rows,
};

const mf_workspaces mf_cpu_workspaces = {
    .open = open_dry,
    .close = cpu_close,
    .gemm = mf_cpu_reserve_gemm,
    .attention = mf_cpu_reserve_attention,
    .attention_merge = mf_cpu_reserve_attention_merge,
    .rmsnorm_backward = mf_cpu_reserve_rmsnorm_backward,
    .headnorm_backward = mf_cpu_reserve_headnorm_backward,
    .modulate_backward = mf_cpu_reserve_modulate_backward,
};
