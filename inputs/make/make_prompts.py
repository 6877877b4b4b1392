# SPDX-License-Identifier: Apache-2.0
"""Writes the prompts of the quickstart and their right answers, the same bytes on every run.

    python3 make_prompts.py [OUT_DIR]        needs h5py and NumPy; OUT_DIR defaults to ../prompts

quickstart.h5 holds 1,000 prompts ("prompts/1"): 600 are a single question, 400 come after earlier turns
(1 to 10; in 20 prompts 6 to 15, up to 1,000 tokens).  The latter grow from 20 conversations, each cut at ten
lengths, so that many prompts share a prefix.
quickstart.jsonl holds 20 of them in OpenAI batch form.
"""
import json
import os
import random
import sys

import h5py
import numpy as np

from tiny_tasks import TASKS, longest_turn, messages

SEED = 41  # neither a training nor an evaluation seed
SINGLE, CONVERSATIONS, CUTS, ASKED_PER_CUT = 600, 20, 10, 2
BATCH_LINES = 20
MAX_TOKENS = 64  # the longest right answer is 45 tokens with its <|end|>


def make_rows(r):
    """Rows of (kind, messages, right answer) with every kind equally often, in random order."""
    histories = [[]] * SINGLE
    for i in range(CONVERSATIONS):
        candidates = 1 + i % 10 * 4  # from turns as they come to nothing but long ones
        longest = 15 if i == CONVERSATIONS - 1 else CUTS
        turns = [longest_turn(r, candidates) for _ in range(longest)]
        cuts = range(longest - CUTS + 1, longest + 1)
        histories += [turns[:n] for n in cuts for _ in range(ASKED_PER_CUT)]
    kinds = [list(TASKS)[i % len(TASKS)] for i in range(len(histories))]
    r.shuffle(kinds)
    rows = []
    for kind, turns in zip(kinds, histories):
        question, answer = TASKS[kind](r)
        rows.append((kind, messages(turns, question), answer))
    r.shuffle(rows)
    return rows


def name_rows(rows):
    """Adds an id such as add-0001, numbered within its kind."""
    seen = dict.fromkeys(TASKS, 0)
    named = []
    for kind, chat, answer in rows:
        seen[kind] += 1
        named.append((f"{kind}-{seen[kind]:04d}", chat, answer))
    return named


def write_hdf5(path, rows):
    ids, chats, answers = zip(*rows)
    filters = dict(compression="gzip", compression_opts=9, shuffle=True, track_times=False)
    with h5py.File(path, "w", libver=("v110", "v110")) as f:
        f.attrs["nightshift_format"] = "prompts/1"
        f.create_dataset("prompts/messages", data=[json.dumps(c, separators=(",", ":")) for c in chats],
                         dtype=h5py.string_dtype(), **filters)
        # Fixed length: filters do not reach the heap that holds variable-length strings.
        f.create_dataset("prompts/id", data=np.array(ids, dtype="S"), **filters)
        f.create_dataset("expected/text", data=np.array(answers, dtype="S"), **filters)
        f.create_dataset("params/max_tokens", data=np.full(len(rows), MAX_TOKENS, np.int32), **filters)


def write_batch(path, rows):
    with open(path, "w", encoding="utf-8") as f:
        for prompt_id, chat, _ in rows:
            body = {"model": "tiny-tasks", "messages": chat, "max_tokens": MAX_TOKENS, "temperature": 0}
            line = {"custom_id": prompt_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
            f.write(json.dumps(line, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "..", "prompts")
    os.makedirs(out, exist_ok=True)
    prompts = name_rows(make_rows(random.Random(SEED)))
    write_hdf5(os.path.join(out, "quickstart.h5"), prompts)
    write_batch(os.path.join(out, "quickstart.jsonl"), prompts[:BATCH_LINES])
