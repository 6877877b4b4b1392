# SPDX-License-Identifier: Apache-2.0
"""Random faults until a job is through, again and again: every result must be that of a calm run, byte for byte.

    fault_campaign.py [FAULTS [SEED]]

Each start of a job has another geometry and meets one fault: signals to the launcher, kill -9 of a rank, the launcher or everything,
a rank that stands still for a while, a full disk (a small tmpfs, where one can be mounted). Between starts journals lose their ends,
get garbage behind them, or a byte in the middle is flipped. Half of the jobs start their ranks again by themselves after a
failure, half leave that to the user. A start that stays and writes nothing for a minute is a hang. Ends with a table.
"""
import collections
import contextlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

from harness import Workplace, assert_same, chats, columns, command, rank_pids, report, run, write_job, write_prompts

PROMPTS = 240
FAULTS_PER_JOB = 6
HANG_SECONDS = 60.0
DISK_MIB = 32
ONE = {"replicas": 1, "sequence": 1, "tensor": 1}
GEOMETRIES = [ONE, {**ONE, "replicas": 2}, {**ONE, "replicas": 3}, {**ONE, "tensor": 2}, {**ONE, "sequence": 2, "shift": "random:1"},
              {**ONE, "sequence": 2, "tensor": 2, "shift": "auto"}, {**ONE, "replicas": 2, "tensor": 2}]
STOPS = ["SIGTERM", "SIGINT", "SIGUSR1"]
DONE, FAILED, STOPPED = 0, 1, 75  # exit codes


class Disk:
    """A small file system of its own, or just a folder where none may be mounted."""

    def __init__(self, folder):
        self.folder, self.ballast = folder, folder / "ballast"
        folder.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "nightshift-test", str(folder)]
        self.mounted = os.getuid() == 0 and subprocess.run(words, stderr=subprocess.DEVNULL).returncode == 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)

    def fill(self, rng):
        """All but a few bytes."""
        space = os.statvfs(self.folder)
        rest = rng.choice([0, 4096, 32768])
        with open(self.ballast, "wb") as f, contextlib.suppress(OSError):
            os.posix_fallocate(f.fileno(), 0, max(1, space.f_bavail * space.f_frsize - rest))

    def empty(self):
        self.ballast.unlink(missing_ok=True)


class Start:
    """One start of the ranks, under way."""

    def __init__(self, work, disk, job):
        self.work, self.disk = work, disk
        self.log = open(work / "log", "a")
        self.child = subprocess.Popen(command(job, ranks=0), stdout=self.log, stderr=self.log)

    def ranks(self):
        return list(rank_pids(self.work).values())

    def kill(self, pids):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def written(self):
        """Bytes of the result and of what the ranks have made durable: grows while there is progress."""
        return sum(path.stat().st_size for path in [*self.disk.rglob("*.journal"), *self.disk.glob("*.h5*")] if path.is_file())

    def wait(self):
        """The exit code, when no process is left."""
        written, deadline = self.written(), time.time() + HANG_SECONDS
        while (code := self.child.poll()) is None:
            time.sleep(0.1)
            if self.written() != written:
                written, deadline = self.written(), time.time() + HANG_SECONDS
            if time.time() > deadline:
                self.kill([self.child.pid, *self.ranks()])
                raise AssertionError(f"hang: nothing new for {HANG_SECONDS:.0f} s; log: {self.log.name}")
        deadline = time.time() + 15
        while self.ranks():
            assert time.time() < deadline, "ranks outlive their launcher"
            time.sleep(0.05)
        self.log.close()
        return code


def disturb(kind, start, rng, disk):
    """Does it; returns the exit codes that are right afterwards, beside 0 for a job that was through already."""
    if kind in STOPS:
        start.child.send_signal(getattr(signal, kind))
        return [STOPPED]
    ranks = start.ranks()
    if kind == "SIGINT twice":
        start.child.send_signal(signal.SIGINT)
        time.sleep(rng.uniform(0.0, 0.3))
        start.child.send_signal(signal.SIGINT)
        return [STOPPED, FAILED, 128 + signal.SIGINT, -signal.SIGINT]
    if kind == "rank killed":
        start.kill(rng.sample(ranks, min(1, len(ranks))))
        return [FAILED]
    if kind == "launcher killed":
        start.kill([start.child.pid])
        return [-signal.SIGKILL]
    if kind == "all killed":
        start.kill([*ranks, start.child.pid])
        return [-signal.SIGKILL]
    if kind == "rank stands still":
        for pid in rng.sample(ranks, min(1, len(ranks))):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                time.sleep(rng.uniform(0.2, 2.0))
                os.kill(pid, signal.SIGCONT)
        return []
    if kind == "disk full":
        disk.fill(rng)
        return [FAILED, STOPPED]
    raise ValueError(kind)


def damage(kind, journal, rng):
    """Of one file; False where there is none."""
    files = [path for path in sorted(journal.glob("rank-*.journal")) if path.stat().st_size > 64]
    if not files:
        return False
    path = rng.choice(files)
    size = path.stat().st_size
    with open(path, "r+b") as f:
        if kind == "journal cut":
            f.truncate(size - rng.randint(1, min(size - 64, 4096)))
        elif kind == "garbage behind journal":
            f.seek(size)
            f.write(rng.randbytes(rng.randint(1, 3000)))
        else:  # "byte flipped"
            at = rng.randrange(64, size)
            f.seek(at)
            byte = f.read(1)[0]
            f.seek(at)
            f.write(bytes([byte ^ (1 << rng.randrange(8))]))
    return True


DAMAGES = ["journal cut", "garbage behind journal", "byte flipped"]


class Campaign:
    def __init__(self, work, disk, seed):
        self.work, self.disk, self.rng = work, disk, random.Random(seed)
        self.output = disk.folder / "answers.h5"
        self.table = collections.defaultdict(collections.Counter)  # fault -> exit code -> times
        self.faults = self.jobs = self.starts = 0
        self.prompts = work / "prompts.h5"
        write_prompts(self.prompts, [m for m, _ in chats(PROMPTS, seed=3)], [f"q{i}" for i in range(PROMPTS)])
        begin = time.time()
        run(self.job(work / "calm.h5", ONE, 0), ranks=0)
        self.calm_seconds = time.time() - begin
        self.calm = columns(work / "calm.h5")
        self.kinds = [*STOPS, "SIGINT twice", "rank killed", "launcher killed", "all killed", "rank stands still", *DAMAGES]
        self.kinds += ["disk full"] if disk.mounted else []

    def job(self, output, geometry, restarts):
        return write_job(self.work / "job.toml", self.prompts, output, parallel=geometry, schedule={"max_sequences": 2},
                         run={"max_restarts": restarts, "checkpoint_seconds": 0.2},
                         sampling={"temperature": 0.6, "max_tokens": 60, "ignore_eos": True})

    def note(self, kind, outcome):
        self.table[kind][outcome] += 1
        self.faults += 1

    def start_once(self, kind, restarts):
        """One start with one fault: its exit code."""
        rng = self.rng
        self.starts += 1
        if kind in DAMAGES and damage(kind, pathlib.Path(f"{self.output}.journal"), rng):
            self.note(kind, "damaged")
            kind = "all killed"
        elif kind in DAMAGES:
            kind = "launcher killed"
        start = Start(self.work, self.disk.folder, self.job(self.output, rng.choice(GEOMETRIES), restarts))
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.finished(start.child.wait(timeout=rng.uniform(0.1, 1.0) * self.calm_seconds), start)
        right = disturb(kind, start, rng, self.disk)
        code = start.wait()
        self.disk.empty()
        assert code in [DONE, *right], f"{kind}: exit code {code}"
        self.note(kind, f"exit {code}")
        return code

    def finished(self, code, start):
        assert code == DONE, f"without a fault: exit code {code}; log: {start.log.name}"
        start.wait()
        return code

    def one_job(self, most):
        restarts = self.rng.choice([0, 3])
        history = []
        for _ in range(min(most, FAULTS_PER_JOB)):
            history.append(self.rng.choice(self.kinds))
            if self.start_once(history[-1], restarts) == DONE:
                break
        if not self.output.exists():
            run(self.job(self.output, self.rng.choice(GEOMETRIES), restarts), ranks=0)
        assert_same(self.calm, columns(self.output), f"after {', '.join(history)}")
        health = report(self.output)["summary"]["journal"]
        assert health["conflicts"] == 0, health
        assert not pathlib.Path(f"{self.output}.journal").exists(), "the journal outlived the result"
        self.output.unlink()
        self.jobs += 1

    def print_table(self, seconds):
        print(f"\n{'fault':26}{'times':>6}   outcomes")
        for kind, outcomes in sorted(self.table.items()):
            print(f"{kind:26}{sum(outcomes.values()):6}   " + ", ".join(f"{o}: {n}" for o, n in sorted(outcomes.items())))
        print(f"{self.faults} faults in {self.starts} starts of {self.jobs} jobs, {seconds:.0f} s: all results have the bytes of the calm run")


def main():
    faults = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    begin = time.time()
    with Workplace("faults") as work, Disk(work / "disk") as disk:
        if not disk.mounted:
            print("no tmpfs can be mounted here: without full disks")
        campaign = Campaign(work, disk, seed)
        while campaign.faults < faults:
            campaign.one_job(faults - campaign.faults)
            print(f"{campaign.faults} of {faults} faults, {campaign.jobs} jobs, {time.time() - begin:.0f} s", flush=True)
        campaign.print_table(time.time() - begin)


if __name__ == "__main__":
    main()
