# SPDX-License-Identifier: Apache-2.0
"""Jobs that are stopped or killed in mid-sequence, again and again, and go on with other ranks and layouts: answers continue behind
the tokens that were saved, and the bytes are those of an undisturbed run.
"""
import json
import os
import pathlib
import random
import signal
import subprocess
import time

from harness import Workplace, assert_same, chats, columns, command, rank_pids, report, run, status, write_job, write_prompts

PROMPTS = 14
TOKENS = 1400  # of most answers: far more than one of the starts generates before it is disturbed
PATIENCE = 60  # seconds until something must have happened

ONE = {"sequence": 1, "tensor": 1, "replicas": 1}
TWO = {"sequence": 1, "tensor": 1, "replicas": 2}
TP2 = {"sequence": 1, "tensor": 2, "replicas": 1}
SP2 = {"sequence": 2, "tensor": 1, "replicas": 1, "shift": "random:1"}


def params(count, seed):
    """Whatever an answer's next token or end depends on, and answers that differ in length."""
    rng = random.Random(seed)
    kinds = [
        {},
        {"temperature": 0.8, "seed": 7},
        {"temperature": 1.2, "top_k": 5, "n": 2},
        {"temperature": 0.9, "top_p": 0.8, "min_p": 0.02, "logprobs": 3},
        {"repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.2},
        {"temperature": 1.5, "stop": ["12", "ab", "0"], "min_tokens": 300},
        {"temperature": 0.7, "max_tokens": 400, "logprobs": 1},
    ]
    return [kinds[i % len(kinds)] | ({"max_tokens": rng.randint(TOKENS // 2, TOKENS)} if i % 3 == 0 else {}) for i in range(count)]


class Job:
    def __init__(self, work):
        self.work, self.prompts, self.output = work, work / "prompts.h5", work / "answers.h5"
        write_prompts(self.prompts, [m for m, _ in chats(PROMPTS, seed=21)], [f"q{i}" for i in range(PROMPTS)],
                      json_params=params(PROMPTS, 22))
        start = time.time()
        run(self.write(work / "calm.h5", ONE), ranks=0)
        self.calm = columns(work / "calm.h5")
        print(f"undisturbed: {len(self.calm['text'])} answers, {len(self.calm['tokens'])} tokens, {time.time() - start:.1f} s", flush=True)

    def write(self, output, geometry, **settings):
        return write_job(self.work / "job.toml", self.prompts, output, parallel=geometry, schedule={"max_sequences": 2},
                         sampling={"max_tokens": TOKENS, "ignore_eos": True}, run={"checkpoint_seconds": 0.0, **settings})

    def start(self, geometry, environment=None, **settings):
        self.status_file().unlink(missing_ok=True)  # what the last start said
        log = open(self.work / "log", "a")
        return subprocess.Popen(command(self.write(self.output, geometry, **settings), ranks=0), stdout=log, stderr=log,
                                env={**os.environ, **(environment or {})})

    def status_file(self):
        return pathlib.Path(f"{self.output}.journal", "status.json")

    def journals(self):
        return list(pathlib.Path(f"{self.output}.journal").glob("rank-*.journal"))

    def await_that(self, child, what, condition):
        deadline = time.time() + PATIENCE
        while not condition():
            assert child.poll() is None, f"the job has ended with exit code {child.returncode} before {what}"
            assert time.time() < deadline, f"not in time: {what}"
            time.sleep(0.02)

    def await_work(self, child):
        self.await_that(child, "answers were under way", lambda: status(self.output).get("state") == "running")
        time.sleep(0.15)

    def await_death(self):
        deadline = time.time() + PATIENCE
        while rank_pids(self.work):
            assert time.time() < deadline, "ranks are still there"
            time.sleep(0.02)

    def last_start(self):
        runs = sorted(pathlib.Path(f"{self.output}.journal").glob("run-*.json"))
        return json.loads(runs[-1].read_text())

    def check_stopped(self, child, by):
        code = child.wait(timeout=PATIENCE)
        assert code == 75, f"{by}: exit code {code}"
        assert not rank_pids(self.work), f"{by}: ranks are still there"
        start = self.last_start()
        assert start["stopped_by"] == by, f"stopped by {start['stopped_by']!r}, not {by!r}"
        return start["total"]

    def finish(self, geometry, what, takes_up=True):
        run(self.write(self.output, geometry), ranks=0, extra=["--resume"])
        assert_same(self.calm, columns(self.output), what)
        summary = report(self.output)["summary"]
        health = summary["journal"]
        assert health["duplicates"] == 0 and health["conflicts"] == 0, health
        assert summary["engine"]["taken_up_tokens"] > 0 or not takes_up, f"{what}: nothing was taken up"
        self.output.unlink()
        return summary["engine"]


def name_of(geometry):
    return f"{geometry['replicas']} x (SP {geometry['sequence']} x TP {geometry['tensor']})"


def stop_and_stop_again(job, stops, last):
    """stops: (geometry, signal). No token is generated twice, though every start is stopped in mid-sequence."""
    history, saved = [], 0
    for geometry, name in stops:
        child = job.start(geometry)
        job.await_work(child)
        child.send_signal(getattr(signal, name))
        done = job.check_stopped(child, "SIGUSR1")  # what the front end makes of any signal
        if done["output_tokens"] > 0:  # a machine with more to do may have come no further than the first step
            assert done["checkpoint_tokens"] > 0, f"{name} saved nothing"
            assert saved == 0 or done["taken_up_tokens"] > 0, "a start began anew"
        saved += done["checkpoint_tokens"]
        history.append(f"{name_of(geometry)} {name} ({done['taken_up_tokens']} taken up, {done['checkpoint_tokens']} saved)")
    engine = job.finish(last, "; ".join(history))
    tokens = len(job.calm["tokens"])
    assert engine["decode_tokens"] < tokens, f"{engine['decode_tokens']} decoded for answers of {tokens}: some twice"
    assert engine["checkpoint_tokens"] < tokens, f"{engine['checkpoint_tokens']} saved of {tokens}: some twice"
    print(f"{'; '.join(history)}; finished on {name_of(last)}: same bytes, {engine['taken_up_answers']} answers taken up, "
          f"{engine['decode_tokens']} tokens decoded", flush=True)


def stop_at_once(job):
    """A second Ctrl-C does not wait for anybody, and what an earlier stop has saved is not lost."""
    child = job.start(ONE)
    job.await_that(child, "answers were under way", lambda: status(job.output).get("output_tokens", 0) > 0)
    child.send_signal(signal.SIGINT)
    job.check_stopped(child, "SIGUSR1")
    child = job.start(TWO)
    job.await_work(child)
    child.send_signal(signal.SIGINT)
    time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    start = time.time()
    code = child.wait(timeout=PATIENCE)
    seconds = time.time() - start
    assert code == 75, f"exit code {code}"
    assert not rank_pids(job.work), "ranks are still there"
    engine = job.finish(ONE, "stopped at once")
    print(f"two Ctrl-C: stopped in {seconds:.1f} s; same bytes, {engine['taken_up_tokens']} tokens taken up", flush=True)


def stop_in_time(job):
    """The end of the allocation is near: the job leaves by itself when half of what was left is used. Meanwhile it must stand still,
    for it would be done before."""
    left = 18
    start = time.time()
    child = job.start(TP2, {"SLURM_JOB_END_TIME": str(int(start) + left)}, stop_before_end_seconds=60.0)
    job.await_work(child)
    leader = rank_pids(job.work)[0]
    os.kill(leader, signal.SIGSTOP)
    time.sleep(max(0.0, start + 0.5 * left + 1 - time.time()))
    assert child.poll() is None, f"exit code {child.returncode} before the time"
    os.kill(leader, signal.SIGCONT)
    job.check_stopped(child, "end of the allocation")
    spare = start + left - time.time()
    assert spare > 0, f"stopped {-spare:.1f} s too late"
    engine = job.finish(ONE, "stopped in time")
    print(f"stopped {spare:.1f} s before the end of the allocation: same bytes, {engine['taken_up_tokens']} tokens taken up", flush=True)


def size(paths):
    return sum(path.stat().st_size for path in paths)


def kill_and_damage(job, seed):
    """Nobody has time to save anything: what checkpoint_seconds has saved before is there, unless the storage has lost it."""
    rng = random.Random(seed)
    for geometry in (SP2, TP2):
        before = size(job.journals())
        child = job.start(geometry, checkpoint_seconds=0.1)
        job.await_that(child, "something was saved", lambda: size(job.journals()) > before + 3000)
        for pid in [*rank_pids(job.work).values(), child.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # its launcher was faster
        child.wait()
        job.await_death()
        with open(max(job.journals(), key=lambda path: path.stat().st_size), "r+b") as file:
            at = rng.randrange(64, file.seek(0, os.SEEK_END))
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << rng.randrange(8)]))
    engine = job.finish(TWO, "killed, with damaged journals", takes_up=False)
    print(f"killed twice, a bit of a journal flipped each time: same bytes, {engine['taken_up_tokens']} tokens taken up", flush=True)
    return engine["taken_up_tokens"]


def main():
    with Workplace("checkpoints") as work:
        job = Job(work)
        stop_and_stop_again(job, [(ONE, "SIGTERM"), (TP2, "SIGUSR1"), (TWO, "SIGINT"), (SP2, "SIGTERM")], TP2)
        stop_at_once(job)
        stop_in_time(job)
        # A flipped bit may take with it all that was saved of the answers under way; not time after time.
        assert any(kill_and_damage(job, seed) > 0 for seed in range(4, 10)), "nothing was ever taken up"


if __name__ == "__main__":
    main()
