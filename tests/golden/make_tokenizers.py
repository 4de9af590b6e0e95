#!/usr/bin/env python3
"""make_tokenizers.py: small tokenizers with the pipelines of known models, and what the reference makes of a hard text.

    pip install tokenizers==0.23.3
    python tests/golden/make_tokenizers.py --text TEXT... [--out tests/golden/tokenizer] [--tokens 800]

Writes NAME.json (a tokenizer.json), cases.json (texts) and NAME.ids.json: for each text its ids without and with the
special tokens around it, with special tokens' names read as text, and the text that the ids decode to, whole and without
special tokens. The library's own answers are all that is tested against; nothing here knows how they come about."""

import argparse
import json
import pathlib

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]

CASES = [
    "",
    " ",
    "a",
    "Hello, world!",
    "  two  spaces, three   spaces,    four; a tab\tand\t\ttwo; trailing   ",
    "line\nline\r\nline\n\n\nline\r\r\n \n  \n\tindented\n    four\n",
    "I'm you're HE'LL we'Ve it'S they'd'd 'tis don't\u2019t 'ſ o'clock",
    "0 12 345 6789 12345678901 3.14159 1,000,000 1e-5 0x1F ½ ² ³ ٣٤٥ १२३ 一二三 Ⅷ ①②③",
    "for (int i = 0; i < n; i++) {\n    x[i] += a[i] * b[i]; // fused?\n}\n#define MAX(a, b) ((a) > (b) ? (a) : (b))\n",
    "<s>begin</s> <|endoftext|><|begin_of_text|>text<|end_of_text|> <|im_start|>user\nhi<|im_end|>\n<unk> <s",
    "Café naïve Zürich Straße ŒUVRE İstanbul ıslak ǅ ﬁne ﬂow ʼn ẞ Å Å Å",
    "e\u0301 o\u0308\u0323 a\u0300\u0301\u0302\u0303 \u0301lone Z\u0337\u0321\u0336a\u0358l\u0322g\u0335o \u1e69 s\u0323\u0307 s\u0307\u0323",
    "Ελληνικά: ΟΔΟΣ ὈΔΟΣ ᾳ Ὅ. Русский: Ёлка съел подъезд. Українська: їжак. Ქართული ქართული. Հայերեն",
    "العربية: مُحَمَّد، ٱللَّٰهُ ١٢٣؟ עברית: שָׁלוֹם, בְּרֵאשִׁית־בָּרָא \u200fRTL\u200e",
    "हिन्दी: क्षत्रिय, नमस्ते दुनिया। বাংলা: বাংলাদেশ తెలుగు: తెలుగు தமிழ்: தமிழ் ภาษาไทย: สวัสดีครับ น้ำ ລາວ မြန်မာ ខ្មែរ",
    "中文：你好，世界！《红楼梦》。日本語：カタカナ、ひらがな、ｶﾞ、が、か\u3099。한국어: 안녕하세요, \u1112\u1161\u11ab\u1100\u1173\u11af. 𠀀𠮷 龍龜",
    "😀😃 👩‍👩‍👧‍👦 👩🏽‍🚀 🏳️‍🌈 🇩🇪🇫🇷🇯🇵 ❤️ ☃︎ 1️⃣ 🤷🏻‍♀️",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝒎𝒂𝒕𝒉 𝟘𝟙𝟚 ∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, ∑ᵢ₌₁ⁿ xᵢ² ≤ ∞ ℵ₀ K Å Ω μ µ",
    "white:\u00a0\u1680\u2002\u2003\u2009\u200b\u2028\u2029\u202f\u205f\u3000\u0085\u000b\u000c\u180e\ufeff|\u001c\u001f end",
    "private \ue000\uf8ff \U000f0000 unassigned \u0378 \U0001fbff noncharacter \ufffe \U0010ffff control \u0001\u007f\u009f \ufffd",
    "▁already▁there ▁▁ Ġbyte Ċlevel ĠĠ <0x41> <0xE2>",
    "a" * 50 + " " * 40 + "\n" * 20 + "=" * 33 + "ab" * 40 + "\t" * 9 + "。" * 12,
    "supercalifragilisticexpialidocious Donaudampfschifffahrtsgesellschaftskapitän antidisestablishmentarianism",
    "ROMEO:\nBut, soft! what light through yonder window breaks?\nIt is the east, and Juliet is the sun.\n\nJULIET:\nAy me!",
    "https://example.org/a/b?c=d&e=%20#f user.name+tag@mail.example C:\\path\\file.txt ~/.config $HOME 100% #tag @name",
    " <extra> [MASK]  [MASK]\n\n x[MASK]y wordword word, MiXeD mixed MIXED\tword",
]


def byte_level(pattern, prefix_space=False):
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)
    return pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=False)]
    )


def train(tokenizer, texts, tokens, special, alphabet=(), longest=None):
    trainer = trainers.BpeTrainer(
        vocab_size=tokens,
        special_tokens=special,
        initial_alphabet=list(alphabet),
        limit_alphabet=400,
        max_token_length=longest,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)


def all_merges(vocab, kept):
    """Every pair that makes a token, in the order of the tokens: what converters from tiktoken and SentencePiece write."""
    merges = []
    for token, rank in sorted(((a + b, rank) for rank, (a, b) in enumerate(kept)), key=lambda item: item[1]):
        parts = [(token[:i], token[i:]) for i in range(1, len(token))]
        parts = [(a, b) for a, b in parts if a in vocab and b in vocab]
        merges += sorted(parts, key=lambda part: (vocab[part[0]], vocab[part[1]]))
    return list(dict.fromkeys(merges))


def as_json(tokenizer, converted=False, text_merges=False):
    data = json.loads(tokenizer.to_str())
    model = data["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    if converted:
        merges = all_merges(model["vocab"], merges)
    model["merges"] = [" ".join(merge) for merge in merges] if text_merges else merges
    return data


def gpt2(texts, tokens):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    train(t, texts, tokens, ["<|endoftext|>"], pre_tokenizers.ByteLevel.alphabet())
    return as_json(t, text_merges=True)


def llama3(texts, tokens):
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = byte_level(LLAMA3)
    t.decoder = decoders.ByteLevel()
    train(t, texts, tokens, [], pre_tokenizers.ByteLevel.alphabet())
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    t.add_special_tokens(special + [f"<|reserved_special_token_{i}|>" for i in range(8)])
    begin = t.token_to_id(special[0])
    t.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{special[0]} $A", pair=f"{special[0]} $A {special[0]}:1 $B:1", special_tokens=[(special[0], begin)]
            ),
        ]
    )
    return as_json(t, converted=True)


def qwen2(texts, tokens):
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = byte_level(QWEN2)
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    train(t, texts, tokens, [], pre_tokenizers.ByteLevel.alphabet())
    t.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    t.add_tokens([AddedToken("<extra>", normalized=False)])
    return as_json(t)


def gpt4o(texts, tokens):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = byte_level(GPT4O, prefix_space=True)
    t.decoder = decoders.ByteLevel()
    train(t, texts, tokens, ["<|endoftext|>"], pre_tokenizers.ByteLevel.alphabet())
    return as_json(t, converted=True)


def sentencepiece(texts, tokens, crossing=False):
    """A BPE of SentencePiece's kind. crossing: tokens reach over spaces, as no model's do that we know."""
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Replace(" ", "▁")
    t.pre_tokenizer = None if crossing else pre_tokenizers.Metaspace(prepend_scheme="always")
    train(t, texts, tokens, ["<unk>", "<s>", "</s>"] + BYTES, longest=12)
    return t


def finish_sentencepiece(t, legacy):
    t.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", t.token_to_id("<s>"))]
    )
    data = as_json(t, converted=True, text_merges=legacy)
    data["added_tokens"] = data["added_tokens"][:3]
    return data


def llama2(texts, tokens, crossing=False):
    t = sentencepiece(texts, tokens, crossing)
    t.pre_tokenizer = None
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return finish_sentencepiece(t, legacy=True)


def mistral(texts, tokens, scheme="first", split=False):
    t = sentencepiece(texts, tokens)
    t.normalizer = None
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    first = [decoders.Metaspace(prepend_scheme=scheme)] if split else [decoders.Replace("▁", " ")]
    rest = [] if split else [decoders.Strip(" ", 1, 0)]
    t.decoder = decoders.Sequence(first + [decoders.ByteFallback(), decoders.Fuse()] + rest)
    return finish_sentencepiece(t, legacy=False)


def parts(texts, tokens):
    """What the models above do not use, in one pipeline."""
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=False))
    t.normalizer = normalizers.Sequence(
        [
            normalizers.Strip(),
            normalizers.NFKD(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\s{2,}"), " "),
            normalizers.NFKC(),
        ]
    )
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(behavior="merged_with_previous"),
            pre_tokenizers.Digits(individual_digits=False),
            pre_tokenizers.Split("w", behavior="merged_with_next"),
            pre_tokenizers.Split(Regex("x+|y"), behavior="removed"),
            pre_tokenizers.Split(Regex(r"\w+"), behavior="contiguous", invert=True),
        ]
    )
    train(t, texts, tokens, ["<unk>"])
    t.add_special_tokens([AddedToken("[MASK]", lstrip=True, rstrip=True, special=True)])
    t.add_tokens([AddedToken("word", single_word=True, normalized=False), AddedToken("MiXeD", normalized=True)])
    return as_json(t)


PIPELINES = {
    "gpt2": gpt2,
    "llama3": llama3,
    "qwen2": qwen2,
    "gpt4o": gpt4o,
    "llama2": llama2,
    "crossing": lambda texts, tokens: llama2(texts, tokens, crossing=True),
    "mistral": mistral,
    "metaspace": lambda texts, tokens: mistral(texts, tokens, scheme="always", split=True),
    "parts": parts,
}


def answers(tokenizer):
    def ids(text, special):
        return tokenizer.encode(text, add_special_tokens=special).ids

    out = {"plain": [ids(text, False) for text in CASES], "special": [ids(text, True) for text in CASES]}
    tokenizer.encode_special_tokens = True
    out["as_text"] = [ids(text, False) for text in CASES]
    tokenizer.encode_special_tokens = False
    for name, skip in (("decoded", False), ("skipped", True)):
        out[name] = [tokenizer.decode(case, skip_special_tokens=skip) for case in out["special"]]
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", nargs="+", required=True, help="what the tokenizers learn from")
    parser.add_argument("--out", default=str(pathlib.Path(__file__).parent / "tokenizer"))
    parser.add_argument("--tokens", type=int, default=800)
    given = parser.parse_args()
    out = pathlib.Path(given.out)
    texts = []
    for path in given.text:
        texts += pathlib.Path(path).read_text(encoding="utf-8", errors="replace")[: 1 << 27].splitlines(keepends=True)
    texts += CASES * 20
    for name, make in PIPELINES.items():
        data = make(texts, given.tokens)
        (out / f"{name}.json").write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n")
        tokenizer = Tokenizer.from_str(json.dumps(data))
        (out / f"{name}.ids.json").write_text(json.dumps(answers(tokenizer), separators=(",", ":")) + "\n")
        print(name, tokenizer.get_vocab_size(), "tokens")
    (out / "cases.json").write_text(json.dumps(CASES, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
