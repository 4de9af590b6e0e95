/* attention.h: what the dry device and the tests ask of the CPU's attention beside its operations. */
#ifndef MF_CPU_ATTENTION_H
#define MF_CPU_ATTENTION_H

#include "device/cpu/cpu.h"

/* Workspace that a call needs, in bytes, from its sizes alone (chunks' rows; no data is read). It is one
 * buffer, kept between calls: a call that needs more frees it and takes a new one. */
size_t mf_cpu_attention_workspace(const mf_attention_args *args, int threads, bool backward);

/* Sets the type in which bf16 tiles are multiplied, which create chooses for the machine. MF_EUNSUPPORTED
 * where oneDNN has no products of bf16. */
mf_status mf_cpu_attention_set_products(mf_cpu_attention *attention, mf_dtype type);

#endif
