# SPDX-License-Identifier: Apache-2.0
"""Killed and stopped jobs: nothing that is committed is done again, nothing is lost, the bytes are those of a calm run.

    resume.py [ROUNDS]
"""
import os
import random
import signal
import subprocess
import sys
import time

import harness
from harness import Workplace, assert_same, chats, columns, command, rank_pids, run, write_job, write_prompts


def interrupt(rng, work, child, how):
    ranks = list(rank_pids(work).values())
    targets = {"launcher": [child.pid], "rank": ranks[:1], "everything": ranks + [child.pid]}
    if how in targets:
        for pid in targets[how]:
            os.kill(pid, signal.SIGKILL)
    else:
        child.send_signal(getattr(signal, how))
    code = child.wait(timeout=60)
    deadline = time.time() + 15
    while rank_pids(work) and time.time() < deadline:
        time.sleep(0.05)
    assert not rank_pids(work), f"{how}: ranks are still there"
    return code


def wait_for_answers(work, child):
    deadline = time.time() + 60
    while harness.status(work / "answers.h5").get("done", 0) < 20:
        assert child.poll() is None and time.time() < deadline, "no answers"
        time.sleep(0.05)


def one_job_per_output(work, prompts, options, calm):
    """A second launcher, and one with another job, are refused by name; --restart begins anew and keeps what was there."""
    job = write_job(work / "job.toml", prompts, work / "answers.h5", **options)
    child = subprocess.Popen(command(job, 1), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_answers(work, child)
    second = run(job, ranks=1, expect=2).stderr
    assert f"process {child.pid}" in second, second
    for extra in ([], ["--restart"]):
        run(job, ranks=1, extra=extra, expect=2)
    assert child.poll() is None, "the first launcher has ended"
    interrupt(None, work, child, "everything")
    before = {file.name: file.read_bytes() for file in (work / "answers.h5.journal").glob("rank-*.journal")}

    changed = run(job, ranks=1, settings=["sampling.temperature=0.7"], expect=2).stderr
    assert "sampling" in changed and "--restart" in changed, changed
    write_prompts(work / "other.h5", [m for m, _ in chats(10, seed=4)])
    changed = run(job, ranks=1, settings=[f"job.input={work / 'other.h5'}"], expect=2).stderr
    assert "input" in changed and "--restart" in changed, changed

    run(job, ranks=2, extra=["--restart"])
    assert_same(calm, columns(work / "answers.h5"), "--restart")
    aside = list(work.dir.glob("answers.h5.journal.bak-*"))
    assert len(aside) == 1 and before == {name: (aside[0] / name).read_bytes() for name in before}, f"kept aside: {aside}"
    print("one launcher and one job per output; --restart keeps the old journal: same bytes", flush=True)


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    rng = random.Random(11)
    with Workplace("resume") as work:
        prompts = work / "prompts.h5"
        write_prompts(prompts, [m for m, _ in chats(400, seed=3)], [f"q{i}" for i in range(400)])
        options = {"sampling": {"temperature": 0.6, "max_tokens": 60, "ignore_eos": True}, "schedule": {"max_sequences": 4},
                   "run": {"max_restarts": 0}}
        start = time.time()
        run(write_job(work / "calm.toml", prompts, work / "calm.h5", **options), ranks=2)
        calm_seconds = time.time() - start
        calm = columns(work / "calm.h5")

        one_job_per_output(work, prompts, options, calm)
        for round_ in range(rounds):
            (work / "answers.h5").unlink(missing_ok=True)
            job = write_job(work / "job.toml", prompts, work / "answers.h5", **options)
            history = []
            for attempt in range(3):
                how = rng.choice(["launcher", "rank", "everything", "SIGTERM", "SIGINT", "SIGUSR1"])
                ranks = rng.choice([1, 2, 3])
                child = subprocess.Popen(command(job, ranks), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                try:
                    code = child.wait(timeout=rng.uniform(0.3, 0.9) * calm_seconds)
                    history.append(f"{ranks} ranks finished")
                    assert code == 0, f"exit code {code}"
                    break
                except subprocess.TimeoutExpired:
                    code = interrupt(rng, work, child, how)
                    history.append(f"{ranks} ranks, {how} -> {code}")
                    if how.startswith("SIG"):
                        assert code in (0, 75), f"{how}: exit code {code}"
                    assert code != 0 or (work / "answers.h5").exists()
            if not (work / "answers.h5").exists():
                run(job, ranks=rng.choice([1, 2, 4]))
            assert_same(calm, columns(work / "answers.h5"), f"round {round_}: {history}")
            assert not (work / "answers.h5.journal").exists(), "the journal outlived the result"
            print(f"round {round_}: {'; '.join(history)}: same bytes", flush=True)


if __name__ == "__main__":
    main()
