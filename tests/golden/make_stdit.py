#!/usr/bin/env python3
"""Makes tests/golden/stdit: small random models of videos as the program reads them, and what they compute.

    python3 make_stdit.py            writes the folders beside this file

Each folder holds config.json, model.safetensors, and golden.safetensors, all f32: input, target and velocity
[batch, tokens, values], time [batch], condition [batch, condition tokens, channels] where there is one, loss [1] (the
mean squared error of the velocities), and the loss's gradient in each parameter, grad.NAME. Computed in f64 from the
weights and inputs as saved. Needs torch and safetensors (written with 2.15 and 0.8).
"""

import json
import math
import pathlib

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

HERE = pathlib.Path(__file__).parent / "stdit"
TIME_FEATURES = 256

# Batch, and the weights' type; everything else as config.json says it.
MODELS = {
    "plain": (2, torch.float32, dict(
        hidden_size=10, num_hidden_layers=2, num_attention_heads=5, intermediate_size=7, sample_frames=3,
        sample_height=4, sample_width=10, in_channels=3, patch_size=2, mlp_gated=False)),
    "conditioned": (2, torch.bfloat16, dict(
        hidden_size=8, num_hidden_layers=4, num_attention_heads=4, head_dim=3, intermediate_size=13, sample_frames=5,
        sample_height=2, sample_width=3, in_channels=2, patch_size=1, condition_tokens=5, condition_channels=7,
        mlp_gated=True)),
}


def waves(positions, width):
    """[n] to [n, width]: cosines, then sines, of frequencies 10000 ** (-2 i / width)."""
    half = width // 2
    frequency = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float64) / half)
    angle = positions.double()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def grid_positions(frames, rows, columns, hidden):
    """[frames, rows * columns, hidden]: a quarter of it says the frame, the rest row and column."""
    of_frame = hidden // 4 // 2 * 2
    of_row = (hidden - of_frame) // 4 * 2
    of_column = hidden - of_frame - of_row
    t, y, x = torch.meshgrid(*map(torch.arange, (frames, rows, columns)), indexing="ij")
    parts = [waves(t.flatten(), of_frame), waves(y.flatten(), of_row), waves(x.flatten(), of_column)]
    return torch.cat(parts, dim=1).view(frames, rows * columns, hidden)


def modulated(x, shift, scale, eps):
    """x: [batch, frames, places, hidden]; shift, scale: [batch, hidden]."""
    return F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scale[:, None, None]) + shift[:, None, None]


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, inner = c["num_attention_heads"], c["num_attention_heads"] * c["head_dim"]
        self.q_proj = nn.Linear(c["hidden_size"], inner, bias=False)
        self.k_proj = nn.Linear(c["hidden_size"], inner, bias=False)
        self.v_proj = nn.Linear(c["hidden_size"], inner, bias=False)
        self.o_proj = nn.Linear(inner, c["hidden_size"], bias=False)

    def forward(self, x, seen):
        """x: [..., queries, hidden], seen: [..., keys, hidden]; every query sees every key."""
        q, k, v = (p(y).unflatten(-1, (self.heads, -1)).transpose(-2, -3)
                   for p, y in ((self.q_proj, x), (self.k_proj, seen), (self.v_proj, seen)))
        weight = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)
        return self.o_proj((weight @ v).transpose(-2, -3).flatten(-2))


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        if c["mlp_gated"]:
            self.gate_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.up_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.down_proj = nn.Linear(c["intermediate_size"], c["hidden_size"], bias=False)

    def forward(self, x):
        if hasattr(self, "gate_proj"):
            return self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))
        return self.down_proj(F.gelu(self.up_proj(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, c, over_frames):
        super().__init__()
        self.over_frames, self.eps = over_frames, c["layer_norm_eps"]
        self.self_attn = Attention(c)
        if c["condition_tokens"]:
            self.cross_attn = Attention(c)
        self.mlp = Mlp(c)
        self.scale_shift_table = nn.Parameter(torch.empty(6, c["hidden_size"]))

    def forward(self, x, modulation, condition):
        """x: [batch, frames, places, hidden], modulation: [batch, 6, hidden], condition: [batch, tokens, hidden]."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (self.scale_shift_table + modulation).unbind(1)
        n = modulated(x, shift, scale, self.eps)
        if self.over_frames:
            n = n.transpose(1, 2)
        a = self.self_attn(n, n)
        if self.over_frames:
            a = a.transpose(1, 2)
        x = x + gate[:, None, None] * a
        if condition is not None:
            x = x + self.cross_attn(x, condition[:, None])
        return x + mlp_gate[:, None, None] * self.mlp(modulated(x, mlp_shift, mlp_scale, self.eps))


def named(**modules):
    return nn.ModuleDict(modules)


class SpatialTemporalTransformer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c, h = c, c["hidden_size"]
        values = c["patch_size"] ** 2 * c["in_channels"]
        self.patch_embed = named(proj=nn.Linear(values, h))
        self.time_embedder = named(linear_1=nn.Linear(TIME_FEATURES, h), linear_2=nn.Linear(h, h))
        self.time_modulation = named(linear=nn.Linear(h, 6 * h))
        if c["condition_tokens"]:
            self.condition_embedder = named(linear=nn.Linear(c["condition_channels"], h))
        self.model = named(layers=nn.ModuleList(Block(c, i % 2 == 1) for i in range(c["num_hidden_layers"])))
        self.scale_shift_table = nn.Parameter(torch.empty(2, h))
        self.proj_out = nn.Linear(h, values)

    def forward(self, patches, time, condition):
        """patches: [batch, tokens, values], time: [batch], condition: [batch, tokens, channels] or None."""
        c, p = self.c, self.c["patch_size"]
        grid = c["sample_frames"], c["sample_height"] // p, c["sample_width"] // p
        clips = patches.unflatten(1, (grid[0], -1))
        x = self.patch_embed["proj"](clips) + grid_positions(*grid, c["hidden_size"])
        embedded = self.time_embedder["linear_1"](waves(1000 * time, TIME_FEATURES))
        embedded = self.time_embedder["linear_2"](F.silu(embedded))
        modulation = self.time_modulation["linear"](F.silu(embedded)).unflatten(1, (6, -1))
        if condition is not None:
            condition = self.condition_embedder["linear"](condition)
        for block in self.model["layers"]:
            x = block(x, modulation, condition)
        shift, scale = (self.scale_shift_table + embedded[:, None]).unbind(1)
        return self.proj_out(modulated(x, shift, scale, c["layer_norm_eps"])).flatten(1, 2)


def whole_config(sizes, dtype):
    defaults = dict(head_dim=sizes["hidden_size"] // sizes["num_attention_heads"], condition_tokens=0,
                    condition_channels=0, layer_norm_eps=1e-5, initializer_range=0.02)
    return dict(architectures=["SpatialTemporalTransformer"], model_type="stdit",
                torch_dtype=str(dtype).removeprefix("torch."), hidden_act="gelu_pytorch_tanh") | defaults | sizes


def scatter(model, dtype):
    """Far from the initial values, whose zeros would hide mistakes; as the file will have them."""
    for p in model.parameters():
        deviation = 0.3 if p.dim() == 1 else 0.5 / math.sqrt(p.shape[1])
        p.data = (deviation * torch.randn(p.shape)).to(dtype).double()


def random_input(c, batch):
    tokens = c["sample_frames"] * c["sample_height"] * c["sample_width"] // c["patch_size"] ** 2
    values = c["patch_size"] ** 2 * c["in_channels"]
    out = {name: torch.randn(batch, tokens, values) for name in ("input", "target")}
    out["time"] = torch.rand(batch)
    if c["condition_tokens"]:
        out["condition"] = torch.randn(batch, c["condition_tokens"], c["condition_channels"])
    return out


def golden(model, given):
    condition = given["condition"].double() if "condition" in given else None
    velocity = model(given["input"].double(), given["time"].double(), condition)
    loss = F.mse_loss(velocity, given["target"].double())
    loss.backward()
    found = {"velocity": velocity.detach(), "loss": loss.detach()[None]}
    found.update({"grad." + name: p.grad for name, p in model.named_parameters()})
    return {name: value.float().contiguous() for name, value in (given | found).items()}


def make(name):
    batch, dtype, sizes = MODELS[name]
    config = whole_config(sizes, dtype)
    folder = HERE / name
    torch.manual_seed(5)
    model = SpatialTemporalTransformer(config)
    scatter(model, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    written = {k: v for k, v in config.items() if v or k not in ("condition_tokens", "condition_channels")}
    (folder / "config.json").write_text(json.dumps(written, indent=2) + "\n")
    save_file({n: p.data.to(dtype) for n, p in model.named_parameters()}, folder / "model.safetensors")
    save_file(golden(model, random_input(config, batch)), folder / "golden.safetensors")
    for file in folder.iterdir():
        file.chmod(0o644)


for each in MODELS:
    make(each)
