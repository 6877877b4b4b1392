#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The GPU test kit's frame: steps with time limits, and the report. tests/gpu/run.sh sets the environment and calls it.

A step is a function of steps.py that returns what the report shows and raises Failed or NotRun; one that fails does not stop the
others. The whole run is bounded: a step gets at most what is left.
"""
import argparse
import dataclasses
import datetime
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import traceback

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Failed(Exception):
    pass


class NotRun(Exception):
    pass


@dataclasses.dataclass
class Outcome:
    name: str
    verdict: str  # pass, FAIL, not run
    seconds: float
    why: str
    text: str


class Kit:
    def __init__(self, options):
        self.build = pathlib.Path(options.build)
        self.library = os.environ.get("NIGHTSHIFT_CUDA_LIBRARY", "")
        self.simulated = "simulated" in pathlib.Path(self.library).name
        self.small = options.small or self.simulated
        self.deadline = time.monotonic() + options.seconds
        self.limit = 0.0  # when the step at work has to end
        self.outcomes = []
        self.commands = []

    def program(self, name):
        """A program of the build, wherever CMake put it."""
        for folder in ("bin", ".", "tests/bench"):
            if (self.build / folder / name).is_file():
                return str(self.build / folder / name)
        raise NotRun(f"{name} is not in {self.build.name}")

    def left(self):
        return max(1.0, min(self.limit, self.deadline) - time.monotonic())

    def run(self, *words, env=None, check=True):
        """stdout and stderr of a command of this step; its processes end with the step's time."""
        words = [str(word) for word in words]
        self.commands.append(" ".join([*(f"{k}={v}" for k, v in (env or {}).items()), *words]))
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                                   start_new_session=True, env={**os.environ, **(env or {})})
        try:
            output, _ = process.communicate(timeout=self.left())
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            raise Failed(f"still at work after its time; the end of what it said:\n{output[-1500:]}") from None
        if check and process.returncode != 0:
            telling = re.search(r"^.*(?:failed|[Ee]rror|nightshift(?:-rank)?: |nightshift-rank on).*$", output, re.M)
            raise Failed(f"exit code {process.returncode}: {telling[0] if telling else ''}\n{output[-3000:]}")
        return output

    def step(self, name, seconds, work):
        self.commands = []
        start = time.monotonic()
        self.limit = start + seconds
        verdict, why, text = "pass", "", ""
        print(f"==> {name:56} ", end="", flush=True)
        try:
            if self.deadline - start < 5:
                raise NotRun("the time of the whole run is used up")
            text = work(self) or ""
        except NotRun as reason:
            verdict, why = "not run", str(reason)
        except Exception as reason:  # a broken check is a failed check
            verdict, why = "FAIL", str(reason) or type(reason).__name__
            if not isinstance(reason, (Failed, AssertionError)):
                why += "\n" + traceback.format_exc(limit=-3)
        outcome = Outcome(name, verdict, time.monotonic() - start, why, text)
        self.outcomes.append(outcome)
        print(f"{verdict:8} {outcome.seconds:6.1f} s  {why.splitlines()[0][:100] if why else ''}", flush=True)
        outcome.text = "".join(f"    {command}\n" for command in dict.fromkeys(self.hide(c) for c in self.commands)) + "\n" + text

    def hide(self, command):
        """Folders of this machine are nobody's business in a report."""
        command = command.replace(str(self.build), "BUILD").replace(str(ROOT), ".")
        return re.sub(r"/\S*/(nightshift-[\w-]*\w{8}/)", r"\1", command)

    def report(self):
        failed = sum(o.verdict == "FAIL" for o in self.outcomes)
        lines = [f"# GPU report, {datetime.date.today().isoformat()}", ""]
        if self.simulated:
            lines += ["**A simulated GPU: the checks count, the figures mean nothing.**", ""]
        lines += ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in machine(self)), ""]
        lines += [f"{sum(o.verdict == 'pass' for o in self.outcomes)} passed, {failed} failed, "
                  f"{sum(o.verdict == 'not run' for o in self.outcomes)} not run, "
                  f"{sum(o.seconds for o in self.outcomes):.0f} s", "",
                  "| step | | seconds | why |", "|---|---|---|---|"]
        for o in self.outcomes:
            first = self.hide(o.why.splitlines()[0]) if o.why else ""
            lines.append(f"| {o.name} | {o.verdict} | {o.seconds:.1f} | {first.replace('|', '/')} |")
        for o in self.outcomes:
            lines += ["", f"## {o.name}", "", o.text.rstrip()]
            if "\n" in o.why:
                lines += ["", "```", self.hide(o.why.rstrip()), "```"]
        return "\n".join(lines) + "\n"


def quiet(*words):
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=20, cwd=ROOT, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def machine(kit):
    gpus = quiet("nvidia-smi", "--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader")
    carried = ROOT / "COMMIT"
    commit = carried.read_text().strip() if carried.is_file() else quiet("git", "describe", "--always", "--dirty", "--abbrev=12")
    yield "commit", commit or "not known"
    yield "GPU", "simulated" if kit.simulated else "; ".join(gpus.splitlines()) or "none that nvidia-smi shows"
    processor = re.search(r"model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text())
    yield "processor", f"{processor[1] if processor else 'not known'}, {len(os.sched_getaffinity(0))} cores to use"
    yield "sizes", "small" if kit.small else "full"


def main():
    import steps
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build")
    parser.add_argument("--report", default="gpu-report.md")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--only", default="", help="steps in whose name this regular expression is found")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--seconds", type=float, default=470, help="for everything together")
    options = parser.parse_args()
    kit = Kit(options)
    chosen = [step for step in steps.STEPS if re.search(options.only, step[0])]
    if options.list:
        print("\n".join(f"{name}  (at most {seconds} s)" for name, seconds, _ in chosen))
        return
    for name, seconds, work in chosen:
        kit.step(name, seconds, work)
        pathlib.Path(options.report).write_text(kit.report())  # whatever happens next, this much is there
    verdicts = [outcome.verdict for outcome in kit.outcomes]
    sys.exit(1 if "FAIL" in verdicts else 0 if "pass" in verdicts else 77)


if __name__ == "__main__":
    sys.modules["kit"] = sys.modules[__name__]  # steps.py imports this very module
    main()
