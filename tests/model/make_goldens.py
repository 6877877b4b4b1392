# SPDX-License-Identifier: Apache-2.0
"""Reference logits and greedy tokens of small random models of every family, computed by Hugging Face transformers.

    python3 make_goldens.py OUT_DIR          needs torch and transformers 5

Writes <name>.json (config, tensor names and shapes as transformers has them, prompt, 64 greedy tokens), <name>.f32
(logits of those 64 steps, fp32 [64][vocab]) and <name>.rounded.f32: logits behind every token of the prompt, fp32
[40][vocab], with the inputs of every linear layer and of attention rounded to bf16. That is our precision, so only the
order of sums differs there.
Weights are no part of it: both sides compute them from the tensor's name, see weight_values() here and in
golden_models.cpp. They are bf16 values; transformers computes with them in fp32.
saved/ is a tiny model exactly as transformers writes it: sharded, configuration in the new schema.
"""
import json
import os
import sys
import tempfile

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

PROMPT, STEPS, VOCAB = 40, 64, 160
CONTEXT = PROMPT + STEPS

SMALL = dict(hidden_size=96, intermediate_size=176, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
             vocab_size=VOCAB, max_position_embeddings=128, rms_norm_eps=1e-5, hidden_act="silu", bos_token_id=1,
             eos_token_id=2, tie_word_embeddings=False)


def config(model_type, architecture, **changes):
    return dict(SMALL, model_type=model_type, architectures=[architecture], **{"torch_dtype": "bfloat16", **changes})


def llama(**changes):
    return config("llama", "LlamaForCausalLM", **changes)


def old_rope(kind, **keys):
    return dict(rope_theta=10000.0, rope_scaling=dict(type=kind, **keys))


MODELS = {
    "llama_mha": llama(num_key_value_heads=6, rope_theta=10000.0, rope_scaling=None),
    "llama_tied": llama(tie_word_embeddings=True, num_hidden_layers=2, rope_theta=500000.0, num_key_value_heads=None, num_attention_heads=4,
                        hidden_size=128),
    "llama_bias": llama(attention_bias=True, mlp_bias=True, rope_theta=10000.0),
    "llama_linear": llama(**old_rope("linear", factor=4.0)),
    "llama_dynamic": llama(max_position_embeddings=64, **old_rope("dynamic", factor=2.0)),
    "llama_yarn": llama(max_position_embeddings=128, torch_dtype=None, dtype="bfloat16",
                        rope_parameters=dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, beta_fast=24.0,
                                             beta_slow=2.0, original_max_position_embeddings=32, truncate=False)),
    "llama_yarn_mscale": llama(max_position_embeddings=128,
                               **old_rope("yarn", factor=4.0, original_max_position_embeddings=32, mscale=0.8,
                                          mscale_all_dim=0.4)),
    "llama3": llama(torch_dtype=None, dtype="bfloat16", head_dim=32, eos_token_id=[2, 3],
                    rope_parameters=dict(rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0,
                                         high_freq_factor=4.0, original_max_position_embeddings=32)),
    "mistral": config("mistral", "MistralForCausalLM", sliding_window=None, head_dim=32, rope_theta=1e6),
    "mistral_window": config("mistral", "MistralForCausalLM", sliding_window=13, rope_theta=10000.0),
    "qwen2": config("qwen2", "Qwen2ForCausalLM", tie_word_embeddings=True, num_hidden_layers=2, rope_theta=1e6,
                    use_sliding_window=False, sliding_window=24, max_window_layers=2),
    "qwen2_window": config("qwen2", "Qwen2ForCausalLM", rope_theta=1e6, use_sliding_window=True, sliding_window=24,
                           max_window_layers=1),
    "qwen2_yarn": config("qwen2", "Qwen2ForCausalLM", rope_theta=1e4, use_sliding_window=False,
                         rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32)),
    "qwen3": config("qwen3", "Qwen3ForCausalLM", head_dim=24, rope_theta=1e6, tie_word_embeddings=True,
                    num_hidden_layers=2, attention_bias=False),
    "qwen3_layer_types": config("qwen3", "Qwen3ForCausalLM", head_dim=32, rope_theta=1e6, use_sliding_window=True,
                                sliding_window=20, max_window_layers=0,
                                layer_types=["full_attention", "sliding_attention", "full_attention"]),
}


def fnv1a(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def weight_values(name, shape, embedding_scale):
    """splitmix64 of (name, index) as a uniform number in [-1, 1), scaled by role, rounded to bf16."""
    count = int(np.prod(shape))
    with np.errstate(over="ignore"):
        x = np.uint64(fnv1a(name)) + (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    uniform = (x >> np.uint64(40)).astype(np.float64) / 2.0**23 - 1.0
    if name.endswith("norm.weight"):
        values = 1.0 + 0.25 * uniform
    elif name.endswith(".bias"):
        values = 0.25 * uniform
    elif "embed_tokens" in name:
        values = embedding_scale * uniform
    else:
        values = uniform * (3.0 / shape[-1]) ** 0.5
    return torch.from_numpy(values.astype(np.float32).reshape(shape)).to(torch.bfloat16).to(torch.float32)


def embedding_scale(settings):
    """Large: layers change the residual stream moderately, as in trained models. A tied model would then repeat its
    last token for ever, so there the layers outweigh the embedding, and rounding shows more."""
    return 0.06 if settings["tie_word_embeddings"] else 0.4


def build(settings):
    settings = {key: value for key, value in settings.items() if key not in ("torch_dtype", "dtype") or value}
    if settings["num_key_value_heads"] is None:
        del settings["num_key_value_heads"]
    with tempfile.TemporaryDirectory() as directory:
        with open(os.path.join(directory, "config.json"), "w") as out:
            json.dump(settings, out)
        loaded = AutoConfig.from_pretrained(directory)
    model = AutoModelForCausalLM.from_config(loaded, attn_implementation="eager", dtype=torch.float32).eval()
    tensors = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # a tied head is not listed twice
            parameter.copy_(weight_values(name, tuple(parameter.shape), embedding_scale(settings)))
            tensors[name] = list(parameter.shape)
    return settings, model, tensors


def greedy(model, prompt, pad_to):
    """Without a cache: every step sees the whole sequence, padded behind (causal, so invisible) where RoPE depends on
    the length."""
    tokens, rows = list(prompt), []
    with torch.no_grad():
        for _ in range(STEPS):
            ids = tokens + [0] * (pad_to - len(tokens))
            row = model(torch.tensor([ids]), use_cache=False).logits[0, len(tokens) - 1]
            rows.append(row.numpy().astype(np.float32))
            tokens.append(int(row.argmax()))
    return tokens[len(prompt):], np.stack(rows)


def rounded_logits(model, tokens, pad_to):
    """Logits behind every token of the prompt with bf16 inputs to every product; model is changed."""
    def to_bf16(x):
        return x.to(torch.bfloat16).to(torch.float32)

    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, args: (to_bf16(args[0]),))
    modeling = sys.modules[type(model).__module__]
    plain = modeling.eager_attention_forward
    modeling.eager_attention_forward = lambda module, q, k, v, *args, **keys: plain(
        module, to_bf16(q), to_bf16(k), to_bf16(v), *args, **keys)
    with torch.no_grad():
        logits = model(torch.tensor([tokens + [0] * (pad_to - len(tokens))]), use_cache=False).logits[0]
    modeling.eager_attention_forward = plain
    return logits[:PROMPT].numpy().astype(np.float32)


def main(out):
    os.makedirs(out, exist_ok=True)
    for index, (name, settings) in enumerate(MODELS.items()):
        prompt = [int(t) for t in np.random.default_rng(index).integers(3, VOCAB, PROMPT)]
        settings, model, tensors = build(settings)
        tokens, logits = greedy(model, prompt, CONTEXT if name == "llama_dynamic" else 0)
        top2 = np.sort(logits, axis=1)[:, -2:]
        print(f"{name:20} {len(set(tokens)):3} distinct tokens, rms logit {logits.std():.2f}, "
              f"median margin {np.median(top2[:, 1] - top2[:, 0]):.3f}", flush=True)
        logits.tofile(os.path.join(out, name + ".f32"))
        rounded = rounded_logits(model, prompt + tokens, CONTEXT if name == "llama_dynamic" else 0)
        rounded.tofile(os.path.join(out, name + ".rounded.f32"))
        with open(os.path.join(out, name + ".json"), "w") as file:
            json.dump(dict(config=settings, tensors=tensors, max_context=CONTEXT, prompt=prompt, tokens=tokens), file)
            file.write("\n")
        if name == "qwen2":
            save_as_is(out)


def save_as_is(out):
    settings = dict(MODELS["qwen2"], hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                    tie_word_embeddings=False)
    _, model, _ = build(settings)
    prompt = [int(t) for t in np.random.default_rng(99).integers(3, VOCAB, PROMPT)]
    tokens, logits = greedy(model, prompt, 0)
    logits.tofile(os.path.join(out, "saved.f32"))
    rounded_logits(model, prompt + tokens, 0).tofile(os.path.join(out, "saved.rounded.f32"))
    with open(os.path.join(out, "saved.json"), "w") as file:
        json.dump(dict(max_context=CONTEXT, prompt=prompt, tokens=tokens), file)
        file.write("\n")
    model.generation_config.eos_token_id = [2, 5]
    model.to(torch.bfloat16).save_pretrained(os.path.join(out, "saved"), max_shard_size="20KB")  # last: it rounds RoPE


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
