# SPDX-License-Identifier: Apache-2.0
"""What sharing the work between ranks costs on one machine, with random weights of a real shape (make_model.py).

    NIGHTSHIFT_BIN=build/cpu-release/bin python3 tests/bench/parallel_throughput.py [PART ...]

speed      1 rank x 2 threads against 2 ranks x 1 thread as replicas, tensor and sequence parallel, without and with shift: the
           shape of Qwen2.5-0.5B, a prefill-heavy and a decode-heavy job, alternating runs; the medians of the rounds' ratios, since
           the speed of a shared machine drifts
memory     the node's memory (PSS of all ranks while they run) on 1, 2, 4 and 8 ranks: the shape of Llama-3.2-1B, the same KV cache
           in all
balance    500 prompts with answers of 1 to 200 tokens on two replicas: the share of rank time without work

All parts by default. --rounds N (3), --layers N (of the shape for speed), --folder F keeps models there. Ends with code 1 when
answers differ; speeds are for the reader.
"""
import argparse
import os
import pathlib
import random
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
import harness  # noqa: E402
from harness import Workplace, assert_same, columns, rank_pids, report, status, write_job, write_token_prompts  # noqa: E402
from make_model import SHAPES, make_model  # noqa: E402

MIB = 1 << 20
ONE = {"replicas": 1, "sequence": 1, "tensor": 1}
LAYOUTS = {  # name: [parallel], threads of a rank, goal as a share of the first
    "1 rank x 2 threads": (ONE, 2, None),
    "DP2": ({**ONE, "replicas": 2}, 1, 0.95),
    "TP2": ({**ONE, "tensor": 2}, 1, 0.90),
    "SP2, shift never": ({**ONE, "sequence": 2, "shift": "never"}, 1, 0.90),
    "SP2, shift auto": ({**ONE, "sequence": 2, "shift": "auto"}, 1, 0.90),
}
MIXES = {  # name: prompts, tokens of each, tokens of an answer
    "prefill": (8, 512, 4),
    "decode": (64, 16, 24),
}


def random_prompts(rng, lengths, shape):
    vocab = SHAPES[shape][-1]
    return [[rng.randrange(vocab) for _ in range(length)] for length in lengths]


def model_of(shape, folder, layers=None):
    path = pathlib.Path(folder) / f"{shape}-{layers or 'all'}"
    return path if (path / "model.safetensors").exists() else make_model(path, shape, layers)


def plain_read_rate(path):
    """Bytes/s of one pread after another, from the page cache when it is warm."""
    buffer = bytearray(8 * MIB)
    begin, total = time.time(), 0
    with open(path, "rb", buffering=0) as f:
        while count := f.readinto(buffer):
            total += count
    return total / (time.time() - begin)


def communication(output):
    """The report from its section "Parallel" on."""
    text = subprocess.run([str(harness.NIGHTSHIFT), "report", str(output)], check=True, capture_output=True, text=True).stdout
    return text[text.find("Parallel\n"):] if "Parallel\n" in text else ""


def speed(work, folder, options):
    model = model_of("0.5B", folder, options.layers)
    rates = {mix: {name: [] for name in LAYOUTS} for mix in MIXES}
    tables, references = {}, {}
    for round_ in range(options.rounds):
        for mix, (count, prompt_tokens, answer_tokens) in MIXES.items():
            prompts = work / f"{mix}.h5"
            write_token_prompts(prompts, random_prompts(random.Random(mix), [prompt_tokens] * count, "0.5B"))
            for name, (layout, threads, _) in LAYOUTS.items():
                output = work / "answers.h5"
                output.unlink(missing_ok=True)
                job = write_job(work / "job.toml", prompts, output, model={"path": str(model), "max_context": 1024}, parallel=layout,
                                run={"threads": threads}, schedule={"kv_memory": "256MiB", "max_sequences": 32},
                                sampling={"max_tokens": answer_tokens, "ignore_eos": True})
                harness.run(job, ranks=0, timeout=1200)
                answers = columns(output)
                assert_same(references.setdefault(mix, answers), answers, f"{mix}, {name}")
                rate = report(output)["summary"]["throughput"]["total_tokens_per_s"]
                rates[mix][name].append(rate)
                tables[mix, name] = communication(output)
                print(f"round {round_ + 1}, {mix:8} {name:20} {rate:8.1f} tokens/s", flush=True)
    for (mix, name), table in tables.items():
        if table:
            print(f"\n{mix}, {name}\n{table}")
    print(f"plain read of the checkpoint: {plain_read_rate(model / 'model.safetensors') / 1e9:.2f} GB/s, one thread")
    print(f"\n{'tokens/s, median of ' + str(options.rounds):36}" + "".join(f"{mix:>12}{'ratio':>8}" for mix in MIXES) + "    goal")
    for name, (_, _, goal) in LAYOUTS.items():
        cells = ""
        for mix in MIXES:
            first, own = rates[mix]["1 rank x 2 threads"], rates[mix][name]
            cells += f"{statistics.median(own):12.1f}{statistics.median(b / a for a, b in zip(first, own)):8.3f}"
        print(f"  {name:34}{cells}    {'' if goal is None else f'{goal:.2f}'}")


def memory_of(pids):
    """Bytes of all processes by kind; what they share counts once."""
    kinds = dict.fromkeys(["Pss", "Pss_Shmem", "Pss_Anon", "Pss_File"], 0)
    for pid in pids:
        try:
            for line in open(f"/proc/{pid}/smaps_rollup"):
                key = line.split(":")[0]
                if key in kinds:
                    kinds[key] += int(line.split()[1]) * 1024
        except OSError:
            continue
    return kinds


def watch_memory(work, job, output, ranks):
    """The largest sum while answers came. Not at the end, where ranks measure the machine's peaks with buffers of their own."""
    child = subprocess.Popen(harness.command(job, ranks=0), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    largest = memory_of([])
    while child.poll() is None:
        pids, before = rank_pids(work).values(), status(output)
        now = memory_of(pids)
        after = status(output)
        going = before.get("state") == after.get("state") == "running" and after["done"] < after["samples_total"]
        if going and len(pids) == ranks and now["Pss"] > largest["Pss"]:
            largest = now
        time.sleep(0.1)
    assert child.returncode == 0, f"exit code {child.returncode}"
    assert largest["Pss"] > 0, "no look at the running ranks"
    return largest


def memory(work, folder, options):
    model = model_of("1B", folder)
    prompts = work / "memory.h5"
    write_token_prompts(prompts, random_prompts(random.Random(1), [32] * 24, "1B"))
    geometries = [(1, 1, 1), (1, 1, 2), (1, 2, 1), (1, 2, 2), (1, 2, 4), (1, 8, 1), (8, 1, 1)]
    print(f"\n{'node memory, MiB (PSS)':32}{'all':>8}{'shared':>8}{'own':>8}{'files':>8}{'growth':>8}{'of weights':>12}")
    first = reference = None
    for replicas, sequence, tensor in geometries:
        ranks = replicas * sequence * tensor
        output = work / "answers.h5"
        output.unlink(missing_ok=True)
        job = write_job(work / "job.toml", prompts, output, model={"path": str(model), "max_context": 512}, run={"threads": 1},
                        parallel={"replicas": replicas, "sequence": sequence, "tensor": tensor, "shift": "random:1"},
                        schedule={"kv_memory": f"{256 // ranks}MiB", "token_budget": 128, "max_sequences": 16 // replicas},
                        sampling={"max_tokens": 16, "ignore_eos": True})
        seen = watch_memory(work, job, output, ranks)
        answers = columns(output)
        first, reference = first or seen, reference or answers
        assert_same(reference, answers, f"{replicas} x (SP {sequence} x TP {tensor})")
        weights = (model / "model.safetensors").stat().st_size
        growth = seen["Pss"] - first["Pss"]
        print(f"  {ranks} = {replicas} x (SP {sequence} x TP {tensor})".ljust(32) + "".join(f"{bytes_ / MIB:8.0f}" for bytes_ in seen.values()) +
              f"{growth / MIB:8.0f}{100 * growth / weights:10.1f} %", flush=True)


def balance(work, folder, options):
    model = model_of("20M", folder)
    rng = random.Random(2)
    lengths = [1 + 199 * i // 499 for i in range(500)]
    rng.shuffle(lengths)
    prompts = work / "balance.h5"
    write_token_prompts(prompts, random_prompts(rng, [rng.randint(8, 64) for _ in lengths], "20M"), {"max_tokens": lengths})
    print(f"\n{'500 prompts, answers of 1 to 200':34}{'seconds':>8}{'tokens/s':>10}{'idle':>8}   by replica")
    reference = None
    for layout in ({**ONE, "replicas": 2}, {**ONE, "replicas": 2, "sequence": 2, "shift": "auto"}, {**ONE, "replicas": 2, "tensor": 2}):
        output = work / "answers.h5"
        output.unlink(missing_ok=True)
        harness.run(write_job(work / "job.toml", prompts, output, model={"path": str(model), "max_context": 512}, parallel=layout,
                              run={"threads": 1}, schedule={"kv_memory": "64MiB", "max_sequences": 32}, sampling={"ignore_eos": True}),
                    ranks=0, timeout=1200)
        answers = columns(output)
        reference = reference or answers
        assert_same(reference, answers, str(layout))
        summary = report(output)["summary"]
        shares = ", ".join(f"{100 * share:.1f} %" for share in summary["parallel"]["idle_share_per_replica"])
        print(f"  {layout['replicas']} x (SP {layout['sequence']} x TP {layout['tensor']})".ljust(34) +
              f"{summary['seconds']:8.1f}{summary['throughput']['total_tokens_per_s']:10.0f}"
              f"{100 * summary['utilization']['idle_share']:6.1f} %   {shares}", flush=True)


def main():
    parts = {"speed": speed, "memory": memory, "balance": balance}
    options = argparse.ArgumentParser()
    options.add_argument("parts", nargs="*", default=list(parts))
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--layers", type=int)
    options.add_argument("--folder")
    options = options.parse_args()
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the start")
    with Workplace("parallel-throughput") as work:
        for part in options.parts:
            parts[part](work, options.folder or work.dir, options)


if __name__ == "__main__":
    main()
