#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes src/tokenizer/unicode_data.cpp: the character properties that Hugging Face `tokenizers` acts on.

`tokenizers` mixes Unicode versions: its regex engine, Rust's standard library, an old punctuation table and an older
normalization table. Whoever wants its ids needs its tables, whatever Unicode version the system libraries have. So the
properties are measured: every code point goes through the very functions that tokenizing uses.

    python make_unicode_data.py [--check]     # needs: pip install tokenizers==0.23.3
"""
import argparse
import pathlib
import unicodedata

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

OUT = pathlib.Path(__file__).resolve().parents[2] / "src" / "tokenizer" / "unicode_data.cpp"
CATEGORIES = "Cn Cc Cf Co Ll Lm Lo Lt Lu Mc Me Mn Nd Nl No Pc Pd Pe Pf Pi Po Ps Sc Sk Sm So Zl Zp Zs".split()
WHITE, NUMERIC, PUNCTUATION, WORD, NFC_ATTENTION, NFC_INERT = (1 << bit for bit in range(5, 11))
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
TEXT = "".join(map(chr, CODE_POINTS))


def members(pre_tokenizer):
    """Code points that the pre-tokenizer, whose behaviour is "removed", takes out of a string of all of them."""
    kept = set()
    for _, (start, end) in pre_tokenizer.pre_tokenize_str(TEXT):
        kept.update(CODE_POINTS[start:end])
    return set(CODE_POINTS) - kept


def word_members():
    """\\w of the Rust regex crate: what joins a letter before it."""
    split = pre_tokenizers.Whitespace()
    return {c for c in CODE_POINTS if split.pre_tokenize_str("a" + chr(c))[:1] == [("a" + chr(c), (0, 2))]}


def normalization_sets():
    """(code points that may change or be changed by NFC, code points that the old normalization table lacks)."""
    nfd, nfc = normalizers.NFD().normalize_str, normalizers.NFC().normalize_str
    seconds = set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))
    attention, inert = set(), set()
    for c in CODE_POINTS:
        ch = chr(c)
        parts = unicodedata.decomposition(ch).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            pair = "".join(chr(int(p, 16)) for p in parts)
            if nfc(pair) == ch:
                seconds.add(int(parts[1], 16))
            elif unicodedata.normalize("NFC", pair) == ch:
                inert.update(map(ord, pair))
        ours = [unicodedata.normalize("NFD", s) for s in (ch, "a" + ch + "\u0334", "a\u0345" + ch)]
        theirs = [nfd(s) for s in (ch, "a" + ch + "\u0334", "a\u0345" + ch)]
        compatible = unicodedata.normalize("NFKD", ch) == normalizers.NFKD().normalize_str(ch)
        if unicodedata.category(ch) == "Cn" or ours != theirs or not compatible:
            inert.add(c)
        elif unicodedata.combining(ch) or nfc(ch) != ch:
            attention.add(c)
    return attention | (seconds - inert), inert


def measure():
    properties = [0] * 0x110000
    for index, category in enumerate(CATEGORIES):
        for c in members(pre_tokenizers.Split(Regex(r"\p{%s}" % category), "removed")):
            properties[c] = index
    attention, inert = normalization_sets()
    flags = {
        WHITE: members(pre_tokenizers.Split(Regex(r"\s"), "removed")),
        NUMERIC: set(CODE_POINTS) - members_kept_by_digits(),
        PUNCTUATION: members(pre_tokenizers.Punctuation("removed")),
        WORD: word_members(),
        NFC_ATTENTION: attention,
        NFC_INERT: inert,
    }
    assert flags[WHITE] == members(pre_tokenizers.WhitespaceSplit())
    for flag, code_points in flags.items():
        for c in code_points:
            properties[c] |= flag
    return properties


def members_kept_by_digits():
    digits = pre_tokenizers.Digits(individual_digits=True)
    return {c for c in CODE_POINTS if len(digits.pre_tokenize_str("a" + chr(c))) == 1}


def render(properties):
    entries = [f"0x{(c << 11) | p:08x}" for c, p in enumerate(properties) if c == 0 or p != properties[c - 1]]
    lines = ["    " + ", ".join(entries[i : i + 8]) + "," for i in range(0, len(entries), 8)]
    return "\n".join(
        [
            "// SPDX-License-Identifier: Apache-2.0",
            f"// Written by tests/tokenizer/make_unicode_data.py from tokenizers {tokenizers.__version__}; do not edit.",
            '#include "tokenizer/unicode.h"',
            "",
            "namespace nightshift::tokenizer {",
            "",
            "// One entry per run of code points with equal properties: first code point << 11 | properties.",
            "// clang-format off",
            f"const std::uint32_t kUnicodeRuns[{len(entries)}] = {{",
            *lines,
            "};",
            "// clang-format on",
            "",
            f"const std::size_t kUnicodeRunCount = {len(entries)};",
            "",
            "}  // namespace nightshift::tokenizer",
            "",
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    args = parser.parse_args()
    text = render(measure())
    if args.check:
        assert OUT.read_text() == text, f"{OUT} differs from what tokenizers {tokenizers.__version__} does"
    else:
        OUT.write_text(text)


if __name__ == "__main__":
    main()
