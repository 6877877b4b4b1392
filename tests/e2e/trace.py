# SPDX-License-Identifier: Apache-2.0
"""run.trace: valid JSON for the Chrome trace viewer, a process row per replica, a thread row per rank, each with its planning,
computing, exchanging and waiting, events of a row nested or apart, and the answers those of a run without a trace.
"""
import collections
import json

from harness import Workplace, assert_same, chats, columns, run, write_job, write_prompts

PARALLEL = {"replicas": 2, "sequence": 2, "tensor": 1, "shift": "random:1"}
EXCHANGES = {"exchange: orders", "exchange: embedding", "exchange: qkv exchange", "exchange: attention exchange",
             "exchange: reduction", "exchange: sampled rows", "exchange: sampling"}
RANK_EVENTS = {"plan", "compute base", "compute shift", "wait"} | EXCHANGES


def rows_of(events, kind):
    return {(e["pid"], e.get("tid")): e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == kind}


ROUNDING_US = 0.002  # times are written in whole nanoseconds


def check_nesting(events, row):
    """Of one row: the viewer draws an event that outlives the one around it in the wrong place."""
    open_ends = []
    for event in sorted(events, key=lambda e: (e["ts"], -e["dur"])):
        while open_ends and open_ends[-1] <= event["ts"] + ROUNDING_US:
            open_ends.pop()
        end = event["ts"] + event["dur"]
        assert not open_ends or end <= open_ends[-1] + ROUNDING_US, f"{row}: {event['name']} at {event['ts']} outlives what is around it"
        open_ends.append(end)


def check_trace(trace):
    events = trace["traceEvents"]
    assert set(rows_of(events, "process_name").values()) == {"replica 0", "replica 1"}
    threads = rows_of(events, "thread_name")
    assert threads == {(0, 0): "rank 0", (0, 1): "rank 1", (1, 2): "rank 2", (1, 3): "rank 3"}, threads
    by_row = collections.defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            assert event["ts"] >= 0 and event["dur"] >= 0, event
            by_row[event["pid"], event["tid"]].append(event)
    assert by_row.keys() == threads.keys()
    for row, name in threads.items():
        names = collections.Counter(event["name"] for event in by_row[row])
        assert RANK_EVENTS <= names.keys(), f"{name} has no {sorted(RANK_EVENTS - names.keys())}"
        check_nesting(by_row[row], name)
        print(f"{name}: " + ", ".join(f"{event} {count}" for event, count in sorted(names.items())))
    for replica, (leader, follower) in {0: (0, 1), 1: (2, 3)}.items():
        steps = [[(e["name"], e["args"]["tokens"]) for e in by_row[replica, rank] if e["name"].startswith("compute")]
                 for rank in (leader, follower)]
        assert steps[0] == steps[1], f"the ranks of replica {replica} show different steps"


def main():
    with Workplace("trace") as work:
        write_prompts(work / "prompts.h5", [m for m, _ in chats(40, seed=21)])
        sections = {"parallel": PARALLEL, "schedule": {"max_sequences": 8}}
        run(write_job(work / "plain.toml", work / "prompts.h5", work / "plain.h5", **sections), ranks=0)
        traced = write_job(work / "traced.toml", work / "prompts.h5", work / "traced.h5", run={"trace": "made/trace.json"}, **sections)
        run(traced, ranks=0)
        check_trace(json.loads((work / "made" / "trace.json").read_text()))
        assert_same(columns(work / "plain.h5"), columns(work / "traced.h5"), "with a trace")


if __name__ == "__main__":
    main()
