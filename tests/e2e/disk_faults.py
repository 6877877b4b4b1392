# SPDX-License-Identifier: Apache-2.0
"""Disks that fill up, turn read-only or return errors, and inputs that vanish: the job stops with code 1 (or 2 where nothing was
begun), what is committed stays, and the same command completes it with the same bytes once the cause is gone.

The faults come from tests/faults/disk_faults.c and, where mounting is allowed, from a small tmpfs.
"""
import json
import os
import pathlib
import shutil
import subprocess
import time

import harness
from harness import FAULTS, NIGHTSHIFT, Workplace, assert_same, chats, columns, report, run, write_job, write_prompts

LIBRARY = FAULTS / "disk_faults.so"
OPTIONS = {"sampling": {"temperature": 0.7, "max_tokens": 40, "ignore_eos": True}, "schedule": {"max_sequences": 4}}

# (what breaks, word in the path, call, calls that still work, errno, program, words of the message)
FAULTS = [
    ("journal, disk full", "/rank-", "write", 1, "ENOSPC", "nightshift-rank", "No space left"),
    ("journal, I/O error at sync", "/rank-", "sync", 1, "EIO", "nightshift-rank", "Input/output error"),
    ("journal, read-only", "/rank-", "open", 0, "EROFS", "nightshift-rank", "Read-only file system"),
    ("start record, disk full", "/run-0", "write", 0, "ENOSPC", "nightshift-rank", "No space left"),
    ("job folder, read-only", ".journal/", "open", 0, "EROFS", "", "Read-only file system"),
    ("resolved job, disk full", "/job.json", "write", 0, "ENOSPC", "", "No space left"),
    ("input, I/O error", "prompts.h5", "read", 6, "EIO", "nightshift-rank", "prompts.h5"),
    ("result, disk full", "answers.h5.tmp-", "write", 2, "ENOSPC", "", "answers.h5"),
    ("result, I/O error at sync", "answers.h5.tmp-", "sync", 0, "EIO", "", "Input/output error"),
]


def fault(word, call, after, errno, program):
    return {"LD_PRELOAD": str(LIBRARY), "DISK_FAULT_PATH": word, "DISK_FAULT_CALL": call, "DISK_FAULT_AFTER": str(after),
            "DISK_FAULT_ERRNO": errno, "DISK_FAULT_PROGRAM": program}


def status(output):
    return json.loads(subprocess.run([str(NIGHTSHIFT), "status", str(output), "--json"], check=True, capture_output=True).stdout)


def committed(output):
    return status(output)["committed_rows"] if pathlib.Path(f"{output}.journal", "manifest.json").exists() else 0


def complete(job, output, calm, what, least):
    """The cause is gone: the job completes, with the same bytes, and does nothing twice. `least`: rows that were safe."""
    run(job, ranks=2)
    assert_same(calm, columns(output), what)
    journal = report(output)["summary"]["journal"]
    assert journal["duplicates"] == 0 and journal["conflicts"] == 0, (what, journal)
    assert journal["records"] == len(calm["row"]) >= least, (what, journal)


def begun_job(job, output):
    """As a crash leaves it: about half of the answers, and a torn one at the end. Returns how many are whole."""
    run(job, ranks=1, expect=1, env=fault("answers.h5.tmp-", "write", 0, "ENOSPC", ""))
    for journal in pathlib.Path(f"{output}.journal").glob("rank-*"):
        os.truncate(journal, journal.stat().st_size // 2)
    return committed(output)


def injected(work, prompts, calm):
    output, begun = work / "answers.h5", work / "begun"
    journal = pathlib.Path(f"{output}.journal")
    job = write_job(work / "job.toml", prompts, output, **OPTIONS)
    before = begun_job(job, output)
    assert 0 < before < len(calm["row"]), before
    journal.rename(begun)
    for what, word, call, after, errno, program, words in FAULTS:
        output.unlink(missing_ok=True)
        shutil.copytree(begun, journal)
        begin = time.time()
        done = run(job, ranks=2, expect=1, env=fault(word, call, after, errno, program))
        assert words in done.stderr, (what, done.stderr)
        assert not output.exists(), what
        safe = committed(output)
        assert safe >= before, (what, safe, before)
        complete(job, output, calm, what, safe)
        print(f"{what:28} exit 1, {safe:3} of {len(calm['row'])} rows safe, then complete, {time.time() - begin:.1f} s")


def harmless(work, prompts, calm):
    """Nothing needs status.json: a job goes on without."""
    job = write_job(work / "job.toml", prompts, work / "harmless.h5", **OPTIONS)
    run(job, ranks=2, env=fault("status.json", "write", 0, "ENOSPC", ""))
    assert_same(calm, columns(work / "harmless.h5"), "status.json cannot be written")


def vanished_input(work, calm_prompts, calm):
    prompts, away, output = work / "here.h5", work / "away.h5", work / "vanished.h5"
    prompts.write_bytes(calm_prompts.read_bytes())
    job = write_job(work / "job.toml", prompts, output, **OPTIONS)
    # Answered, but not written: the result's disk is full.
    run(job, ranks=2, expect=1, env=fault("vanished.h5.tmp-", "write", 0, "ENOSPC", ""))
    prompts.rename(away)
    refused = run(job, ranks=2, expect=2)
    assert "here.h5" in refused.stderr, refused.stderr
    seen = status(output)
    assert seen["committed_rows"] == len(calm["row"]) and seen["state"] == "dead", seen
    away.rename(prompts)
    # --resume on a complete journal only finalizes: no start besides the first.
    run(job, ranks=2, extra=["--resume"])
    assert_same(calm, columns(output), "input back again")
    assert len(report(output)["provenance"]["runs"]) == 1, "ranks were started for a complete journal"


def small_disk(work, prompts, calm):
    """A real full disk. False where this user may not mount one."""
    disk = work / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], capture_output=True).returncode != 0:
        disk.rmdir()
        return False
    try:
        job = write_job(work / "small.toml", prompts, disk / "answers.h5", **OPTIONS)
        done = run(job, ranks=2, expect=1)
        assert "No space left" in done.stderr, done.stderr
        safe = committed(disk / "answers.h5")
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        complete(job, disk / "answers.h5", calm, "small disk", safe)
        print(f"{'tmpfs of 64 KiB':28} exit 1, {safe:3} of {len(calm['row'])} rows safe, then complete")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    return True


def main():
    with Workplace("disk-faults") as work:
        prompts = work / "prompts.h5"
        write_prompts(prompts, [m for m, _ in chats(48, seed=21)], [f"q{i}" for i in range(48)])
        run(write_job(work / "calm.toml", prompts, work / "calm.h5", **OPTIONS), ranks=1)
        calm = columns(work / "calm.h5")
        injected(work, prompts, calm)
        harmless(work, prompts, calm)
        vanished_input(work, prompts, calm)
        if not small_disk(work, prompts, calm):
            print("skipped: no right to mount a tmpfs, so no real full disk")


if __name__ == "__main__":
    main()
