/* bf16.c: in which type bf16 values are multiplied on this machine. */
#include "device/cpu/cpu.h"

#include <dnnl.h>

bool mf_cpu_has(unsigned isa) { return ((unsigned)dnnl_get_effective_cpu_isa() & isa) == isa; }

/* A product of two bf16 values is exact in f32, so widening changes speed only. On the Intel reference
 * machine, without AMX, bf16 products ran at half the rate of f32 ones; other makers' are assumed, not
 * measured, to be faster. */
mf_dtype mf_cpu_bf16_products(void) {
    bool intel = false;
#if defined(__x86_64__)
    intel = __builtin_cpu_is("intel");
#endif
    if (mf_cpu_has(dnnl_cpu_isa_avx512_core_amx)) return MF_BF16;
    return !intel && mf_cpu_has(dnnl_cpu_isa_avx512_core_bf16) ? MF_BF16 : MF_F32;
}
