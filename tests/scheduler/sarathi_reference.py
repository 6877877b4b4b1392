#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The published stall-free batching algorithm, written from the paper's description and independent of our code.

Agrawal et al. 2024, "Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve", algorithm 3 and section 4:
per iteration, running decodes first, then prefills already started, then new requests in order of arrival, while the
token budget lasts. KV memory is reserved for the whole prompt on admission and leaves a watermark free. No prefix cache;
the mixes are chosen so that nothing is preempted, since there our rules differ on purpose (max_tokens counts tokens
generated before a preemption, no admission in a step that preempted).

Mixes with a group run the same algorithm with one rule of ours in front, as scheduler.h words it: while something
decodes, prefill waits for a bulk step.

    sarathi_reference.py --write plans.golden    rewrites the golden file
    sarathi_reference.py --check plans.golden    fails if it is not what this algorithm gives
"""
import argparse
import random
import sys

BLOCK = 16


class Sequence:
    def __init__(self, number, prompt, output):
        self.number, self.prompt, self.output = number, prompt, output
        self.prefilled = 0   # prompt tokens processed
        self.generated = 0   # output tokens; the step that ends the prefill makes the first


def blocks(tokens):
    return -(-tokens // BLOCK)


class Sarathi:
    def __init__(self, budget, max_sequences, kv_blocks, watermark, group, patience, requests):
        self.budget, self.max_sequences = budget, max_sequences
        self.group, self.patience, self.held = group, patience, 0
        self.free, self.watermark_blocks = kv_blocks, int(watermark * kv_blocks)
        self.table = {}      # sequence -> blocks held
        self.waiting = [Sequence(i, p, o) for i, (p, o) in enumerate(requests)]
        self.running = []

    def take(self, sequence, count):
        assert count <= self.free, "this mix would preempt"
        self.free -= count
        self.table[sequence] = self.table.get(sequence, 0) + count

    def holds(self, decodes, prefills):
        """Whether what prefill could run now is worth a step of its own yet."""
        chunks = [s.prompt - s.prefilled for s in prefills]
        free, places = self.free - self.watermark_blocks, self.max_sequences - len(self.running)
        for s in self.waiting[:places]:
            free -= blocks(s.prompt)
            if free < 0:
                break
            chunks.append(s.prompt)
        usable = decodes + len(chunks)
        return (self.group > 0 and decodes > 0 and self.held < self.patience
                and 0 < sum(chunks) < min(self.group, self.budget - decodes)
                and decodes >= 3 / 4 * usable)

    def schedule(self):
        batch, tokens, prefills = [], 0, []
        for s in self.running:
            if s.prefilled < s.prompt:
                prefills.append(s)
                continue
            position = s.prompt + s.generated - 1   # of the token that is now an input
            if blocks(position + 1) > self.table[s]:
                self.take(s, 1)
            batch.append((s, 1))
            tokens += 1
        if self.holds(tokens, prefills):
            self.held += 1
            return batch
        decodes = tokens
        for s in prefills:
            chunk = max(0, min(s.prompt - s.prefilled, self.budget - tokens))
            if chunk:
                batch.append((s, chunk))
                tokens += chunk
        while self.waiting and len(self.running) < self.max_sequences:
            s = self.waiting[0]
            chunk = max(0, min(s.prompt, self.budget - tokens))
            if not chunk or self.free - blocks(s.prompt) < self.watermark_blocks:
                break
            self.take(s, blocks(s.prompt))
            self.running.append(self.waiting.pop(0))
            batch.append((s, chunk))
            tokens += chunk
        if tokens > decodes:
            self.held = 0
        return batch

    def finish(self, batch):
        for s, count in batch:
            if s.prefilled < s.prompt:
                s.prefilled += count
            if s.prefilled == s.prompt:
                s.generated += 1
            if s.generated == s.output:
                self.running.remove(s)
                self.free += self.table.pop(s)


def mixes():
    """(name, budget, max_sequences, kv_blocks, watermark, group, patience, [(prompt, output), ...])"""
    chooser = random.Random(20240612)
    yield "paper_figure", 8, 4, 1000, 0.01, 0, 0, [(5, 6), (20, 3), (3, 4), (7, 2)]
    yield "decodes_exceed_budget", 2, 8, 1000, 0.01, 0, 0, [(1, 9)] * 2 + [(1, 5), (40, 2)]
    yield "one_at_a_time", 64, 1, 1000, 0.01, 0, 0, [(100, 3), (5, 2), (64, 1)]
    yield "kv_binds_admission", 128, 16, 40, 0.05, 0, 0, [(150, 8), (200, 8), (150, 8), (40, 8), (300, 8), (10, 8)]
    for budget in (32, 128, 512):
        lengths = [(chooser.randint(1, 400), chooser.randint(1, 40)) for _ in range(24)]
        yield f"random_{budget}", budget, 8, 1000, 0.01, 0, 0, lengths
    for group, patience in ((100, 64), (300, 64), (10_000, 64), (300, 5)):
        lengths = [(chooser.randint(20, 200), chooser.randint(5, 60)) for _ in range(40)]
        yield f"group_{group}_patience_{patience}", 512, 16, 1000, 0.01, group, patience, lengths
    lengths = [(chooser.randint(20, 200), chooser.randint(5, 20)) for _ in range(40)]
    yield "group_under_kv_limit", 512, 64, 150, 0.3, 200, 64, lengths


def render():
    """Per mix its numbers, its requests, then a line per step: request:tokens in batch order."""
    out = ["# Plans of the published algorithm, by sarathi_reference.py"]
    for name, *limits, requests in mixes():
        out.append(f"mix {name} " + " ".join(map(str, limits)))
        out.append("requests " + " ".join(f"{p}:{o}" for p, o in requests))
        engine = Sarathi(*limits, requests)
        while engine.waiting or engine.running:
            batch = engine.schedule()
            assert batch, f"{name}: stuck"
            out.append("step " + " ".join(f"{s.number}:{count}" for s, count in batch))
            engine.finish(batch)
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", metavar="FILE")
    action.add_argument("--check", metavar="FILE")
    arguments = parser.parse_args()
    text = render()
    if arguments.write:
        with open(arguments.write, "w", encoding="utf-8") as file:
            file.write(text)
        return
    with open(arguments.check, encoding="utf-8") as file:
        if file.read() != text:
            sys.exit(f"{arguments.check} is not what the algorithm gives; look into it, then --write")


if __name__ == "__main__":
    main()
