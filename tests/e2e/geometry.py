# SPDX-License-Identifier: Apache-2.0
"""The same job gives the same bytes: token budget, prefix cache and batch width change nothing, on one rank or two.

    geometry.py [PROMPTS]      prints every schedule and whether its columns equal the reference's

layouts.py does the same for all the ways in which ranks can share the work.
"""
import itertools
import sys
import time

from harness import Workplace, assert_same, chats, columns, mixed_params, run, write_job, write_prompts


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
        grid = itertools.product([1, 2], [128, 512, 2048], [True, False], [1, 8, 64])
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
        assert failures == 0, f"{failures} schedules differ"


if __name__ == "__main__":
    main()
