#!/usr/bin/env python3
"""Makes tests/golden/families: a small random model of each family as transformers saves it, and what it computes.

    python3 make_families.py            writes the folders beside this file
    python3 make_families.py DIR...     prints how far exported models' logits are from their family's golden ones

Each folder holds config.json, the weights in one file or several, and golden.safetensors, all f32: ids [batch, tokens],
logits [batch * tokens, vocab], loss [1] (the mean over all next tokens), and the norm of the loss's gradient in each
parameter. Needs torch and transformers (written with 2.15 and 5.23); everything is computed in f32 from the weights as
saved. The text of config.json is transformers' own, but for llama3, which is written the way older versions do.
"""

import json
import pathlib
import sys

import torch
import transformers as t
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).parent / "families"
SIZES = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=24,
             vocab_size=97, max_position_embeddings=64, initializer_range=0.3, rms_norm_eps=1e-5)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32, rope_theta=100.0)

FAMILIES = {
    "llama3": (t.LlamaConfig(**SIZES, head_dim=8, rope_parameters=LLAMA3), torch.float32, "1GB"),
    "llama_linear": (t.LlamaConfig(**SIZES, tie_word_embeddings=True, rope_parameters=dict(
        rope_type="linear", factor=4.0, rope_theta=10000.0)), torch.bfloat16, "1GB"),
    "mistral": (t.MistralConfig(**SIZES, head_dim=6, sliding_window=7), torch.float16, "4KB"),
    "qwen2": (t.Qwen2Config(**SIZES, tie_word_embeddings=True, use_sliding_window=True, sliding_window=5,
                            max_window_layers=1), torch.bfloat16, "3KB"),
    "qwen2_plain": (t.Qwen2Config(**SIZES), torch.float32, "1GB"),
    "qwen3": (t.Qwen3Config(**SIZES, head_dim=12), torch.float32, "8KB"),
    "qwen3_tied": (t.Qwen3Config(**SIZES, head_dim=8, tie_word_embeddings=True), torch.bfloat16, "1GB"),
}


def tokens(config):
    return torch.randint(0, config.vocab_size, (2, 26), generator=torch.Generator().manual_seed(4))


def scatter(model):
    """Norms of one and biases of zero would hide whose they are."""
    for name, p in model.named_parameters():
        if p.dim() == 1:
            p.data += 0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name)))


def golden(folder):
    model = t.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    ids = tokens(model.config)
    out = model(ids, labels=ids)
    out.loss.backward()
    values = {"ids": ids.float(), "logits": out.logits.detach().flatten(0, 1).contiguous(),
              "loss": out.loss.detach()[None]}
    values.update({"norm." + n: p.grad.norm()[None] for n, p in model.named_parameters()})
    return values


def old_style(path):
    """rope_theta beside rope_scaling, as transformers 4 wrote them."""
    config = json.loads(path.read_text())
    scaling = config.pop("rope_parameters")
    config["rope_theta"] = scaling.pop("rope_theta")
    config["rope_scaling"] = scaling
    path.write_text(json.dumps(config, indent=2) + "\n")


def make(name):
    config, dtype, shard = FAMILIES[name]
    torch.manual_seed(len(name))
    folder = HERE / name
    model = t.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    scatter(model)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    (folder / "generation_config.json").unlink(missing_ok=True)
    save_file(golden(folder), folder / "golden.safetensors")
    for file in folder.iterdir():
        file.chmod(0o644)
    if name == "llama3":
        old_style(folder / "config.json")
        assert torch.equal(golden(folder)["logits"], load_file(folder / "golden.safetensors")["logits"])


def check(folder):
    model = t.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    logits = model(tokens(model.config)).logits.detach().flatten(0, 1)
    want = load_file(HERE / pathlib.Path(folder).name / "golden.safetensors")["logits"]
    print(folder, type(model).__name__, "relative error", ((logits - want).norm() / want.norm()).item())


if len(sys.argv) > 1:
    for argument in sys.argv[1:]:
        check(argument)
else:
    for each in FAMILIES:
        make(each)
