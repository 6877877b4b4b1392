# SPDX-License-Identifier: Apache-2.0
"""Runaway answers and second passes: the repetition guard, bounds on time and tokens, --retry-failed, and exports of what is there."""
import json
import subprocess
import time

import harness
from harness import FAULTS, NIGHTSHIFT, Workplace, assert_same, chats, columns, h5py, report, run, write_job, write_prompts

ROWS = 60
ALL_COLUMNS = harness.ANSWER_COLUMNS + ["cached_tokens", "started_s", "first_token_s", "finished_s"]
LIMIT, SPACE = 3, 8  # copies and longest piece of the guard


def reasons(path):
    with h5py.File(path) as f:
        names = {v: k for k, v in h5py.check_enum_dtype(f["results/finish_reason"].dtype).items()}
        return [names[v] for v in f["results/finish_reason"][()]]


def answers(path):
    found = columns(path)
    return [found["tokens"][a:b] for a, b in zip(found["offsets"], found["offsets"][1:])]


def loops(tokens):
    """Written otherwise than in the program: does the answer end in LIMIT copies of one piece?"""
    return any(tokens[-n * LIMIT:] == tokens[-n:] * LIMIT for n in range(1, SPACE + 1) if len(tokens) >= n * LIMIT)


def repetition(work, prompts):
    sampling = {"max_tokens": 40, "ignore_eos": True}
    run(write_job(work / "free.toml", prompts, work / "free.h5", sampling=sampling))
    guard = {**sampling, "repetition_guard": LIMIT, "repetition_ngram": SPACE}
    run(write_job(work / "guard.toml", prompts, work / "guard.h5", sampling=guard))
    ended = 0
    for free, guarded, reason in zip(answers(work / "free.h5"), answers(work / "guard.h5"), reasons(work / "guard.h5")):
        first = next((n for n in range(1, len(free) + 1) if loops(free[:n])), len(free))
        assert guarded == free[:first], "an answer ends at its first loop, and is the unguarded one up to there"
        assert reason == ("repetition" if loops(guarded) else "length"), reason
        ended += reason == "repetition"
    assert 0 < ended, "no answer of this model runs in circles: the test shows nothing"
    run(write_job(work / "two.toml", prompts, work / "two.h5", sampling=guard, parallel={"sequence": 2}), ranks=2)
    assert_same(columns(work / "guard.h5"), columns(work / "two.h5"), "repetition guard on two ranks")
    print(f"repetition guard: {ended} of {ROWS} answers ended, each at its first loop, on one and on two ranks")


def token_bound(work, prompts):
    run(write_job(work / "bound.toml", prompts, work / "bound.h5", sampling={"max_tokens": 50}, job={"max_answer_tokens": 7}))
    lengths = [len(tokens) for tokens in answers(work / "bound.h5")]
    assert max(lengths) == 7, lengths


def timed_job(work, prompts, output, seconds):
    return write_job(work / "timed.toml", prompts, output,
                     sampling={"temperature": 0.5, "max_tokens": 60, "ignore_eos": True, "max_seconds": seconds})


def retry_result(work, prompts, calm):
    """A finished result whose odd rows ran out of time: they alone run again."""
    output = work / "timed.h5"
    run(timed_job(work, prompts, output, 1e-4), ranks=2, settings=["parallel.sequence=2"])  # the follower ends them as well
    before = columns(output, ALL_COLUMNS)
    failed = [reason == "failed" for reason in reasons(output)]
    assert failed == [row % 2 == 1 for row in range(ROWS)], failed
    assert all(e.startswith(b"timeout: ") for e, f in zip(before["error"], failed) if f)
    run(timed_job(work, prompts, output, 600), ranks=2, extra=["--retry-failed"])
    assert_same(calm, columns(output), "after --retry-failed")
    after = columns(output, ALL_COLUMNS)
    for name in ("started_s", "first_token_s", "finished_s"):
        assert [a for a, f in zip(after[name], failed) if not f] == [b for b, f in zip(before[name], failed) if not f], name
    assert len(report(output)["provenance"]["runs"]) == 2
    again = run(timed_job(work, prompts, output, 600), extra=["--retry-failed"])
    assert "complete already" in again.stderr, again.stderr
    print("--retry-failed on a result: half of the rows again, the others untouched down to their times")


def partial_lines(output, path):
    subprocess.run([str(NIGHTSHIFT), "convert", str(output), str(path), "--partial"], check=True, capture_output=True)
    return [json.loads(line) for line in path.read_text().splitlines()]


def retry_journal(work, prompts, calm):
    """The same while the job is not finished: its result cannot be written at first."""
    output = work / "open.h5"
    no_room = {"LD_PRELOAD": str(FAULTS / "disk_faults.so"), "DISK_FAULT_PATH": "open.h5.tmp-",
               "DISK_FAULT_CALL": "write", "DISK_FAULT_ERRNO": "ENOSPC"}
    run(timed_job(work, prompts, output, 1e-4), expect=1, env=no_room)
    lines = partial_lines(output, work / "part.jsonl")
    assert len(lines) == ROWS and sum(line["error"] is not None for line in lines) == ROWS // 2
    state = json.loads(subprocess.run([str(NIGHTSHIFT), "status", str(output), "--json"], check=True, capture_output=True).stdout)
    assert (state["state"], state["failed"], state["done"], state["left"]) == ("dead", ROWS // 2, ROWS, 0), state
    run(timed_job(work, prompts, output, 600), extra=["--retry-failed"], expect=1, env=no_room)
    lines = partial_lines(output, work / "part2.jsonl")
    assert len(lines) == ROWS and all(line["error"] is None for line in lines), "superseded rows came back"
    run(timed_job(work, prompts, output, 600))
    assert_same(calm, columns(output), "after --retry-failed in a journal")
    print("--retry-failed in a journal: the newer answers count; --partial exports what is committed")


def live_export(work, prompts):
    """Exports beside a running job: they only ever grow, and do not disturb it."""
    output, part = work / "live.h5", work / "live.jsonl"
    job = write_job(work / "live.toml", prompts, output, schedule={"max_sequences": 1},
                    sampling={"max_tokens": 400, "ignore_eos": True})
    child = subprocess.Popen(harness.command(job), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seen = [0]
    while child.poll() is None:
        done = subprocess.run([str(NIGHTSHIFT), "convert", str(output), str(part), "--partial", "--force"], capture_output=True)
        if done.returncode == 0:
            seen.append(len(part.read_text().splitlines()))
        time.sleep(0.1)
    assert child.returncode == 0, child.returncode
    assert seen == sorted(seen) and any(0 < lines < ROWS for lines in seen), seen
    assert len(partial_lines(output, work / "whole.jsonl")) == ROWS, "a finished job is exported as a whole"
    print(f"{len(seen) - 1} exports beside a running job: {seen[1]} to {seen[-1]} replies")


def main():
    messages = [m for m, _ in chats(ROWS, seed=31)]
    with Workplace("retries") as work:
        plain, timed = work / "plain.h5", work / "timed-prompts.h5"
        write_prompts(plain, messages)
        # Even rows have no bound on their time, odd ones have the job's.
        write_prompts(timed, messages, json_params=[{"max_seconds": 0} if row % 2 == 0 else {} for row in range(ROWS)])
        repetition(work, plain)
        token_bound(work, plain)
        run(timed_job(work, timed, work / "calm.h5", 600))
        calm = columns(work / "calm.h5")
        retry_result(work, timed, calm)
        retry_journal(work, timed, calm)
        live_export(work, plain)


if __name__ == "__main__":
    main()
