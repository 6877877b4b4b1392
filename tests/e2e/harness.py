# SPDX-License-Identifier: Apache-2.0
"""What the end-to-end tests share: questions for the tiny model, job files, runs of the real command and its processes,
result columns.

The commands under test are taken from $NIGHTSHIFT_BIN (the folder that holds nightshift and nightshift-rank).
"""
import itertools
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

try:
    import h5py
except ImportError:
    print("skipped: python3 has no h5py (Debian package python3-h5py)")
    sys.exit(77)

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "inputs" / "make"))
import tiny_tasks  # noqa: E402

MODEL = ROOT / "inputs" / "models" / "tiny-tasks"
NIGHTSHIFT = pathlib.Path(os.environ["NIGHTSHIFT_BIN"]) / "nightshift"
FAULTS = NIGHTSHIFT.parent.parent / "faults"  # LD_PRELOAD libraries: tests/faults
# The columns that must not depend on the geometry or the history of a run.
ANSWER_COLUMNS = ["id", "row", "sample", "text", "tokens", "offsets", "finish_reason", "error", "prompt_tokens", "output_tokens",
                  "logprobs", "top_tokens", "top_logprobs"]


class Workplace:
    """A temporary folder that goes away unless the test fails."""

    def __init__(self, name):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=f"nightshift-{name}-"))

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is None:
            shutil.rmtree(self.dir)
        else:
            print(f"kept for a look: {self.dir}")

    def __truediv__(self, name):
        return self.dir / name


def question(rng):
    return tiny_tasks.sample(rng)[1:]


def chat(rng, turns):
    """Messages of a chat with `turns` earlier turns, and the right answer to its last question."""
    messages = []
    for _ in range(turns):
        q, a = question(rng)
        messages += [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
    q, a = question(rng)
    return messages + [{"role": "user", "content": q}], a


def chats(count, seed, most_turns=3, share=0.5):
    """Chats of which a share continues an earlier chat's beginning (so that prefixes are shared)."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        messages, answer = chat(rng, rng.randint(0, most_turns))
        if made and rng.random() < share:
            start = rng.choice(made)[0][:-1]
            if len(start) <= 2 * most_turns:
                messages = start + messages[-1:]
        made.append((messages, answer))
    return made


def mixed_params(count, seed):
    """Greedy and seeded sampling, penalties, stop strings, log-probabilities, several answers: a JSON object per prompt."""
    rng = random.Random(seed)
    kinds = [
        lambda: {},
        lambda: {"temperature": 0.8, "seed": rng.randint(0, 1000)},
        lambda: {"temperature": 1.2, "top_k": 5, "n": 2},
        lambda: {"temperature": 0.9, "top_p": 0.8, "min_p": 0.02},
        lambda: {"temperature": 0.7, "logprobs": 3},
        lambda: {"repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.2},
        lambda: {"stop": [" 1", "b"], "min_tokens": 3},
        lambda: {"ignore_eos": True, "max_tokens": rng.randint(1, 90)},
    ]
    return [rng.choice(kinds)() for _ in range(count)]


def write_prompts(path, messages, ids=None, params=None, json_params=None):
    text = h5py.string_dtype("utf-8")
    with h5py.File(path, "w") as f:
        f.attrs["nightshift_format"] = "prompts/1"
        f.create_dataset("prompts/messages", data=[m if isinstance(m, (str, bytes)) else json.dumps(m) for m in messages], dtype=text)
        if ids is not None:
            f.create_dataset("prompts/id", data=ids, dtype=text)
        for name, values in (params or {}).items():
            f.create_dataset(f"params/{name}", data=values)
        if json_params is not None:
            f.create_dataset("params/json", data=[json.dumps(p) if p else "" for p in json_params], dtype=text)


def write_token_prompts(path, prompts, params=None):
    """prompts: lists of token ids."""
    with h5py.File(path, "w") as f:
        f.create_dataset("prompts/tokens", data=[token for prompt in prompts for token in prompt], dtype="i4")
        f.create_dataset("prompts/offsets", data=[0, *itertools.accumulate(map(len, prompts))], dtype="u8")
        for name, values in (params or {}).items():
            f.create_dataset(f"params/{name}", data=values)


def write_job(path, prompts, output, **sections):
    """sections: e.g. schedule={"token_budget": 128}. Values are written as TOML by way of JSON."""
    sections["sampling"] = {"max_tokens": 64, **sections.get("sampling", {})}
    sections["schedule"] = {"kv_memory": "64MiB", **sections.get("schedule", {})}
    sections["job"] = {"input": str(prompts), "output": str(output), "max_failed": 1.0, **sections.get("job", {})}
    sections["model"] = {"path": str(MODEL), **sections.get("model", {})}
    lines = []
    for section, keys in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    pathlib.Path(path).write_text("\n".join(lines) + "\n")
    return path


def command(job, ranks=1, settings=(), extra=()):
    sets = [word for s in settings for word in ("--set", s)]
    return [str(NIGHTSHIFT), "run", str(job), "--ranks", str(ranks), *sets, *extra]


def run(job, ranks=1, settings=(), extra=(), expect=0, timeout=300, env=None):
    """env: variables besides our own."""
    done = subprocess.run(command(job, ranks, settings, extra), capture_output=True, text=True, timeout=timeout,
                          env={**os.environ, **(env or {})})
    if done.returncode != expect:
        print(done.stdout[-4000:], done.stderr[-8000:], sep="\n")
        raise AssertionError(f"exit code {done.returncode}, expected {expect}: {' '.join(map(str, done.args))}")
    return done


def rank_pids(work):
    """{rank: process id} of this test's ranks: their command line names the journal folder."""
    found = {}
    for entry in os.listdir("/proc"):
        try:
            line = pathlib.Path("/proc", entry, "cmdline").read_bytes().decode().split("\0") if entry.isdigit() else [""]
            if line[0].endswith("nightshift-rank") and any(str(work.dir) in word for word in line[1:]):
                variables = pathlib.Path("/proc", entry, "environ").read_bytes().decode().split("\0")
                found[next(int(v.split("=")[1]) for v in variables if v.startswith("OMPI_COMM_WORLD_RANK="))] = int(entry)
        except (OSError, UnicodeDecodeError, StopIteration):
            continue  # it has ended, or is not ours to look at
    return found


def status(output):
    """What the ranks say of themselves twice a second; {} before the first word."""
    try:
        return json.loads(pathlib.Path(f"{output}.journal", "status.json").read_text())
    except (OSError, ValueError):
        return {}


def report(output):
    """{"summary": ..., "provenance": ...}"""
    return json.loads(subprocess.run([str(NIGHTSHIFT), "report", str(output), "--json"], check=True, capture_output=True).stdout)


def columns(path, names=ANSWER_COLUMNS):
    """The raw values of the result columns, floats as their bits, ready for comparison with ==."""
    with h5py.File(path, "r") as f:
        found = {name: f[f"results/{name}"][()] for name in names if name in f["results"]}
    return {name: (values.view(f"u{values.itemsize}") if values.dtype.kind == "f" else values).tolist()
            for name, values in found.items()}


def assert_same(expected, actual, what):
    assert expected.keys() == actual.keys(), f"{what}: columns {sorted(expected.keys() ^ actual.keys())} are not in both results"
    for name, values in expected.items():
        if values == actual[name]:
            continue
        at = next((i for i, (a, b) in enumerate(zip(values, actual[name])) if a != b), min(len(values), len(actual[name])))
        raise AssertionError(f"{what}: column {name} differs first at {at}: {values[at:at + 1]} against {actual[name][at:at + 1]}")
