# SPDX-License-Identifier: Apache-2.0
"""Exactly checkable little tasks for the tiny demonstration model.

Every task is a (question, answer) pair of plain text with one right answer, so a run of the whole
system can be judged by string equality.  Answer lengths run from 1 to about 50 characters.
"""
import random
import string

LETTERS = string.ascii_lowercase


def size(r, lo, hi, ease):
    """A size in [lo, hi]; `ease` in [0, 1] keeps sizes near lo early in training."""
    return r.randint(lo, max(lo, round(lo + (hi - lo) * (1 - ease))))


def add(r, ease=0.0):
    top = 99 if ease == 0 else 9 + round(90 * (1 - ease))
    a, b = r.randint(0, top), r.randint(0, top)
    return f"Add {a} and {b}.", str(a + b)


def count(r, ease=0.0):
    a = r.randint(0, 80)
    b = a + size(r, 1, 14, ease)
    return f"Count from {a} to {b}.", " ".join(map(str, range(a, b + 1)))


def reverse(r, ease=0.0):
    xs = [r.choice(LETTERS) for _ in range(size(r, 2, 10, ease))]
    return f"Reverse: {' '.join(xs)}", " ".join(reversed(xs))


def upper(r, ease=0.0):
    xs = [r.choice(LETTERS) for _ in range(size(r, 2, 12, ease))]
    return f"Uppercase: {' '.join(xs)}", " ".join(xs).upper()


def repeat(r, ease=0.0):
    n, x = size(r, 2, 20, ease), r.choice(LETTERS)
    return f"Write {x} {n} times.", " ".join([x] * n)


def sort_digits(r, ease=0.0):
    xs = [r.randint(0, 9) for _ in range(size(r, 2, 8, ease))]
    return f"Sort: {' '.join(map(str, xs))}", " ".join(map(str, sorted(xs)))


def table(r, entries):
    """Two-letter keys, their values and the sentence that states them."""
    keys = r.sample([a + b for a in LETTERS for b in LETTERS], entries)
    values = [r.randint(0, 99) for _ in keys]
    return keys, values, f"Given {', '.join(f'{k}={v}' for k, v in zip(keys, values))}."


def lookup(r, ease=0.0):
    n = size(r, 2, 8, ease)
    keys, values, given = table(r, n)
    k = r.randrange(n)
    return f"{given} What is {keys[k]}?", str(values[k])


def echo(r, ease=0.0):
    xs = ["".join(r.choice(LETTERS) for _ in range(r.randint(1, 4))) for _ in range(size(r, 1, 6, ease))]
    return f"Say again: {' '.join(xs)}", " ".join(xs)


TASKS = {"add": add, "count": count, "reverse": reverse, "upper": upper, "repeat": repeat,
         "sort": sort_digits, "lookup": lookup, "echo": echo}


def sample(r: random.Random, ease=0.0):
    """One question of a random kind: (kind, question, answer)."""
    kind = r.choice(list(TASKS))
    return kind, *TASKS[kind](r, ease)


def longest_turn(r, candidates):
    """The longest of so many random questions, with its answer: the material of long chats."""
    return max((sample(r)[1:] for _ in range(candidates)), key=lambda turn: sum(map(len, turn)))


def messages(turns, question):
    """Chat messages of `turns`, a list of (question, answer), and a last question without answer."""
    said = [m for q, a in turns for m in ({"role": "user", "content": q}, {"role": "assistant", "content": a})]
    return said + [{"role": "user", "content": question}]
