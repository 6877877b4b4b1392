# SPDX-License-Identifier: Apache-2.0
"""200 rows with every kind of bad row: none stops the job, each has its reason, the good rows are as without the bad ones."""
import json

import harness
from harness import Workplace, chats, columns, h5py, run, write_job

GOOD_EVERY = 2  # every second row is good


def bad_rows(good):
    """(kind of reason, messages text, params JSON) of each way in which a row can be wrong."""
    hello = json.dumps(good)
    long_chat = json.dumps([{"role": "user", "content": "Say again: " + "ab " * 3000}])
    return [
        ("invalid_utf8", b'[{"role": "user", "content": "\xff\xfe"}]', ""),
        ("bad_messages", "not JSON at all", ""),
        ("bad_messages", '{"role": "user"}', ""),
        ("bad_messages", "", ""),
        ("bad_template", json.dumps([{"role": "wizard", "content": "x"}]), ""),
        ("too_long", long_chat, ""),
        ("bad_params", hello, '{"temperature": -1}'),
        ("bad_params", hello, '{"temperature": "hot"}'),
        ("bad_params", hello, '{"top_p": 1.5}'),
        ("bad_params", hello, '{"max_tokens": 0}'),
        ("bad_params", hello, '{"no_such_parameter": 1}'),
        ("bad_params", hello, '{"response_format": {"type": "json_object"}}'),
        ("bad_params", hello, "{broken"),
        ("bad_params", hello, '{"stop": [1]}'),
        ("bad_params", hello, '{"n": 100000}'),
    ]


def write(path, rows):
    with h5py.File(path, "w") as f:
        raw = h5py.string_dtype("utf-8")
        f.create_dataset("prompts/messages", data=[r[1] for r in rows], dtype=raw)
        f.create_dataset("prompts/id", data=[r[0] for r in rows], dtype=raw)
        f.create_dataset("params/json", data=[r[2] for r in rows], dtype=raw)


def main():
    good = [(f"good-{i}", json.dumps(m), '{"temperature": 0.7}' if i % 3 == 0 else "") for i, (m, _) in enumerate(chats(100, seed=9))]
    kinds = bad_rows([{"role": "user", "content": "Add 1 and 2."}])
    rows, expected = [], {}
    for i, row in enumerate(good):
        kind, text, params = kinds[i % len(kinds)]
        rows += [row, (f"bad-{i}", text, params)]
        expected[f"bad-{i}"] = kind
    with Workplace("bad-rows") as work:
        write(work / "mixed.h5", rows)
        write(work / "good.h5", good)
        run(write_job(work / "mixed.toml", work / "mixed.h5", work / "mixed-out.h5"), ranks=2)
        run(write_job(work / "good.toml", work / "good.h5", work / "good-out.h5"), ranks=2)
        with h5py.File(work / "mixed-out.h5") as f:
            names = {v: k for k, v in h5py.check_enum_dtype(f["results/finish_reason"].dtype).items()}
        mixed, alone = columns(work / "mixed-out.h5"), columns(work / "good-out.h5")
        seen = {}
        for i, row_id in enumerate(mixed["id"]):
            row_id, error = row_id.decode(), mixed["error"][i].decode()
            if row_id.startswith("bad-"):
                assert names[mixed["finish_reason"][i]] == "failed", (row_id, names[mixed["finish_reason"][i]])
                assert error.startswith(expected[row_id] + ":"), (row_id, expected[row_id], error)
                seen[expected[row_id]] = error
                continue
            j = alone["id"].index(row_id.encode())
            assert error == "", (row_id, error)
            for name in ("text", "finish_reason", "prompt_tokens", "output_tokens"):
                assert mixed[name][i] == alone[name][j], (row_id, name, mixed[name][i], alone[name][j])
        assert len(mixed["id"]) == 200
        for kind, error in sorted(seen.items()):
            print(f"{kind:14} {error[:100]}")
        print("200 rows, 100 of them bad in 15 ways: all reasons right, the good rows as without the bad ones")
        # Too many failed rows: the job says so by its exit code, and the result is still whole.
        strict = write_job(work / "strict.toml", work / "mixed.h5", work / "strict-out.h5", job={"max_failed": 0.1})
        run(strict, ranks=1, expect=3)
        assert len(columns(work / "strict-out.h5")["id"]) == 200


if __name__ == "__main__":
    main()
