# SPDX-License-Identifier: Apache-2.0
"""The same job gives the same bytes over simulated GPUs, however ranks share the work: with a GPU each they exchange data by NCCL's
stand-in, on one GPU through host memory; the run record names the way.

    gpu_groups.py            sequence, tensor and both, with shifts
    --prompts N              default 6
"""
import argparse
import time

from harness import NIGHTSHIFT, Workplace, assert_same, chats, columns, report, run, write_job, write_prompts

SIMULATED = NIGHTSHIFT.parent.parent / "simulated"
GPUS = {"NIGHTSHIFT_CUDA_LIBRARY": str(SIMULATED / "nightshift-cuda-simulated.so"),
        "NIGHTSHIFT_NCCL_LIBRARY": str(SIMULATED / "nccl-on-host.so"),
        "NIGHTSHIFT_SIMULATED_GPUS": "4"}
# sequence, tensor, shift, transport, GPUs that the ranks see
CASES = [(1, 2, "never", "auto", "0,1"), (2, 1, "random:1", "nccl", "0,1"), (2, 2, "random:2", "auto", "0,1,2,3"),
         (1, 2, "never", "auto", "0"), (2, 1, "always", "mpi", "0,1")]


def way_of(path):
    return report(path)["provenance"]["runs"][-1]["transport"]


def run_case(work, prompts, reference, case):
    sequence, tensor, shift, transport, gpus = case
    output = work / f"{CASES.index(case)}.h5"
    job = write_job(work / "job.toml", prompts, output, run={"device": "cuda"}, sampling={"max_tokens": 12},
                    parallel={"replicas": 1, "sequence": sequence, "tensor": tensor, "shift": shift, "transport": transport})
    run(job, ranks=0, env={**GPUS, "CUDA_VISIBLE_DEVICES": gpus})
    assert_same(reference, columns(output), str(case))
    way = way_of(output)
    if gpus == "0":
        assert way.startswith("mpi (ranks 0 and 1 of a group share GPU 0000:00:00.0"), way
    else:
        assert way == ("mpi" if transport == "mpi" else "nccl"), way
    return way


def refused(work, prompts):
    """NCCL by name, for two ranks that see one GPU."""
    job = write_job(work / "refused.toml", prompts, work / "refused.h5", run={"device": "cuda"},
                    parallel={"tensor": 2, "transport": "nccl"})
    said = run(job, ranks=2, env={**GPUS, "CUDA_VISIBLE_DEVICES": "0"}, expect=2).stderr
    assert 'parallel.transport = "nccl" cannot be used: ranks 0 and 1 of a group share GPU' in said, said


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--prompts", type=int, default=6)
    options = options.parse_args()
    with Workplace("gpu-groups") as work:
        prompts = work / "prompts.h5"
        write_prompts(prompts, [m for m, _ in chats(options.prompts, seed=7)], [f"q{i}" for i in range(options.prompts)])
        job = write_job(work / "reference.toml", prompts, work / "reference.h5", run={"device": "cuda"},
                        sampling={"max_tokens": 12})
        run(job, ranks=1, env={**GPUS, "CUDA_VISIBLE_DEVICES": "0"})
        reference = columns(work / "reference.h5")
        assert len(reference["tokens"]) > 3 * options.prompts, "answers too short to tell anything"
        assert way_of(work / "reference.h5") == "none"
        refused(work, prompts)
        for case in CASES:
            begin = time.time()
            way = run_case(work, prompts, reference, case)
            print(f"sequence {case[0]} x tensor {case[1]}, shift {case[2]}, GPUs {case[4]}: same bytes by {way}, "
                  f"{time.time() - begin:.1f} s", flush=True)


if __name__ == "__main__":
    main()
