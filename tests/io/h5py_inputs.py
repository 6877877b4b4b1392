# SPDX-License-Identifier: Apache-2.0
"""Writes the same prompts in every way that h5py offers, and cases.json with what a reader must get."""
import json
import sys

import h5py
import numpy as np

OUT = sys.argv[1]
TEXTS = ["plain", "größe 日本 🌙", "", "line\nbreak", "x" * 300]
MESSAGES = [json.dumps([{"role": "user", "content": t}], ensure_ascii=False) for t in TEXTS]
TOKENS = [[1, 2, 3], [], [70000], [5, 6], list(range(200))]
CASES = {}


def case(name, form, **expected):
    CASES[name] = {"form": form, "rows": 5, **expected}
    return h5py.File(f"{OUT}/{name}", "w")


def fixed(texts, kind="utf-8"):
    data = [t.encode() for t in texts]
    return np.array(data, dtype=h5py.string_dtype(kind, max(map(len, data))))


def flat(dtype):
    return np.concatenate([np.array(t, dtype) for t in TOKENS])


def offsets(dtype):
    return np.concatenate([[0], np.cumsum([len(t) for t in TOKENS])]).astype(dtype)


with case("list.h5", "text", text=TEXTS) as f:
    f["prompts/text"] = TEXTS
with case("object.h5", "text", text=TEXTS, id=[0, 1, 2, 3, 4]) as f:
    f["prompts/text"] = np.array(TEXTS, dtype=object)
with case("ascii_vlen.h5", "text", text=TEXTS) as f:
    f.create_dataset("prompts/text", data=[t.encode() for t in TEXTS], dtype=h5py.string_dtype("ascii"))
with case("fixed.h5", "text", text=TEXTS) as f:
    f["prompts/text"] = fixed(TEXTS)
with case("numpy_s.h5", "text", text=TEXTS) as f:
    f["prompts/text"] = np.array([t.encode() for t in TEXTS])
with case("fixed_gzip.h5", "text", text=TEXTS) as f:
    f.create_dataset("prompts/text", data=fixed(TEXTS), chunks=(2,), compression="gzip", shuffle=True, fletcher32=True)
with case("vlen_gzip.h5", "text", text=TEXTS) as f:
    f.create_dataset("prompts/text", data=TEXTS, chunks=(2,), compression="gzip")
with case("latest.h5", "text", text=TEXTS):
    pass
with h5py.File(f"{OUT}/latest.h5", "w", libver="v110") as f:
    f.attrs["nightshift_format"] = "prompts/1"
    f.create_dataset("prompts/text", data=TEXTS, maxshape=(None,))
with case("messages.h5", "messages", text=MESSAGES, id=["a", "b", "ü", "d", "e"]) as f:
    f["prompts/messages"] = MESSAGES
    f["prompts/id"] = ["a", "b", "ü", "d", "e"]
with case("fixed_id.h5", "text", id=["a", "bb", "c", "d", "e"]) as f:
    f["prompts/text"] = TEXTS
    f["prompts/id"] = np.array([b"a", b"bb", b"c", b"d", b"e"])
for name in ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]:
    with case(f"id_{name}.h5", "text", id=[3, 1, 4, 15, 9]) as f:
        f["prompts/text"] = TEXTS
        f["prompts/id"] = np.array([3, 1, 4, 15, 9], name)
for name in ["int32", "uint32", "int64", "uint64", ">i4"]:
    with case(f"tokens_{name.strip('>')}_{'be' if '>' in name else 'le'}.h5", "tokens", tokens=TOKENS) as f:
        f["prompts/tokens"] = flat(name)
        f["prompts/offsets"] = offsets(np.int64)
for name in ["int32", "uint64"]:
    with case(f"offsets_{name}.h5", "tokens", tokens=TOKENS) as f:
        f.create_dataset("prompts/tokens", data=flat(np.int32), chunks=(16,), compression="gzip")
        f["prompts/offsets"] = offsets(name)

params = dict(max_tokens=[256, 5, 7, 256, 9], temperature=[0.0, 0.5, 0.0, 1.0, 0.25],
              ignore_eos=[True, False, True, False, True], stop=[[], ["."], ["a", "b"], [], []])
with case("params.h5", "text", **params) as f:
    f["prompts/text"] = TEXTS
    f["params/max_tokens"] = np.array([-1, 5, 7, -1, 9], np.int16)
    f["params/temperature"] = np.array([np.nan, 0.5, np.nan, 1.0, 0.25], np.float32)
    f["params/ignore_eos"] = np.array(params["ignore_eos"])
    f["params/stop"] = ["", ".", '["a", "b"]', "", ""]
with case("params_float.h5", "text", max_tokens=params["max_tokens"]) as f:
    f["prompts/text"] = TEXTS
    f["params/max_tokens"] = np.array([np.nan, 5, 7, -1, 9])
with case("params_json.h5", "text", max_tokens=params["max_tokens"], stop=params["stop"]) as f:
    f["prompts/text"] = TEXTS
    f["params/json"] = ["", '{"max_tokens": 5, "stop": "."}', '{"max_completion_tokens": 7, "stop": ["a", "b"]}', "{}",
                        '{"max_tokens": 9, "model": "m"}']

with open(f"{OUT}/cases.json", "w") as out:
    json.dump(CASES, out)
