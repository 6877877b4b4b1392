# SPDX-License-Identifier: Apache-2.0
"""The same job gives the same bytes, however ranks share the work: every replicas x sequence x tensor on up to eight ranks,
with every kind of shift.

    layouts.py             every geometry with every kind of shift; token budget, prefix cache and batch width go round so that
                           any two values meet each other about equally often
    layouts.py --full      all schedules of every geometry and shift (under an hour)
    --prompts N            default 40
    --only TEXT            only cases whose line contains TEXT
"""
import argparse
import collections
import dataclasses
import itertools
import shutil
import time

from harness import Workplace, assert_same, chats, columns, mixed_params, report, run, write_job, write_prompts

RANKS = [1, 2, 4, 8]  # any power of two up to 8 may be a replica of the tiny model: 8 heads, 4 KV heads
SHIFTS = ["never", "always", "auto", "24", "random:1", "random:2"]
SCHEDULES = list(itertools.product([64, 512, 2048], [True, False], [4, 64]))  # small budgets cut prompts into chunks
SAMPLING = {"logprobs": 2}  # of every token: they show a bit that is off long before another token is chosen


@dataclasses.dataclass(frozen=True)
class Geometry:
    replicas: int
    sequence: int
    tensor: int

    @property
    def ranks(self):
        return self.replicas * self.sequence * self.tensor

    @property
    def shifts(self):
        """With a sequence degree of 1 both layouts are the same thing."""
        return SHIFTS if self.sequence > 1 else ["never"]

    def __str__(self):
        return f"ranks {self.ranks} = {self.replicas} x (SP {self.sequence} x TP {self.tensor})"


@dataclasses.dataclass(frozen=True)
class Case:
    geometry: Geometry
    shift: str
    schedule: tuple

    def __str__(self):
        budget, cache, width = self.schedule
        return (f"{self.geometry}  shift {self.shift:8}  budget {budget:4}  prefix cache {'on ' if cache else 'off'}  "
                f"max_sequences {width:2}")

    def sections(self):
        budget, cache, width = self.schedule
        g = self.geometry
        return {"sampling": SAMPLING, "schedule": {"token_budget": budget, "prefix_cache": cache, "max_sequences": width},
                "parallel": {"replicas": g.replicas, "sequence": g.sequence, "tensor": g.tensor, "shift": self.shift}}


def geometries():
    return [Geometry(ranks // group, group // tensor, tensor)
            for ranks in RANKS for group in RANKS for tensor in RANKS if tensor <= group <= ranks]


def all_cases():
    return [Case(g, shift, schedule) for g in geometries() for shift in g.shifts for schedule in SCHEDULES]


def some_cases():
    """Every geometry with every kind of shift once, in the schedule that brings together what has met least often so far."""
    met = collections.Counter()
    cases = []
    for geometry in geometries():
        for shift in geometry.shifts:
            def pairs(schedule):
                return list(itertools.combinations([geometry, shift, *enumerate(schedule)], 2))
            schedule = min(SCHEDULES, key=lambda s: sum(met[pair] for pair in pairs(s)))
            met.update(pairs(schedule))
            cases.append(Case(geometry, shift, schedule))
    return cases


def check_layouts(case, summary):
    """That steps ran in the layouts that the case is about: else the comparison would say nothing of them."""
    if case.geometry.ranks == case.geometry.replicas:
        return ""
    work = summary["parallel"]
    base, shift = (work["layouts"][name]["steps"] for name in ("base", "shift"))
    if case.shift == "always":
        assert base == 0 < shift, f"{base} steps in the base layout"
    elif case.shift == "never":
        assert shift == 0 < base, f"{shift} steps in the shift layout"
    elif case.shift != "auto":  # what is measured may well say that one layout is the best for every step
        assert base > 0 and shift > 0 and work["shifts"] > 0, f"{base} steps in the base layout, {shift} in the other"
    return f"({base} steps base, {shift} shift, {work['shifts']} changes)"


def run_case(work, prompts, reference, case):
    job = write_job(work / "job.toml", prompts, work / "answers.h5", **case.sections())
    (work / "answers.h5").unlink(missing_ok=True)
    shutil.rmtree(work / "answers.h5.journal", ignore_errors=True)  # of a case that failed
    run(job, ranks=0)
    assert_same(reference, columns(work / "answers.h5"), str(case))
    return check_layouts(case, report(work / "answers.h5")["summary"])


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--full", action="store_true")
    options.add_argument("--prompts", type=int, default=40)
    options.add_argument("--only", default="")
    options = options.parse_args()
    cases = [case for case in (all_cases() if options.full else some_cases()) if options.only in str(case)]
    with Workplace("layouts") as work:
        prompts = work / "prompts.h5"
        ids = [f"q{i}" for i in range(options.prompts)]
        write_prompts(prompts, [m for m, _ in chats(len(ids), seed=15)], ids, json_params=mixed_params(len(ids), 16))
        run(write_job(work / "reference.toml", prompts, work / "reference.h5", sampling=SAMPLING), ranks=1)
        reference = columns(work / "reference.h5")
        reasons = {r: reference["finish_reason"].count(r) for r in set(reference["finish_reason"])}
        print(f"reference, 1 rank: {len(reference['text'])} rows, {len(reference['tokens'])} tokens, finish reasons {reasons}")
        assert len(reasons) >= 2, "the mix must end for more than one reason"
        failures = 0
        begin = time.time()
        for case in cases:
            start = time.time()
            try:
                said = run_case(work, prompts, reference, case)
                print(f"{case}  same bytes  {time.time() - start:5.1f} s  {said}", flush=True)
            except Exception as error:  # whatever it is, the other cases still have something to say
                failures += 1
                print(f"{case}  DIFFERS: {type(error).__name__}: {error}", flush=True)
        print(f"{len(cases) - failures} of {len(cases)} cases: same bytes, in {time.time() - begin:.0f} s")
        assert failures == 0, f"{failures} cases differ"


if __name__ == "__main__":
    main()
