#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Encoding speed beside Hugging Face `tokenizers`, one thread each, in turns on the same documents.

    python tokenizer_vs_hf.py --tool build/.../tokenizer_tool [--models DIR ...] [--megabytes 10] [--rounds 5]
                              [--text FILE] [--only NAME ...]

The text is made up (prose whose words follow Zipf's law, in several scripts, with code, numbers, emoji and added tokens)
unless --text names a file. Times are processor times, medians of the rounds. tokenizers runs encode_batch_fast, which keeps no offsets: its fastest way.
"""
import argparse
import json
import os
import pathlib
import random
import statistics
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

from tokenizers import Tokenizer  # noqa: E402  (reads the environment when it is loaded)

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tokenizer"))
import families  # noqa: E402
from compare_hf import Tool  # noqa: E402

FREQUENT = ["llama3", "qwen2", "gpt2", "starcoder", "o200k", "tekken", "deepseek3", "llama2-old", "mistral", "gemma", "cl100k"]


def made_up_documents(size):
    strings = families.Strings(21, ["<|im_start|>", "<|im_end|>"])
    r = strings.random
    syllables = [c + v + e for c in "bcdfghlmnprstvw" for v in "aeiou" for e in ("", "n", "r", "s", "t")]
    vocabulary = ["".join(r.choices(syllables, k=r.choice([1, 1, 2, 2, 3, 4]))) for _ in range(20_000)]
    vocabulary += [strings.word() for _ in range(5_000)]
    r.shuffle(vocabulary)
    weights = [1 / (rank + 3) for rank in range(len(vocabulary))]
    documents, total = [], 0
    while total < size:
        words = r.choices(vocabulary, weights, k=r.randint(100, 1500))
        parts = [w + r.choices(["", ",", ".", ".\n", "'s", ": 12,345"], [60, 6, 6, 2, 1, 1])[0] for w in words]
        for _ in range(len(parts) // 60):
            parts.insert(r.randrange(len(parts)), r.choice([strings.piece(), r.choice(families.CODE)]))
        documents.append(" ".join(parts).replace("\f", " "))
        total += len(documents[-1].encode())
    return documents


def file_documents(path, size):
    text = pathlib.Path(path).read_text(errors="replace").replace("\f", " ")
    documents = [text[i : i + 4000] for i in range(0, len(text), 4000)]
    return documents[: max(1, size // 4000)]


def measure(tool_path, data, documents, file, rounds):
    with tempfile.TemporaryDirectory() as directory:
        (pathlib.Path(directory) / "tokenizer.json").write_text(json.dumps(data))
        reference = Tokenizer.from_str(json.dumps(data))
        reference.no_truncation()
        tool = Tool(tool_path, directory)
        ours, theirs = [], []
        for _ in range(rounds):
            answer = tool.ask([{"time": str(file)}])[0]
            ours.append(answer["seconds"])
            begin, ids = time.process_time(), 0
            for document in documents:
                ids += len(reference.encode_batch_fast([document], add_special_tokens=False)[0])
            theirs.append(time.process_time() - begin)
            assert answer["ids"] == ids, "the two sides do not agree"
        tool.close()
        return statistics.median(ours), statistics.median(theirs), answer["ids"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", required=True)
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--megabytes", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--text")
    parser.add_argument("--only", nargs="*", default=[])
    args = parser.parse_args()
    size = int(args.megabytes * 1e6)
    documents = file_documents(args.text, size) if args.text else made_up_documents(size)
    random.Random(1).shuffle(documents)
    with tempfile.NamedTemporaryFile("wb", suffix=".txt") as file:
        file.write("\f".join(documents).encode())
        file.flush()
        megabytes = os.path.getsize(file.name) / 1e6
        cases = {name: (lambda name=name: families.train(name)) for name in FREQUENT}
        for folder in args.models:
            cases |= {f"real:{name}": (lambda data=data: data) for name, data in families.real_tokenizers(folder)}
        print(f"{megabytes:.1f} MB in {len(documents)} documents, median of {args.rounds}")
        print(f"{'tokenizer':18}{'tokens':>10}{'ours MB/s':>11}{'HF MB/s':>10}{'times':>8}")
        for name, make in cases.items():
            if args.only and name not in args.only:
                continue
            ours, theirs, ids = measure(args.tool, make(), documents, file.name, args.rounds)
            print(f"{name:18}{ids:>10}{megabytes / ours:>11.1f}{megabytes / theirs:>10.1f}{theirs / ours:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
