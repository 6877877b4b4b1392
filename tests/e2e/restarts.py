# SPDX-License-Identifier: Apache-2.0
"""A rank that dies or hangs does not end the job, a prompt that kills its ranks is set aside: the rest has the bytes of a calm run.

    restarts.py [PROMPTS]
"""
import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

from hangs_and_kills import FOLLOWER, LAST, LEADER, ONE, PATIENCE, SP2_TP2, TP2, TWO_SP2, Job, name_of
from harness import FAULTS, Workplace, columns, command, h5py, rank_pids, report, run, status, write_job

KILLERS = [37, 151]
HANG_SECONDS = 3


def end_of(job, child):
    """What a job that is left alone has said."""
    code = child.wait(timeout=2 * PATIENCE)
    said = (job.work / "log").read_text()
    assert code == 0, f"exit code {code}: {said[-3000:]}"
    assert not rank_pids(job.work), "ranks are still there"
    return said


def signal_to(pid, name):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, name)


def goes_on(job, geometry, rank, disturb, expected, **settings):
    """A disturbed job completes by itself, in two starts."""
    (job.work / "log").unlink(missing_ok=True)
    child = job.start(geometry, **settings)
    done = job.wait_for_answers(child)
    pid = rank_pids(job.work)[rank]
    signal_to(pid, disturb)
    start = time.time()
    seen = set()
    while child.poll() is None and time.time() < start + PATIENCE:
        seen.add(status(job.output).get("state"))
        # mpirun wakes whom it ends: one that hangs would get on then, and might complete the job before it is killed.
        for _ in range(20):
            if disturb == signal.SIGSTOP:
                signal_to(pid, disturb)
            time.sleep(0.005)
    said = end_of(job, child)
    assert re.search(expected, said), said[-3000:]
    assert "start again in 1 s (1 of at most 5 times in a row)" in said, said[-3000:]
    assert "restarting" in seen, f"states of status.json: {seen}"
    found = report(job.output)
    assert len(found["provenance"]["runs"]) == 2, found["provenance"]["runs"]
    job.check_result(f"{name_of(geometry)}, rank {rank}, {disturb.name}")
    print(f"{name_of(geometry)}: rank {rank} got {disturb.name} after {done} answers, the job was done {time.time() - start:.1f} s later: "
          "same bytes", flush=True)


@contextlib.contextmanager
def slow_prompts(milliseconds):
    """Jobs started meanwhile take that long for each prompt, however fast the machine is."""
    slow = {"LD_PRELOAD": str(FAULTS / "slow_prompts.so"), "SLOW_PROMPTS": str(milliseconds)}
    os.environ.update(slow)
    try:
        yield
    finally:
        for name in slow:
            del os.environ[name]


def repeated_kills(job, times):
    """One kill per start, each after new answers: more of them than max_restarts allows in a row."""
    (job.work / "log").unlink(missing_ok=True)
    with slow_prompts(20):
        child = job.start(ONE, max_restarts=1)
    kills, enough = 0, 10
    while child.poll() is None:
        now, pids = status(job.output), rank_pids(job.work)
        if kills < times and now.get("state") == "running" and now["done"] >= enough and pids:
            time.sleep(1.2)  # by now the answers that were counted are in the journal
            enough = status(job.output)["done"] + 10
            kills += 1
            os.kill(pids[0], signal.SIGKILL)
        time.sleep(0.02)
    said = end_of(job, child)
    assert kills == times and said.count("1 of at most 1 times in a row)\n") >= times, f"{kills} kills: {said[-3000:]}"
    job.check_result(f"{times} kills")
    print(f"{name_of(ONE)}: {times} kills, each after progress, max_restarts = 1: same bytes", flush=True)


def gives_up(job):
    """Ranks that die at every start: an end after max_restarts, with everything safe."""
    (job.work / "log").unlink(missing_ok=True)
    child = job.start(TP2, max_restarts=1, crash_tries=0)
    deadline, killed = time.time() + PATIENCE, set()
    while child.poll() is None and time.time() < deadline:
        for pid in rank_pids(job.work).values():
            if pid not in killed:
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    said = (job.work / "log").read_text()
    assert child.poll() == 1, f"exit code {child.poll()}: {said[-3000:]}"
    assert "1 of at most 1 times" in said and "the same command continues the job" in said, said[-3000:]
    print("killed at every start: ended after one restart", flush=True)
    run(job.write(job.output, ONE, at_a_time=64), ranks=0, extra=["--resume"])
    job.check_result("continued")


def killers(job, geometry):
    """Two prompts that kill their ranks: two failed rows, everything else as in the calm run."""
    library = FAULTS / "crash_on_rows.so"
    assert library.exists(), library
    environment = dict(os.environ, LD_PRELOAD=str(library), CRASH_ON_ROWS=",".join(map(str, KILLERS)))
    file = write_job(job.work / "job.toml", job.prompts, job.output, parallel=geometry, schedule={"max_sequences": 8}, sampling=job.sampling)
    start = time.time()
    done = subprocess.run(command(file, ranks=0), capture_output=True, text=True, timeout=400, env=environment)
    assert done.returncode == 0, done.stderr[-5000:]
    restarts = len(re.findall("the ranks start again", done.stderr))
    crashed = re.findall(r"the prompt in row (\d+) is set aside", done.stderr)
    assert sorted(map(int, crashed)) == KILLERS, crashed
    assert restarts <= len(KILLERS) * (2 + 7 + 3), f"{restarts} restarts"  # held at 2, halved from some 100 rows, tried 3 times
    found = columns(job.output)
    with h5py.File(job.output) as f:
        reasons = {v: k for k, v in h5py.check_enum_dtype(f["results/finish_reason"].dtype).items()}
    for row in KILLERS:
        assert reasons[found["finish_reason"][row]] == "failed", row
        assert found["error"][row].startswith(b"crashed: "), found["error"][row]
    assert found["id"] == job.calm["id"]
    for name in ["text", "finish_reason", "error", "prompt_tokens", "output_tokens"]:
        for row, (calm, now) in enumerate(zip(job.calm[name], found[name])):
            assert row in KILLERS or calm == now, f"{name} of row {row}: {calm} against {now}"
    tokens = [slice(a, b) for a, b in zip(found["offsets"], found["offsets"][1:])]
    calm_tokens = [slice(a, b) for a, b in zip(job.calm["offsets"], job.calm["offsets"][1:])]
    for row in set(range(job.count)) - set(KILLERS):
        assert found["tokens"][tokens[row]] == job.calm["tokens"][calm_tokens[row]], f"tokens of row {row}"
    health = report(job.output)["summary"]["journal"]
    assert health["conflicts"] == 0, health
    job.output.unlink()
    print(f"{name_of(geometry)}: 2 killers among {job.count} prompts found in {restarts} restarts and {time.time() - start:.0f} s, "
          "the rest has the same bytes", flush=True)


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    with Workplace("restarts") as work, Job(work, count) as job:
        goes_on(job, TWO_SP2, LEADER, signal.SIGKILL, r"signal 9|exit code 137")
        goes_on(job, SP2_TP2, FOLLOWER, signal.SIGKILL, r"signal 9|exit code 137")
        goes_on(job, TWO_SP2, LAST, signal.SIGSTOP, rf"rank \d on \S+ has got nowhere for {HANG_SECONDS} s", hang_seconds=HANG_SECONDS)
        gives_up(job)
        repeated_kills(job, 2)
    with Workplace("crashes") as work, Job(work, 200) as job:
        killers(job, {"replicas": 2, "sequence": 1, "tensor": 1})


if __name__ == "__main__":
    main()
