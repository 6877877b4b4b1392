#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/tokenizer/goldens/: what Hugging Face `tokenizers` answers, for tests that run without it.

strings.json holds the strings, bytes.json and pieces.json a vocabulary each, families.json per family its pipeline and
for every string the FNV-1a hash (32 bits) of the ids and the decoded text (empty where the reference panics), and for some families hashes over the sweep of
all code points, 1024 strings each. Needs: pip install tokenizers==0.23.3
"""
import json
import pathlib

from tokenizers import Tokenizer

import families

OUT = pathlib.Path(__file__).resolve().parent / "goldens"
SWEPT = ("o200k", "qwen2", "llama2-old")


def fnv1a(data, state=0x811C9DC5):
    for byte in data:
        state = (state ^ byte) * 0x01000193 & 0xFFFFFFFF
    return state


def ids_as_bytes(ids):
    return b"".join(i.to_bytes(4, "little") for i in ids)


def answers(tokenizer, strings):
    for i, string in enumerate(strings):
        ids = families.encode_or_none(tokenizer, string, i % 2 == 0)
        if ids is None:
            yield ""
        else:
            yield f"{fnv1a(ids_as_bytes(ids) + tokenizer.decode(ids, skip_special_tokens=False).encode()):08x}"


def sweep_answers(tokenizer):
    strings = list(families.sweep())
    for first in range(0, len(strings), 1024):
        encoded = tokenizer.encode_batch(strings[first : first + 1024], add_special_tokens=False)
        yield f"{fnv1a(b''.join(ids_as_bytes(e.ids) for e in encoded)):08x}"


def write(name, value):
    (OUT / name).write_text(json.dumps(value, separators=(",", ":")).replace("},", "},\n") + "\n")


def main():
    OUT.mkdir(exist_ok=True)
    contents = [token["content"] for token in families.CHAT] + ["<s>", "</s>", "<unk>"]
    strings = families.Strings(77, contents).many(600)
    models = {kind: families.train_model(kind, families.byte_level(use_regex=True), 1500) for kind in ("bytes", "pieces")}
    goldens = {}
    for name, spec in families.FAMILIES.items():
        data = families.build(name, models[spec["kind"]])
        tokenizer = Tokenizer.from_str(json.dumps(data))
        goldens[name] = {
            "kind": spec["kind"],
            "tokenizer": {k: v for k, v in data.items() if k != "model"} | {"model": spec["model"]},
            "hashes": list(answers(tokenizer, strings)),
            "sweep": list(sweep_answers(tokenizer)) if name in SWEPT else [],
        }
    write("strings.json", strings)
    write("families.json", goldens)
    for kind, model in models.items():
        write(f"{kind}.json", {"vocab": model["vocab"], "merges": model["merges"]})


if __name__ == "__main__":
    main()
