# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face directory of a real model's shape with random bf16 weights, for measurements.

    make_model.py FOLDER [--shape NAME] [--layers N] [--seed N]

It has the tokenizer of the tiny model, so that most of the vocabulary has no text: give it prompts as tokens, and ignore_eos.
Sampled tokens are those of the tokenizer only, as for every model whose embedding is padded.
"""
import argparse
import json
import pathlib
import shutil

import numpy as np

TINY = pathlib.Path(__file__).resolve().parents[2] / "inputs" / "models" / "tiny-tasks"
QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_sliding_window": False, "rope_theta": 1000000.0}
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "mlp_bias": False, "rope_theta": 500000.0}
SHAPES = {  # family, hidden, intermediate, layers, heads, KV heads, head_dim, vocabulary
    "0.5B": (QWEN2, 896, 4864, 24, 14, 2, 64, 151936),  # Qwen2.5-0.5B
    "1B": (LLAMA, 2048, 8192, 16, 32, 8, 64, 128256),   # Llama-3.2-1B
    "8B": (LLAMA, 4096, 14336, 32, 32, 8, 128, 128256),  # Llama-3.1-8B
    "20M": (LLAMA, 512, 1536, 6, 8, 4, 64, 1024),       # fast enough for jobs of many answers
}
CHUNK = 1 << 24  # weights made at once


def config_of(shape, layers):
    family, hidden, intermediate, all_layers, heads, kv_heads, head_dim, vocab = SHAPES[shape]
    return {**family, "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers or all_layers,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim, "vocab_size": vocab,
            "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": shape != "8B",
            "torch_dtype": "bfloat16", "bos_token_id": 320, "eos_token_id": 323}


def tensors_of(config):
    """Names and shapes, as Hugging Face has them: rows are outputs."""
    hidden, intermediate = config["hidden_size"], config["intermediate_size"]
    q, kv = (config[f"num_{kind}_heads"] * config["head_dim"] for kind in ("attention", "key_value"))
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (hidden,)
        for name, rows in (("q", q), ("k", kv), ("v", kv)):
            yield prefix + f"self_attn.{name}_proj.weight", (rows, hidden)
            if config["model_type"] == "qwen2":
                yield prefix + f"self_attn.{name}_proj.bias", (rows,)
        yield prefix + "self_attn.o_proj.weight", (hidden, q)
        yield prefix + "post_attention_layernorm.weight", (hidden,)
        yield prefix + "mlp.gate_proj.weight", (intermediate, hidden)
        yield prefix + "mlp.up_proj.weight", (intermediate, hidden)
        yield prefix + "mlp.down_proj.weight", (hidden, intermediate)
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], hidden)


def random_weights(rng, count):
    """bf16 as bits: random sign and mantissa, one of four exponents; between 2^-8 and 2^-4 in size, 0.028 r.m.s."""
    bits = rng.integers(0, 1 << 64, size=(count + 3) // 4, dtype=np.uint64).view(np.uint16)[:count]
    sign = bits & np.uint16(0x8000)
    bits &= np.uint16(0x01FF)
    bits += np.uint16(119 << 7)
    return np.bitwise_or(bits, sign, out=bits)


def write_weights(path, config, seed):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    tensors = [(name, shape, int(np.prod(shape))) for name, shape in tensors_of(config)]
    for name, shape, count in tensors:
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + 2 * count]}
        offset += 2 * count
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(seed)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for name, _, count in tensors:
            for begin in range(0, count, CHUNK):
                part = min(CHUNK, count - begin)
                one = np.full(part, 0x3F80, np.uint16)  # 1.0: norms
                f.write((one if name.endswith("norm.weight") else random_weights(rng, part)).tobytes())


def make_model(folder, shape="0.5B", layers=None, seed=0):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(shape, layers)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, folder / name)
    write_weights(folder / "model.safetensors", config, seed)
    return folder


def main():
    options = argparse.ArgumentParser()
    options.add_argument("folder")
    options.add_argument("--shape", choices=SHAPES, default="0.5B")
    options.add_argument("--layers", type=int, help="fewer than the shape has")
    options.add_argument("--seed", type=int, default=0)
    options = options.parse_args()
    folder = make_model(options.folder, options.shape, options.layers, options.seed)
    print(f"{folder / 'model.safetensors'}: {(folder / 'model.safetensors').stat().st_size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
