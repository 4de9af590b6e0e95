#!/usr/bin/env python3
"""torch_train.py: the training step of a Llama in plain PyTorch, for the same machine and the same model.

    bench/peers/torch_train.py --model config.json --seq 8192 --recompute none --steps 3 --compile

scaled_dot_product_attention, fused AdamW, and the blocks by torch.compile with --compile. State as meshfold keeps it: f32 weights,
gradients and moments, and bf16 weights to compute with. The last line is one JSON object."""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        h, d = c["hidden_size"], c["hidden_size"] // c["num_attention_heads"]
        self.heads, self.kv_heads, self.d, self.eps = c["num_attention_heads"], c["num_key_value_heads"], d, c["rms_norm_eps"]
        self.q = nn.Linear(h, self.heads * d, bias=False)
        self.kv = nn.Linear(h, 2 * self.kv_heads * d, bias=False)
        self.o = nn.Linear(self.heads * d, h, bias=False)
        self.gate_up = nn.Linear(h, 2 * c["intermediate_size"], bias=False)
        self.down = nn.Linear(c["intermediate_size"], h, bias=False)
        self.norms = nn.ParameterList([nn.Parameter(torch.ones(h)) for _ in range(2)])

    def forward(self, x, cos, sin):
        b, s, h = x.shape
        n = F.rms_norm(x, (h,), self.norms[0].to(x.dtype), self.eps)
        q = self.q(n).view(b, s, self.heads, self.d).transpose(1, 2)
        k, v = self.kv(n).view(b, s, 2, self.kv_heads, self.d).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(turn(q, cos, sin), turn(k, cos, sin), v, is_causal=True, enable_gqa=True)
        x = x + self.o(a.transpose(1, 2).reshape(b, s, -1))
        gate, up = self.gate_up(F.rms_norm(x, (h,), self.norms[1].to(x.dtype), self.eps)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


def turn(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Llama(nn.Module):
    def __init__(self, c, recompute):
        super().__init__()
        self.c, self.recompute = c, recompute
        self.embed = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.blocks = nn.ModuleList([Block(c) for _ in range(c["num_hidden_layers"])])
        self.norm = nn.Parameter(torch.ones(c["hidden_size"]))
        self.head = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)

    def forward(self, ids, labels):
        d = self.c["hidden_size"] // self.c["num_attention_heads"]
        rates = self.c["rope_theta"] ** (-torch.arange(0, d, 2, device=ids.device).float() / d)
        angles = torch.arange(ids.shape[1], device=ids.device).float()[:, None] * rates
        x = self.embed(ids)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for block in self.blocks:
            x = checkpoint(block, x, cos, sin, use_reentrant=False) if self.recompute else block(x, cos, sin)
        x = F.rms_norm(x, (x.shape[-1],), self.norm.to(x.dtype), self.c["rms_norm_eps"])
        # A few thousand rows at a time: logits of a long sequence are larger than the model.
        losses = [
            checkpoint(self.loss, rows, wanted, use_reentrant=False)
            for rows, wanted in zip(x[0].split(4096), labels[0].split(4096))
        ]
        return sum(losses) / labels.numel()

    def loss(self, rows, wanted):
        return F.cross_entropy(self.head(rows).float(), wanted, reduction="sum")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--model", required=True)
    p.add_argument("--seq", type=int, required=True)
    p.add_argument("--recompute", choices=("none", "block"), default="none")
    p.add_argument("--steps", type=int, default=3)
    p.add_argument("--compile", action="store_true")
    a = p.parse_args()
    with open(a.model) as f:
        config = json.load(f)
    torch.manual_seed(1)
    with torch.device("cuda"):
        model = Llama(config, a.recompute == "block")
        ids = torch.randint(config["vocab_size"], (1, a.seq + 1))
    torch.nn.init.normal_(model.embed.weight, std=0.02)
    masters = [q.detach().clone() for q in model.parameters()]
    for q in masters:
        q.grad = torch.zeros_like(q)
    model = model.to(torch.bfloat16)
    optimizer = torch.optim.AdamW(masters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    weights = list(model.parameters())
    if a.compile:
        for block in model.blocks:  # of one kind: compiled once
            block.compile()

    def step():
        loss = model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        torch._foreach_copy_([m.grad for m in masters], [w.grad for w in weights])
        for w in weights:
            w.grad = None
        torch.nn.utils.clip_grad_norm_(masters, 1.0, foreach=True)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(weights, masters)
        return loss

    times = []
    for _ in range(a.steps + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        loss = step()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    times = times[2:]
    print(json.dumps({
        "whose": "torch " + torch.__version__, "compile": a.compile, "seq": a.seq, "recompute": a.recompute,
        "params": sum(w.numel() for w in weights), "step_s": statistics.median(times), "steps": times,
        "tokens_per_s": a.seq / statistics.median(times), "peak_bytes": torch.cuda.max_memory_allocated(),
        "loss": loss.item(), "gpu": torch.cuda.get_device_name(),
    }))


main()
