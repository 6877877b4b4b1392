# SPDX-License-Identifier: Apache-2.0
"""The same job gives the same bytes: ranks, token budget, prefix cache and batch width change nothing.

    geometry.py [PROMPTS]      prints every geometry and whether its columns equal the reference's
"""
import itertools
import random
import sys
import time

import harness
from harness import Workplace, assert_same, chats, columns, run, write_job, write_prompts


def mixed_params(count, seed):
    """Greedy and seeded sampling, penalties, stop strings, several answers: one JSON object per prompt."""
    rng = random.Random(seed)
    kinds = [
        lambda: {},
        lambda: {"temperature": 0.8, "seed": rng.randint(0, 1000)},
        lambda: {"temperature": 1.2, "top_k": 5, "n": 2},
        lambda: {"temperature": 0.9, "top_p": 0.8, "min_p": 0.02},
        lambda: {"repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.2},
        lambda: {"stop": [" 1", "b"], "min_tokens": 3},
        lambda: {"ignore_eos": True, "max_tokens": rng.randint(1, 90)},
    ]
    return [rng.choice(kinds)() for _ in range(count)]


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 80
    with Workplace("geometry") as work:
        prompts = work / "prompts.h5"
        write_prompts(prompts, [m for m, _ in chats(count, seed=5)], [f"q{i}" for i in range(count)], json_params=mixed_params(count, 6))
        reference_job = write_job(work / "reference.toml", prompts, work / "reference.h5")
        run(reference_job, ranks=1)
        reference = columns(work / "reference.h5")
        reasons = {r: reference["finish_reason"].count(r) for r in set(reference["finish_reason"])}
        print(f"reference: {len(reference['text'])} rows, {len(reference['tokens'])} tokens, finish reasons {reasons}")
        assert len(reasons) >= 2, "the mix must end for more than one reason"

        failures = 0
        grid = itertools.product([2, 4], [128, 512, 2048], [True, False], [1, 8, 64])
        for ranks, budget, cache, width in grid:
            name = f"ranks {ranks}  budget {budget:4}  prefix cache {'on ' if cache else 'off'}  max_sequences {width:2}"
            job = write_job(work / "job.toml", prompts, work / "answers.h5",
                            schedule={"token_budget": budget, "prefix_cache": cache, "max_sequences": width})
            (work / "answers.h5").unlink(missing_ok=True)
            start = time.time()
            run(job, ranks=ranks)
            try:
                assert_same(reference, columns(work / "answers.h5"), name)
                print(f"{name}  same bytes  {time.time() - start:5.1f} s", flush=True)
            except AssertionError as error:
                failures += 1
                print(f"{name}  DIFFERS: {error}", flush=True)
        assert failures == 0, f"{failures} geometries differ"


if __name__ == "__main__":
    main()
