# SPDX-License-Identifier: Apache-2.0
"""Many short prompts through the tiny model: memory stays flat, and what is not the model call costs little.

    many_prompts.py [PROMPTS]      default 10,000; the figures for 100,000 are in docs/performance.md
"""
import json
import os
import random
import subprocess
import sys
import time

import harness
from harness import Workplace, command, h5py, write_job, write_prompts


def resident(pids):
    total = 0
    for pid in pids:
        try:
            for line in open(f"/proc/{pid}/status"):
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1]) * 1024
        except OSError:
            pass
    return total


def rank_pids(work):
    out = subprocess.run(["pgrep", "-f", f"nightshift-rank .*{work.dir.name}"], capture_output=True, text=True).stdout
    return [int(p) for p in out.split() if "nightshift-rank" in os.readlink(f"/proc/{p}/exe")]


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10000
    rng = random.Random(1)
    with Workplace("many") as work:
        prompts = work / "prompts.h5"
        write_prompts(prompts, [[{"role": "user", "content": harness.question(rng)[0]}] for _ in range(count)])
        job = write_job(work / "job.toml", prompts, work / "answers.h5", sampling={"max_tokens": 24}, schedule={"kv_memory": "32MiB"})
        child = subprocess.Popen(command(job, 2), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        samples = []
        start = time.time()
        while child.poll() is None:
            rss = resident(rank_pids(work))
            status = work / "answers.h5.journal" / "status.json"
            if rss and status.exists():
                try:
                    samples.append((json.loads(status.read_text())["done"], rss))
                except (ValueError, OSError):
                    pass
            time.sleep(0.2)
        assert child.returncode == 0, child.returncode
        seconds = time.time() - start
        with h5py.File(work / "answers.h5") as f:
            summary = json.loads(f.attrs["summary"])
            assert f["results/text"].shape[0] == count
        # After the first fifth the KV pool and all caches have been touched; from there on nothing may grow.
        early = [r for done, r in samples if 0.2 * count <= done <= 0.4 * count]
        # The end is left out: there the ranks measure the machine's peaks with large buffers of their own.
        late = [r for done, r in samples if 0.8 * count <= done < count]
        assert early and late, "too few samples: use more prompts"
        growth = max(late) - max(early)
        print(f"{count} prompts in {seconds:.1f} s; resident memory of both ranks {max(early) / 2**20:.1f} MiB early, "
              f"{max(late) / 2**20:.1f} MiB late")
        use = summary["utilization"]
        print(f"of the ranks' time: model {100 * use['model_share']:.2f} %, everything else of the engine "
              f"{100 * use['host_share']:.2f} %, idle {100 * use['idle_share']:.2f} %")
        assert growth < 4 << 20, f"memory grew by {growth} bytes"


if __name__ == "__main__":
    main()
