#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""torch.matmul on one GPU in the shapes of gpu_kernels_bench, as Markdown: what its products are compared with.

Medians of CUDA events, random bf16 data, weights in turn from four copies.
"""
import statistics

import torch

SHAPES = [("qkv", 6144, 4096), ("attention out", 4096, 4096), ("gate, up", 28672, 4096), ("down", 4096, 14336)]
ROWS = [1, 16, 64, 256, 1024, 4096, 8192]


def seconds(work):
    def timed(calls):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(calls):
            work()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3 / calls

    timed(2)
    calls = max(1, int(20e-3 / timed(1)))
    return statistics.median(timed(calls) for _ in range(7))


def main():
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}\n\n| | figure |\n|---|---|")
    for name, n, k in SHAPES:
        weights = [torch.randn(n, k, device="cuda").to(torch.bfloat16) for _ in range(4)]
        for m in ROWS:
            x = torch.randn(m, k, device="cuda").to(torch.bfloat16)
            turn = iter(range(1 << 60))
            time = seconds(lambda x=x: torch.matmul(x, weights[next(turn) % 4].T))
            rate = f"{2 * n * k / time * 1e-9:.1f} GB/s" if m <= 64 else f"{2 * m * n * k / time * 1e-12:.1f} TFLOP/s"
            print(f"| {name} [{n}, {k}], M {m}, torch | {rate} |", flush=True)


if __name__ == "__main__":
    main()
