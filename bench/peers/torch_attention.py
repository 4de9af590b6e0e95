#!/usr/bin/env python3
"""torch_attention.py: causal attention through PyTorch, by cuDNN's and by FlashAttention's kernels, forward and backward,
bf16. One JSON object a line. FLOPs are counted as bench/attention.c does: of the pairs that are seen, 4 d forward and
8 d backward."""

import json
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

SECONDS = 0.3


def rate(run, flops):
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    start, turns = time.perf_counter(), 0
    while True:
        for _ in range(4):
            run()
        turns += 4
        torch.cuda.synchronize()
        passed = time.perf_counter() - start
        if passed > SECONDS:
            return flops * turns / passed / 1e12


def measure(backend, heads, kv_heads, d, seq):
    def make(n):
        return torch.randn(1, n, seq, d, device="cuda", dtype=torch.bfloat16, requires_grad=True)

    q, k, v = make(heads), make(kv_heads), make(kv_heads)
    pairs = heads * seq * (seq + 1) / 2

    def forward():
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=heads != kv_heads)

    with sdpa_kernel(backend):
        with torch.no_grad():
            there = rate(forward, 4 * d * pairs)
        o = forward()
        g = torch.randn_like(o)
        back = rate(lambda: torch.autograd.grad(o, (q, k, v), g, retain_graph=True), 8 * d * pairs)
    return there, back


for name, backend in (("cudnn", SDPBackend.CUDNN_ATTENTION), ("flash", SDPBackend.FLASH_ATTENTION)):
    for heads, kv_heads, d in ((32, 32, 128), (16, 8, 128), (32, 32, 64)):
        for seq in (2048, 8192, 32768):
            line = {"whose": "torch " + torch.__version__, "backend": name, "heads": heads, "kv_heads": kv_heads,
                    "head_dim": d, "seq": seq}
            try:
                there, back = measure(backend, heads, kv_heads, d, seq)
                line.update(forward_tflops=there, backward_tflops=back)
            except RuntimeError as error:
                line["refused"] = str(error).splitlines()[0][:200]
            print(json.dumps(line), flush=True)
