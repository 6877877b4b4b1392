# SPDX-License-Identifier: Apache-2.0
"""Replicas of several ranks, one of which stands still or dies: the job waits for the first, ends soon after the second, leaves
nothing behind, and goes on in any geometry; the bytes are those of a calm run on one rank.

    hangs_and_kills.py [PROMPTS]
"""
import glob
import os
import pathlib
import signal
import subprocess
import sys
import time

from harness import Workplace, assert_same, chats, columns, command, rank_pids, report, run, status, write_job, write_prompts

TWO_SP2 = {"replicas": 2, "sequence": 2, "tensor": 1, "shift": "auto"}
SP2_TP2 = {"replicas": 1, "sequence": 2, "tensor": 2, "shift": "random:1"}
TP2 = {"replicas": 1, "sequence": 1, "tensor": 2}
ONE = {"replicas": 1, "sequence": 1, "tensor": 1}
LEADER, FOLLOWER, LAST = 0, 1, 3  # of four ranks; 2 leads the second replica of TWO_SP2
STOPPED_SECONDS = 5.0
END_SECONDS = 10.0
PATIENCE = 120.0  # seconds of a machine that does other things besides


def name_of(geometry):
    return "{replicas} x (SP {sequence} x TP {tensor})".format(**geometry)


def shared_memory_left(before):
    """Files in /dev/shm that are new, ours, and of no living process."""
    mapped = ""
    for maps in glob.glob("/proc/[0-9]*/maps"):
        try:
            mapped += pathlib.Path(maps).read_text()
        except OSError:
            continue
    return [path for path in map(str, pathlib.Path("/dev/shm").iterdir())
            if path not in before and path not in mapped and os.path.exists(path) and os.stat(path).st_uid == os.getuid()]


class Job:
    """One job that every test begins anew. Whatever is still running at the end is ended."""

    def __init__(self, work, count):
        self.work, self.count = work, count
        self.prompts, self.output = work / "prompts.h5", work / "answers.h5"
        write_prompts(self.prompts, [m for m, _ in chats(count, seed=3)], [f"q{i}" for i in range(count)])
        run(self.write(work / "calm.h5", ONE, at_a_time=64), ranks=0)
        self.calm = columns(work / "calm.h5")
        self.child = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.child and self.child.poll() is None:
            for pid in [*rank_pids(self.work).values(), self.child.pid]:
                os.kill(pid, signal.SIGKILL)
            self.child.wait()

    sampling = {"temperature": 0.6, "max_tokens": 60, "ignore_eos": True}

    def write(self, output, geometry, at_a_time=2, **run):
        """Few prompts at a time make a slow job: its ranks speak of it twice a second, and two kills must find it running."""
        return write_job(self.work / "job.toml", self.prompts, output, parallel=geometry, schedule={"max_sequences": at_a_time},
                         sampling=self.sampling, run=run)

    def start(self, geometry, **run):
        pathlib.Path(f"{self.output}.journal", "status.json").unlink(missing_ok=True)  # what a killed start said last
        log = open(self.work / "log", "a")
        self.child = subprocess.Popen(command(self.write(self.output, geometry, **run), ranks=0), stdout=log, stderr=log)
        return self.child

    def wait_for_answers(self, child):
        """Until the ranks of this start say that they have answers."""
        deadline = time.time() + PATIENCE
        while True:
            assert child.poll() is None, f"the job has ended with exit code {child.returncode} before it could be disturbed"
            assert time.time() < deadline, "no answers"
            now = status(self.output)
            if now.get("state") == "running" and len(rank_pids(self.work)) == 4:
                return now["done"]
            time.sleep(0.02)

    def check_result(self, what):
        assert_same(self.calm, columns(self.output), what)
        health = report(self.output)["summary"]["journal"]
        assert health["duplicates"] == 0 and health["conflicts"] == 0, health
        self.output.unlink()


def stand_still(job, geometry, rank):
    child = job.start(geometry)
    done = job.wait_for_answers(child)
    pid = rank_pids(job.work)[rank]
    os.kill(pid, signal.SIGSTOP)
    time.sleep(STOPPED_SECONDS)
    assert child.poll() is None, f"the job did not wait for rank {rank}: exit code {child.returncode}"
    during = status(job.output)["done"]
    os.kill(pid, signal.SIGCONT)
    start = time.time()
    assert child.wait(timeout=PATIENCE) == 0, f"exit code {child.returncode}"
    job.check_result(f"{name_of(geometry)}, rank {rank} stopped")
    print(f"{name_of(geometry)}: rank {rank} stopped for {STOPPED_SECONDS:.0f} s after {done} of {job.count} answers ({during} at its end), "
          f"done {time.time() - start:.1f} s later: same bytes", flush=True)


def kill(job, geometry, rank):
    child = job.start(geometry, max_restarts=0)
    done = job.wait_for_answers(child)
    start = time.time()
    os.kill(rank_pids(job.work)[rank], signal.SIGKILL)
    code = child.wait(timeout=PATIENCE)
    seconds = time.time() - start
    assert code == 1, f"exit code {code}"
    assert seconds < END_SECONDS, f"the job took {seconds:.1f} s to end"
    assert not rank_pids(job.work), "ranks are still there"
    print(f"{name_of(geometry)}: rank {rank} killed after {done} answers, the job ended {seconds:.1f} s later", flush=True)


def kill_kill_resume(job, first, second, last):
    """Two starts that are killed, each (geometry, rank), and one that completes the job."""
    kill(job, *first)
    kill(job, *second)
    run(job.write(job.output, last), ranks=0, extra=["--resume"])
    starts = [run_["ranks"] for run_ in report(job.output)["provenance"]["runs"]]
    assert starts == [4, 4, last["sequence"] * last["tensor"]], f"ranks of the starts: {starts}"
    job.check_result("after two killed starts")
    print(f"  completed on {name_of(last)}: same bytes", flush=True)


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 480
    before = set(map(str, pathlib.Path("/dev/shm").iterdir()))
    with Workplace("hangs") as work, Job(work, count) as job:
        stand_still(job, TWO_SP2, LAST)
        stand_still(job, SP2_TP2, FOLLOWER)
        kill_kill_resume(job, (TWO_SP2, FOLLOWER), (SP2_TP2, LEADER), TP2)
        kill_kill_resume(job, (SP2_TP2, LAST), (TWO_SP2, LEADER), ONE)
    left = shared_memory_left(before)
    assert not left, f"killed jobs have left shared memory behind: {left}"


if __name__ == "__main__":
    main()
