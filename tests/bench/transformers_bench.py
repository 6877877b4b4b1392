#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""transformers' continuous batching on one GPU, the job of offline_bench: random weights of Llama-3.1-8B's shape, the same requests.

    transformers_bench.py [--input N] [--output N] [--requests N] [--layers N] [--attention NAME]

Prints Markdown. Weights of a random model need no checkpoint; what they are does not matter to the time, as answers have a fixed length.
"""
import argparse
import time

import torch
import transformers


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=int, default=1024)
    parser.add_argument("--output", type=int, default=512)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--attention", default="paged|sdpa", help="e.g. paged|flash_attention_2, where it is installed")
    options = parser.parse_args()
    config = transformers.LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=options.layers, num_attention_heads=32, num_key_value_heads=8,
        head_dim=128, vocab_size=128256, max_position_embeddings=131072, rope_theta=5e5, tie_word_embeddings=False)
    config._attn_implementation = options.attention
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=options.attention).eval()
    def run(inputs, output):  # its own choice of batch, cache and graphs: what a user gets
        generation = transformers.GenerationConfig(max_new_tokens=output, do_sample=False, eos_token_id=-1, pad_token_id=0)
        return model.generate_batch(inputs=inputs, generation_config=generation, progress_bar=False)

    prompts = [[(t * 7919 + i * 104729) % config.vocab_size for t in range(options.input)] for i in range(options.requests)]
    run(prompts[:2], 4)
    torch.cuda.synchronize()
    start = time.perf_counter()
    outputs = run(prompts, options.output)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    tokens = sum(len(o.generated_tokens) for o in outputs.values())
    if tokens != options.requests * options.output:
        raise SystemExit(f"{tokens} tokens came, {options.requests * options.output} were asked for")
    print(f"| transformers {transformers.__version__}, {options.attention}, {options.input} in / {options.output} out | |\n|---|---|")
    print(f"| requests | {options.requests} |\n| output tokens/s | {tokens / seconds:.1f} |")


if __name__ == "__main__":
    main()
