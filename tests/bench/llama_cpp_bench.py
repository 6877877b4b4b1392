#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""llama.cpp's batched benchmark on one GPU, the job of offline_bench: MODEL.gguf, 1024 in / 512 out, as Markdown.

    llama_cpp_bench.py MODEL.gguf [--input N] [--output N] [--parallel N]

MODEL: the checkpoint of make_model.py --shape 8B through llama.cpp's convert_hf_to_gguf.py --outtype bf16. The table of
llama-batched-bench has a line for each number of parallel sequences; its last column but one is the time of all.
"""
import argparse
import re
import subprocess


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--input", type=int, default=1024)
    parser.add_argument("--output", type=int, default=512)
    parser.add_argument("--parallel", type=int, default=64)
    options = parser.parse_args()
    context = options.parallel * (options.input + options.output)
    done = subprocess.run(
        ["llama-batched-bench", "-m", options.model, "-ngl", "999", "-fa", "on", "-c", str(context), "-b", "8192", "-ub", "2048",
         "-npp", str(options.input), "-ntg", str(options.output), "-npl", str(options.parallel)],
        capture_output=True, text=True, check=True)
    print(f"| llama.cpp, {options.input} in / {options.output} out | |\n|---|---|")
    for line in done.stdout.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) >= 10 and re.fullmatch(r"\d+", cells[0]):
            parallel, seconds = int(cells[2]), float(cells[8])
            print(f"| {parallel} sequences, output tokens/s | {parallel * options.output / seconds:.1f} |")


if __name__ == "__main__":
    main()
