# SPDX-License-Identifier: Apache-2.0
"""The steps of the GPU test kit, in order: what is right comes before what is fast. Each gets the kit and returns Markdown."""
import atexit
import importlib.util
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

from kit import ROOT, Failed, NotRun

sys.path.insert(0, str(ROOT / "tests" / "e2e"))


def has_gpu(kit):
    if kit.simulated:
        return
    if not shutil.which("nvidia-smi") or subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode != 0:
        raise NotRun("there is no GPU here; NIGHTSHIFT_CUDA_LIBRARY may name a simulated one")


def tests(kit, program, full, small, env=None):
    """Runs a test program with a filter; a filter that finds nothing is a failure."""
    has_gpu(kit)
    output = kit.run(kit.program(program), f"--gtest_filter={small if kit.small else full}", env=env, check=False)
    ran = re.search(r"\[=+\] (\d+) tests? from .* ran", output)
    failed = re.findall(r"^\[  FAILED  \] (\S+?)(?:, where.*)? \(\d+ ms\)$", output, re.M)
    first = re.search(r"^(?:\S+:\d+|unknown file): Failure\n(?:.*\n){1,6}", output, re.M)
    if failed:
        raise Failed(f"{len(failed)} tests failed: {', '.join(failed[:6])}\n{first[0] if first else ''}")
    if not ran or int(ran[1]) == 0 or "[  PASSED  ]" not in output:
        raise Failed(f"no tests ran to their end:\n{output[-2000:]}")
    skipped = re.search(r"\[  SKIPPED \] (\d+) test", output)
    return f"{ran[1]} tests, {skipped[1] if skipped else 0} skipped"


def kernels(kit):
    quick = "*/Agreement.*/{0}:*/Gemm.*/{0}:*/Rows.*/{0}:-*Attention*"
    return "\n\n".join(f"{kernel_set}: " + tests(kit, "kernels_test", f"*/{kernel_set}", quick.format(kernel_set))
                       for kernel_set in ("cuda", "cuda_fast"))


def model(kit):
    return tests(kit, "model_test", "*Invariance*_cuda:*Goldens.Agrees*:*Gpu*:*DeviceSampling*", "*Invariance.ChunkSize/llama_bias_cuda")


# --- end to end on the tiny model ---

STRICT = {"device": "cuda", "numerics": "strict", "max_restarts": 0}
# name, ranks, [parallel]; with one GPU its ranks share it, and exchange through the host's memory
GEOMETRIES = [
    ("2 ranks, TP", 2, {"replicas": 1, "sequence": 1, "tensor": 2}),
    ("2 ranks, SP", 2, {"replicas": 1, "sequence": 2, "tensor": 1, "shift": "never"}),
    ("2 ranks, shift", 2, {"replicas": 1, "sequence": 2, "tensor": 1, "shift": "random:1"}),
    ("4 ranks, TP", 4, {"replicas": 1, "sequence": 1, "tensor": 4}),
    ("4 ranks, SP", 4, {"replicas": 1, "sequence": 4, "tensor": 1, "shift": "never"}),
    ("4 ranks, SP x TP and shift", 4, {"replicas": 1, "sequence": 2, "tensor": 2, "shift": "random:1"}),
]


class Jobs:
    """Jobs of one set of prompts. The first one asked for in strict numerics on one rank is what all others are compared with."""

    def __init__(self, kit):
        has_gpu(kit)
        try:
            import h5py  # noqa: F401
        except ImportError as reason:
            raise NotRun(f"python3 has no h5py: {reason}") from None
        import harness
        self.h, self.kit = harness, kit
        self.work = harness.Workplace("gpu")
        atexit.register(shutil.rmtree, self.work.dir, ignore_errors=True)
        self.prompts = self.work / "prompts.h5"
        count = 3 if kit.small else 60
        self.sampling = {"logprobs": 2, "max_tokens": 6 if kit.small else 64}
        params = [{k: min(v, 6) if kit.small and k == "max_tokens" else v for k, v in p.items()}
                  for p in harness.mixed_params(count, 16)]
        harness.write_prompts(self.prompts, [m for m, _ in harness.chats(count, seed=15, most_turns=0 if kit.small else 3)],
                              [f"q{i}" for i in range(count)], json_params=params)
        self.reference = None

    def job(self, name, run, parallel):
        shutil.rmtree(f"{self.work / name}.h5.journal", ignore_errors=True)
        (self.work / f"{name}.h5").unlink(missing_ok=True)
        budget = {"token_budget": 64 if self.kit.small else 512}
        return self.h.write_job(self.work / f"{name}.toml", self.prompts, self.work / f"{name}.h5", run=run, sampling=self.sampling,
                                schedule=budget, parallel=parallel)

    def answers(self, name, run, ranks=1, parallel=None):
        job = self.job(name, run, parallel or {})
        self.kit.run(*self.h.command(job, ranks))
        return self.h.columns(self.work / f"{name}.h5")

    def strict(self):
        if self.reference is None:
            self.reference = self.answers("reference", STRICT)
        return self.reference

    def same(self, name, found):
        expected = self.strict()
        try:
            self.h.assert_same(expected, found, name)
        except AssertionError as difference:
            raise Failed(str(difference)) from None


def jobs_of(kit):
    if not hasattr(kit, "jobs"):
        kit.jobs = Jobs(kit)
    return kit.jobs


def one_rank(kit):
    jobs = jobs_of(kit)
    reference = jobs.strict()
    provenance = str(jobs.h.report(jobs.work / "reference.h5")["provenance"])
    if "cuda" not in provenance:
        raise Failed("the result's provenance does not name a GPU's kernels")
    jobs.same("again", jobs.answers("again", STRICT))
    return f"{len(reference['text'])} answers, {len(reference['tokens'])} tokens, twice the same bytes"


def quickstart(kit):
    jobs = jobs_of(kit)
    if kit.small:
        raise NotRun("1,000 chats are too many for a simulated GPU")
    output = jobs.work / "quickstart.h5"
    kit.run(jobs.h.NIGHTSHIFT, "run", ROOT / "jobs" / "quickstart.toml", "--ranks", 1, "--set", f"job.output={output}",
            "--set", f"job.input={ROOT / 'inputs/prompts/quickstart.h5'}", "--set", f"model.path={jobs.h.MODEL}",
            "--set", "run.device=cuda", "--set", "run.max_restarts=0")
    said = kit.run(jobs.h.NIGHTSHIFT, "report", output, "--expected", ROOT / "inputs/prompts/quickstart.h5", "--min-right", 0.95)
    return f"```\n{said.strip()}\n```"


def geometry(name, ranks, parallel):
    def check(kit):
        jobs = jobs_of(kit)
        jobs.same(name, jobs.answers(re.sub(r"\W+", "-", name), STRICT, ranks, parallel))
        return "the bytes of one rank"
    return check


def fast_repeats(kit):
    jobs = jobs_of(kit)
    fast = {**STRICT, "numerics": "fast"}
    first, second = jobs.answers("fast1", fast), jobs.answers("fast2", fast)
    jobs.h.assert_same(first, second, "fast, twice")
    ends = list(zip(jobs.strict()["output_tokens"], first["output_tokens"]))
    return f"twice the same bytes; as long as strict answers are: {sum(a == b for a, b in ends)} of {len(ends)}"


def answers_or_works(journal, since):
    """Whether a rank has an answer on disk, or prompts in work for a while: short jobs write their answers together."""
    if any(f.stat().st_size > 64 for f in journal.glob("rank-*.journal")):
        return True
    if since[0] is None and any(f.stat().st_size > 16 for f in journal.glob("in-work-*")):
        since[0] = time.monotonic()
    return since[0] is not None and time.monotonic() > since[0] + 0.15


def killed(kit):
    """A rank dies in the middle; the next start has the rest to do, and the bytes are those of a whole run."""
    jobs = jobs_of(kit)
    jobs.strict()
    job = jobs.job("killed", {**STRICT, "checkpoint_seconds": 1}, {})
    command = [str(word) for word in jobs.h.command(job, 1)]
    kit.commands.append(" ".join(command) + "  (its rank is killed with -9)")
    front = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    journal, since, shot = pathlib.Path(f"{jobs.work / 'killed.h5'}.journal"), [None], {}
    try:
        while front.poll() is None and not shot and kit.left() > 1:
            time.sleep(0.002)
            shot = jobs.h.rank_pids(jobs.work) if answers_or_works(journal, since) else {}
        for pid in shot.values():
            os.kill(pid, signal.SIGKILL)
        front.wait(timeout=kit.left())
    finally:
        if front.poll() is None:
            os.killpg(front.pid, signal.SIGKILL)
    if front.returncode == 0:
        raise NotRun("the job was through before its rank could be killed")
    kit.run(*command)
    jobs.same("after kill -9", jobs.h.columns(jobs.work / "killed.h5"))
    return "killed and continued: the same bytes"


# --- compute-sanitizer ---

SMALL_KERNELS = "*/Agreement.RowOperations/cuda:*/Agreement.NormWithin*/cuda:*/Agreement.Sampling/cuda:*/Agreement.ChosenTokens/cuda"


def sanitizer(tool, filters):
    def check(kit):
        has_gpu(kit)
        program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
        if kit.simulated:
            raise NotRun("it wants a GPU; orders of threads and guards stand in for it on the simulated one")
        if not program:
            raise NotRun("compute-sanitizer is not here")
        output = kit.run(program, "--tool", tool, "--error-exitcode", 97, kit.program("kernels_test"), f"--gtest_filter={filters}",
                         check=False)
        if "Device not supported" in output or "No attachable process" in output:
            raise NotRun("compute-sanitizer refuses this device")
        summary = re.search(r"(ERROR SUMMARY|RACECHECK SUMMARY): .*", output)
        if not summary or "[  PASSED  ]" not in output or not re.search(r": 0 (errors|hazards)", summary[0]):
            raise Failed(f"{summary[0] if summary else 'no summary'}\n{output[-3000:]}")
        return summary[0]
    return check


# --- benchmarks ---

def kernel_rates(kit):
    has_gpu(kit)
    return kit.run(kit.program("gpu_kernels_bench"), *(["--small"] if kit.small else []))


def offline(kernel_set):
    def measure(kit):
        has_gpu(kit)
        sizes = (["--shape", "tiny", "--jobs", "20/6,8/8", "--requests", 3, "--concurrency", 2, "--budget", 32] if kit.small else
                 ["--shape", "8b", "--jobs", "1024/512,128/128", "--requests", 512, "--concurrency", 256, "--budget", 8192])
        return kit.run(kit.program("offline_bench"), "--kernels", kernel_set, "--depth", 2, *sizes)
    return measure


def strict_cost(kit):
    """From what the two offline steps have printed."""
    rates = {}
    for outcome in kit.outcomes:
        if outcome.name.startswith("offline job"):
            rates[outcome.name.split()[-1]] = [float(x) for x in re.findall(r"\| output tokens/s \| ([\d.]+) \|", outcome.text)]
    if len(rates) < 2 or not all(rates.values()):
        raise NotRun("one of the two has no figure")
    strict, fast = rates["strict"], rates["fast"]
    rows = [f"| {name} | {100 * s / f:.1f} % |" for name, s, f in zip(("first job", "second job"), strict, fast)]
    return "\n".join(["| strict, of fast | |", "|---|---|", *rows]) + "\n"


def rates_of(kit, step):
    """{what: figure} of the tables that a step has printed."""
    text = "".join(outcome.text for outcome in kit.outcomes if outcome.name == step)
    return {what: float(figure) for what, figure in re.findall(r"^\| (.+?) \| ([\d.]+) (?:GB/s|TFLOP/s) \|", text, re.M)}


def with_share(kit, table):
    """Loading, as a share of what the bus was measured to carry."""
    bus = rates_of(kit, "kernel rates").get("page-locked memory to the GPU")
    return table if not bus else re.sub(r"([\d.]+) GB/s", lambda m: f"{m[0]} = {100 * float(m[1]) / bus:.1f} % of the page-locked copy", table)


def torch_products(kit):
    table = script("torch_matmul.py", "torch")(kit)
    ours, torch = rates_of(kit, "kernel rates"), {}
    for what, figure in re.findall(r"^\| (.+?), torch \| ([\d.]+) ", table, re.M):
        torch[what] = float(figure)
    lines = [f"| {what} | {100 * ours[f'{what}, cuda_fast'] / figure:.1f} % | {100 * ours[f'{what}, cuda'] / figure:.1f} % |"
             for what, figure in torch.items() if f"{what}, cuda" in ours and f"{what}, cuda_fast" in ours]
    return table + "\n" + "\n".join(["| of torch | fast | strict |", "|---|---|---|", *lines]) + "\n"


def loading(kit):
    has_gpu(kit)
    place = next((p for p in ("/dev/shm", "/tmp") if shutil.disk_usage(p).free > 12 << 30), None)
    if kit.small:
        return with_share(kit, kit.run(kit.program("offline_bench"), "--load", ROOT / "inputs/models/tiny-tasks", "--jobs", "64/8",
                                       "--budget", 64, "--concurrency", 2))
    if not importlib.util.find_spec("numpy") or place is None:
        raise NotRun("making a checkpoint needs numpy and 12 GiB in /dev/shm or /tmp")
    folder = pathlib.Path(place, f"nightshift-load-{os.getpid()}")
    try:
        kit.run(sys.executable, ROOT / "tests/bench/make_model.py", folder, "--shape", "8B", "--layers", 12)
        return with_share(kit, kit.run(kit.program("offline_bench"), "--load", folder, "--jobs", "256/64"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def script(name, *modules):
    def measure(kit):
        if kit.small:
            raise NotRun("its figures would have no counterpart on a simulated GPU")
        has_gpu(kit)
        missing = [m for m in modules if not importlib.util.find_spec(m)]
        if missing:
            raise NotRun(f"python3 has no {', '.join(missing)}")
        return kit.run(sys.executable, ROOT / "tests/bench" / name)
    return measure


def llama_cpp(kit):
    if not shutil.which("llama-batched-bench") or "NIGHTSHIFT_GGUF" not in os.environ:
        raise NotRun("llama-batched-bench is not here, or NIGHTSHIFT_GGUF does not name the model that it is to run")
    return kit.run(sys.executable, ROOT / "tests/bench/llama_cpp_bench.py", os.environ["NIGHTSHIFT_GGUF"])


STEPS = [
    ("kernel tests", 90, kernels),
    ("model tests", 60, model),
    ("end to end, 1 rank, strict", 60, one_rank),
    *((f"end to end, {name}", 40, geometry(name, ranks, parallel)) for name, ranks, parallel in GEOMETRIES),
    ("end to end, fast, repeated", 40, fast_repeats),
    ("end to end, killed and continued", 40, killed),
    ("quickstart", 40, quickstart),
    ("memcheck", 60, sanitizer("memcheck", SMALL_KERNELS + ":*/Agreement.Products/cuda:*/Rows.ReadNothing*/cuda")),
    ("racecheck", 60, sanitizer("racecheck", SMALL_KERNELS)),
    ("kernel rates", 60, kernel_rates),
    ("offline job, fast", 90, offline("cuda_fast")),
    ("offline job, strict", 90, offline("cuda")),
    ("strict against fast", 5, strict_cost),
    ("loading a model", 60, loading),
    ("products of torch", 30, torch_products),
    ("transformers, continuous batching", 90, script("transformers_bench.py", "torch", "transformers")),
    ("llama.cpp", 90, llama_cpp),
]
