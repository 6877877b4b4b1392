# SPDX-License-Identifier: Apache-2.0
"""nightshift under a real Slurm of several nodes on this machine: chains past the time limit, `scontrol requeue`, lost nodes, an
array. Every result has the bytes of a run without Slurm.

    slurm.py [SCENARIO...]        chain, deadline, requeue, lost_node, lost_node_mpirun, keep, keep_mpirun, array
"""
import datetime
import pathlib
import shutil
import signal
import sys

import harness
from harness import FAULTS, NIGHTSHIFT, Workplace, assert_same, chats, columns, run, write_job, write_prompts
from slurm_cluster import SlurmCluster, environment_of, wait_for, why_not

OPTIONS = {"sampling": {"temperature": 0.6, "max_tokens": 60, "ignore_eos": True}, "schedule": {"max_sequences": 4},
           "run": {"threads": 1}}
PROMPTS = 1200
PAUSE = 80  # ms for each prompt: jobs last longer than Slurm takes to notice a lost node, on the fastest machine
PARTS = ["part-0.h5", "part-1.h5"]
CHAIN = 12
PATIENCE = 400  # seconds
OVER = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"}


class Scenario:
    """A job of its own in the folder that all share."""

    def __init__(self, cluster, work, name):
        self.cluster, self.name = cluster, name
        self.output = work / f"{name}.h5"
        self.file = write_job(work / f"{name}.toml", work / "prompts.h5", self.output, **OPTIONS, job={"name": name})

    def submit(self, *words, pause=PAUSE):
        """Its Slurm jobs, whose ranks take their time."""
        slow = {"LD_PRELOAD": str(FAULTS / "slow_prompts.so"), "SLOW_PROMPTS": str(pause)}
        self.ids = self.cluster.command(NIGHTSHIFT, "submit", self.file, *words, environment=slow).split()

    def log(self):
        return "\n".join(log.read_text() for log in sorted(self.output.parent.glob(f"{self.name}-*.log")))

    def answered(self):
        return harness.status(self.output).get("done", 0)

    def wait_until_under_way(self):
        wait_for(f"{self.name}: first answers", lambda: self.answered() > 20 or self.over(self.ids[0]), PATIENCE)
        assert not self.over(self.ids[0]), f"{self.name}: over already\n{self.log()}"

    def over(self, job_id):
        """The state of a Slurm job that has reached its last one; "" before."""
        job = self.cluster.job(job_id)
        return job["JobState"] if job["JobState"] in OVER else ""

    def wait_until_over(self, job_id):
        return wait_for(f"{self.name}: the end of job {job_id}", lambda: self.over(job_id), PATIENCE)

    def check_ranks(self, count, launcher):
        """What the ranks find in their environment when they start."""
        environments = [environment_of(pid) for pid in self.cluster.processes() if self.is_rank(pid)]
        assert len(environments) == count, f"{self.name}: {len(environments)} ranks, not {count}"
        end = datetime.datetime.fromisoformat(self.cluster.job(self.ids[0])["EndTime"]).timestamp()
        for variables in environments:
            assert f"SLURM_JOB_END_TIME={end:.0f}" in variables, f"{self.name}: {sorted(variables)}"
            steps = [v for v in variables if v.startswith("SLURM_STEP_ID=") and v[14:].isdigit()]
            assert bool(steps) == (launcher == "srun"), f"{self.name}: {steps}, to be started by {launcher}"

    def is_rank(self, pid):
        try:
            words = pathlib.Path("/proc", str(pid), "cmdline").read_bytes().decode().split("\0")
        except OSError:
            return False
        return words[0].endswith("nightshift-rank") and f"{self.name}" in words[1]

    def check(self, calm):
        """calm: {"": the undisturbed result} or, of an array, {"-part-0": ..., ...}"""
        for part, expected in calm.items():
            output = self.output.with_stem(self.output.stem + part)
            assert output.exists(), f"{output.name}: no result\n{self.log()}"
            assert_same(columns(expected), columns(output), output.name)
            assert not pathlib.Path(f"{output}.journal").exists(), f"{output.name}: the journal outlived the result"


def start_chain(scenario):
    """One-minute jobs. Slurm looks every 30 s and may send the signal as much early, so each works for 10 s at least."""
    scenario.submit("--chain", str(CHAIN), "--time", "1", "--ranks", "1", "--set", "run.stop_before_end_seconds=0",
                    "--", "--signal=B:USR1@20", "--nodelist=n1", pause=50)


def finish_chain(scenario):
    return f"{links_of_the_chain(scenario, 'stopping (USR1)')} stopped by Slurm's signal with code 75, then done, the rest dropped"


def start_deadline(scenario):
    """No signal: the ranks know when the allocation ends. (SIGCONT is for nothing; without it the template's would come.)"""
    scenario.submit("--chain", str(CHAIN), "--time", "1", "--ranks", "1", "--set", "run.stop_before_end_seconds=20",
                    "--", "--signal=B:CONT@20", "--nodelist=n10", pause=50)


def finish_deadline(scenario):
    return f"{links_of_the_chain(scenario, 'stopped early (end of the allocation)')} stopped by themselves with code 75, then done, the rest dropped"


def links_of_the_chain(scenario, stopped_by):
    states = [scenario.wait_until_over(job_id) for job_id in scenario.ids]
    stopped = states.index("COMPLETED")
    assert stopped >= 1, f"the work fitted into one time limit: {states}\n{scenario.log()}"
    assert states == ["FAILED"] * stopped + ["COMPLETED"] + ["CANCELLED"] * (CHAIN - 1 - stopped), f"{states}\n{scenario.log()}"
    for job_id in scenario.ids[:stopped]:
        assert scenario.cluster.job(job_id)["ExitCode"] == "75:0", scenario.cluster.job(job_id)
    assert scenario.log().count(stopped_by) >= stopped, f"{stopped} stops, not all {stopped_by}\n{scenario.log()}"
    return f"{stopped} of {CHAIN} jobs"


def start_requeue(scenario):
    scenario.submit("--template", "preemptible", "--nodes", "2", "--", "--nodelist=n[2-3]")
    scenario.wait_until_under_way()
    scenario.check_ranks(2, "srun")
    scenario.cluster.command("scontrol", "requeue", scenario.ids[0])


def finish_requeue(scenario):
    return finish_second_start(scenario, "requeued on two nodes")


def start_lost_node(scenario):
    """Not the node of the batch script: Slurm would have to find out itself, which takes its SlurmdTimeout."""
    scenario.submit("--template", "preemptible", "--nodes", "2", "--", "--nodelist=n4", "--exclude=n[1-3,7-14]")
    scenario.wait_until_under_way()
    batch, other = scenario.cluster.job(scenario.ids[0])["BatchHost"], scenario.cluster.job(scenario.ids[0])["NodeList"]
    assert (batch, other) == ("n4", "n[4-5]"), (batch, other)
    scenario.cluster.lose_node("n5")


def finish_lost_node(scenario):
    text = finish_second_start(scenario, "lost a node")
    nodes = scenario.cluster.job(scenario.ids[0])["NodeList"]
    assert nodes == "n[4,6]", f"the second start was on {nodes}"
    return text + f" on {nodes}"


def finish_second_start(scenario, what):
    state = scenario.wait_until_over(scenario.ids[0])
    job = scenario.cluster.job(scenario.ids[0])
    assert state == "COMPLETED" and int(job["Restarts"]) >= 1, f"{state}, {job.get('Restarts')} restarts\n{scenario.log()}"
    assert "continues the journal" in scenario.log(), scenario.log()
    return f"{what}, done at start {int(job['Restarts']) + 1}"


def start_lost_node_mpirun(scenario):
    """mpirun ends at once when a node goes: where nightshift may not start the ranks again, the batch script finds out
    why, and asks Slurm for another start."""
    scenario.submit("--template", "preemptible", "--nodes", "2", "--set", "run.max_restarts=0", "--", "--nodelist=n7",
                    "--exclude=n[1-6,10-14]", f"--export=ALL,PATH={path_without_pmix(scenario)}")
    scenario.wait_until_under_way()
    scenario.cluster.lose_node("n8")


def finish_lost_node_mpirun(scenario):
    text = finish_second_start(scenario, "lost a node under mpirun")
    assert "back into the queue" in scenario.log(), scenario.log()
    return text


def path_without_pmix(scenario):
    """Where srun says that it has no PMIx, mpirun starts the ranks."""
    programs, path = scenario.output.parent / "without-pmix", scenario.cluster.environment["PATH"]
    programs.mkdir(exist_ok=True)
    srun = programs / "srun"
    srun.write_text('#!/bin/bash\n[[ $1 != --mpi=list ]] || { echo "MPI plugin types are none"; exit; }\n'
                    f'exec {shutil.which("srun", path=path)} "$@"\n')
    srun.chmod(0o755)
    return f"{programs}:{path}"


def start_keep(scenario, nodes="n[11-12]", *more):
    """An allocation that outlives its nodes: the ranks start again on what is left of it."""
    scenario.submit("--template", "multi", "--nodes", "2", "--", "--no-kill", f"--nodelist={nodes}", *more)
    scenario.wait_until_under_way()
    batch = scenario.cluster.job(scenario.ids[0])["BatchHost"]
    scenario.cluster.lose_node({"n11": "n12", "n13": "n14"}[batch])


def finish_keep(scenario):
    state = scenario.wait_until_over(scenario.ids[0])
    job = scenario.cluster.job(scenario.ids[0])
    assert state == "COMPLETED" and int(job["Restarts"]) == 0, f"{state}, {job['Restarts']} restarts\n{scenario.log()}"
    assert "1 of 2 nodes are left: 1 rank" in scenario.log(), scenario.log()
    return "lost one of two nodes, done on the other in the same allocation"


def start_keep_mpirun(scenario):
    start_keep(scenario, "n[13-14]", f"--export=ALL,PATH={path_without_pmix(scenario)}")


finish_keep_mpirun = finish_keep


def start_array(scenario):
    scenario.submit("--template", "array", *(word for part in PARTS for word in ("--input", scenario.file.parent / part)),
                    "--ranks", "2", "--", "--nodelist=n1", "--exclude=n[2-14]")


def finish_array(scenario):
    state = scenario.wait_until_over(scenario.ids[0])
    assert state == "COMPLETED", f"{state}\n{scenario.log()}"
    return f"{len(PARTS)} tasks of one job"


def undisturbed(work):
    """What the scenarios' results must be equal to, run without Slurm: {scenario: {part: result file}}"""
    messages = [m for m, _ in chats(PROMPTS, seed=3)]
    made = {}
    for name, count in {"prompts.h5": PROMPTS, **{part: 100 for part in PARTS}}.items():
        write_prompts(work / name, messages[:count], [f"{name}-{i}" for i in range(count)])
        made[name] = work / f"calm-{name}"
        run(write_job(work / "calm.toml", work / name, made[name], **OPTIONS), ranks=2)
    whole = {"": made["prompts.h5"]}
    names = ["chain", "deadline", "requeue", "lost_node", "lost_node_mpirun", "keep", "keep_mpirun"]
    return {**{name: whole for name in names}, "array": {"-" + pathlib.Path(part).stem: made[part] for part in PARTS}}


def main():
    if reason := why_not():
        print(f"skipped: {reason}")
        sys.exit(77)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what the test has started ends with it
    with Workplace("slurm") as work:
        calm = undisturbed(work)
        with SlurmCluster(work / "slurm", 14) as cluster:
            # At the same time: most of it is what Slurm takes to notice things.
            scenarios = {name: Scenario(cluster, work, name) for name in sys.argv[1:] or calm}
            for name, scenario in scenarios.items():
                globals()[f"start_{name}"](scenario)
            for name, scenario in scenarios.items():
                text = globals()[f"finish_{name}"](scenario)
                scenario.check(calm[name])
                print(f"{name}: {text}: same bytes", flush=True)


if __name__ == "__main__":
    main()
