# SPDX-License-Identifier: Apache-2.0
"""Small tokenizers with the exact pipelines of the families in use, and strings that try them.

Vocabularies are trained here on text made here; only the pipeline (normalizer, pre-tokenizer, post-processor, decoder,
added tokens) is what models ship. Needs: pip install tokenizers.
"""
import json
import pathlib
import random

from tokenizers import Tokenizer, pre_tokenizers, trainers

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = SUFFIX + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL
QWEN2 = SUFFIX + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL
QWEN35 = SUFFIX + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + TAIL
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
LEAD = r"[^\r\n\p{L}\p{N}]?"
O200K = (
    f"{LEAD}{UPPER}*{LOWER}+{SUFFIX}?|{LEAD}{UPPER}+{LOWER}*{SUFFIX}?" r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + TAIL
)
TEKKEN = f"{LEAD}{UPPER}*{LOWER}+|{LEAD}{UPPER}+{LOWER}*" r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + TAIL
CL100K_POSSESSIVE = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*" + TAIL
)
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
CLUSTERS = r"(?:\p{L}\p{M}*+)+|(?<=\d)\p{P}|\b\d+?\b|\w|\h{4}|."  # nothing of this is for the scan engine


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def byte_level(use_regex=False, add_prefix_space=False):
    return {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": True, "use_regex": use_regex}


def sequence(*members, key="pretokenizers"):
    return {"type": "Sequence", key: list(members)}


def template(token, token_id):
    special = {"SpecialToken": {"id": token, "type_id": 0}}
    a, b = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [special, a],
        "pair": [special, a, special, b],
        "special_tokens": {token: {"id": token, "ids": [token_id], "tokens": [token]}},
    }


def added(content, special=True, **flags):
    token = dict(id=0, content=content, single_word=False, lstrip=False, rstrip=False, normalized=not special, special=special)
    return token | flags


BYTE_DECODER = byte_level(use_regex=True, add_prefix_space=True)
DIGITS = {"type": "Digits", "individual_digits": True}
NFC = {"type": "NFC"}
META = "\u2581"
TO_META = {"type": "Replace", "pattern": {"String": " "}, "content": META}
PREPEND = {"type": "Prepend", "prepend": META}
FROM_META = {"type": "Replace", "pattern": {"String": META}, "content": " "}
FALLBACK_DECODER = [FROM_META, {"type": "ByteFallback"}, {"type": "Fuse"}]
STRIP_DECODER = [*FALLBACK_DECODER, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]
CHAT = [
    added("<|im_start|>"),
    added("<|im_end|>"),
    added("<think>", special=False, normalized=False),
    added("<tool>", rstrip=True, lstrip=True),
    added("whole", special=False, single_word=True, normalized=True),
    added("  ", special=False, normalized=True),
    added("Å<e\u0301>", special=False, normalized=True),
]


def metaspace(scheme, cut=True):
    return {"type": "Metaspace", "replacement": META, "prepend_scheme": scheme, "split": cut}


def bytes_family(pre_tokenizer, normalizer=None, bos=None, **model):
    return dict(kind="bytes", normalizer=normalizer, pre_tokenizer=pre_tokenizer, bos=bos, decoder=BYTE_DECODER, model=model)


def pieces_family(normalizer, pre_tokenizer, decoder, **model):
    model = dict(byte_fallback=True, fuse_unk=True, unk_token="<unk>") | model
    return dict(
        kind="pieces", normalizer=normalizer, pre_tokenizer=pre_tokenizer, bos="<s>", decoder=decoder, model=model
    )


def chain(steps):
    return sequence(*steps, key="decoders")


FAMILIES = {
    "gpt2": bytes_family(byte_level(use_regex=True)),
    "roberta-like": bytes_family(byte_level(use_regex=True, add_prefix_space=True)),
    "llama3": bytes_family(sequence(split(LLAMA3), byte_level()), bos="<|im_start|>", ignore_merges=True),
    "cl100k": bytes_family(sequence(split(CL100K_POSSESSIVE), byte_level())),
    "qwen2": bytes_family(sequence(split(QWEN2), byte_level()), NFC),
    "qwen3.5": bytes_family(sequence(split(QWEN35), byte_level()), NFC),
    "o200k": bytes_family(sequence(split(O200K), byte_level())),
    "tekken": bytes_family(sequence(split(TEKKEN), byte_level()), bos="<|im_start|>"),
    "deepseek3": bytes_family(
        sequence(split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK3), byte_level()), bos="<|im_start|>"
    ),
    "deepseek-coder": bytes_family(
        sequence(
            split(r"[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split("[一-龥ࠀ-一가-퟿]+"), DIGITS, byte_level()
        )
    ),
    "falcon": bytes_family(
        sequence(
            {"type": "Punctuation", "behavior": "Contiguous"},
            byte_level(use_regex=True),
            {"type": "Digits", "individual_digits": False},
            split("[0-9][0-9][0-9]"),
        )
    ),
    "neox": bytes_family(byte_level(use_regex=True), NFC),
    "starcoder": bytes_family(sequence(DIGITS, byte_level(use_regex=True))),
    "bloom": bytes_family(sequence(split(BLOOM), byte_level())),
    "clusters": bytes_family(sequence(split(CLUSTERS), byte_level())),
    "llama2-old": pieces_family(
        sequence(PREPEND, TO_META, key="normalizers"), None, chain(STRIP_DECODER)
    ),
    "mistral": pieces_family(None, metaspace("first", cut=False), chain(STRIP_DECODER)),
    "metaspace-always": pieces_family(None, metaspace("always"), metaspace("always"), byte_fallback=False),
    "metaspace-never": pieces_family(None, metaspace("never"), metaspace("never"), fuse_unk=False, byte_fallback=False),
    "gemma": pieces_family(TO_META, split(" ", "MergedWithPrevious", kind="String"), chain(FALLBACK_DECODER)),
    "words": pieces_family(
        {"type": "NFKC"}, sequence({"type": "WhitespaceSplit"}, {"type": "Punctuation", "behavior": "Isolated"}), None
    ),
    "words-nfd": pieces_family(
        {"type": "NFD"},  # no Strip: its alignments make tokenizers 0.23 panic, or ask for tens of gigabytes
        {"type": "Whitespace"},
        None,
        byte_fallback=False,
        fuse_unk=False,
    ),
    "splits-nfkd": pieces_family(
        {"type": "NFKD"},
        sequence(split(r"\s+", "MergedWithNext"), split("-", "Removed", kind="String"), split(r"[aeiou]+", "Contiguous", True)),
        {"type": "Fuse"},
    ),
}

SCRIPTS = [
    (0x61, 0x7B), (0x61, 0x7B), (0x61, 0x7B), (0xDF, 0xF7), (0x3B1, 0x3CA), (0x430, 0x450), (0x531, 0x557), (0x5D0, 0x5EB),
    (0x627, 0x64B), (0x905, 0x93A), (0x985, 0x9B0), (0xE01, 0xE31), (0x10D0, 0x10F1), (0x1100, 0x1113), (0x3041, 0x3097),
    (0x30A1, 0x30FB), (0x4E00, 0x9FA6), (0xAC00, 0xD7A4), (0x1E00, 0x1F00), (0x10400, 0x10450), (0x20000, 0x20100),
]
SPACES = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2003\u2007\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
NEAR_SPACES = "\x00\x01\x1c\x1d\x1e\x1f\u180e\u200b\u200c\u200d\u2060\ufeff\x7f\x80"
EMOJI = ["😀", "👩\u200d👩\u200d👧\u200d👦", "🏳️\u200d🌈", "🇩🇪🇫🇷", "👍🏽", "1️⃣", "❤️", "🧑🏿\u200d🚀", "☕", "\U0001fae8"]
CONTRACTIONS = ["'s", "'S", "'\u017f", "'t", "'RE", "'ve", "'M", "'lL", "'d", "'\u212a", "’s", "''s", " 's", "'st"]
DIGIT_RUNS = ["0", "42", "1234567", "٣٤٥", "१२३", "²³", "½¾", "Ⅷ", "①②", "１２", "𝟘𝟙", "1,234.5e-6", "\U00010d41\U00010d42"]
CODE = ["def f(x):\n    return x ** 2\n", "for (int i = 0; i < n; ++i) {\n\t", "<a href=\"/x?y=1&z\">", "{\"k\": [1, 2.5, null]}", "//--==>>"]
MARKS = [chr(c) for c in range(0x300, 0x370)] + list("\u0591\u05b0\u064b\u0651\u093c\u094d\u0e38\u0f71\u3099\u309a\u0c3c\u0898\u1dfa\U0001e8d0\U00011930")
BASES = "aAeoOuUsSyÅåǺdDqIiー가각\u1100\u1161\u11a8か は\u0915\u0928\u09c7\u0b47\u0bc6\U00011935\U000110a5\U000105d2\u2126\u212b\u1e9b"


class Strings:
    """Endless varied strings; equal seeds give equal strings."""

    def __init__(self, seed, added_contents=()):
        self.random = random.Random(seed)
        self.added = list(added_contents) or ["<none>"]

    def word(self):
        r = self.random
        low, high = r.choice(SCRIPTS)
        letters = "".join(chr(r.randrange(low, min(high, low + 40))) for _ in range(r.randint(1, 9)))
        return r.choice([letters, letters, letters.capitalize(), letters.upper()])

    def piece(self):
        r = self.random
        return r.choice(
            [
                lambda: self.word(),
                lambda: self.word() + r.choice(CONTRACTIONS),
                lambda: " ".join(self.word() for _ in range(r.randint(2, 5))) + r.choice(".,;:!? …。，？"),
                lambda: "".join(r.choice(SPACES) for _ in range(r.randint(1, 6))),
                lambda: r.choice(SPACES) * r.randint(1, 40),
                lambda: "".join(r.choice(SPACES + NEAR_SPACES) for _ in range(r.randint(1, 8))),
                lambda: r.choice(EMOJI) * r.randint(1, 3),
                lambda: r.choice(DIGIT_RUNS) + r.choice(["", " ", self.word()]),
                lambda: "".join(r.choice(BASES) + "".join(r.choices(MARKS, k=r.randint(0, 4))) for _ in range(r.randint(1, 5))),
                lambda: self.near_added(),
                lambda: r.choice(CODE),
                lambda: "".join(self.code_point() for _ in range(r.randint(1, 5))),
                lambda: "".join(r.choice("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~§¿«»—“”▁Ġ") for _ in range(r.randint(1, 6))),
                lambda: " ",
            ]
        )()

    def near_added(self):
        r = self.random
        token = r.choice(self.added)
        around = ["", " ", "   ", "\n", "a", "é", "1", "_", "\u3000", "-"]
        return r.choice(around) + r.choice([token, token, token[: r.randint(0, len(token))], token * 2]) + r.choice(around)

    def code_point(self):
        while True:
            c = self.random.randrange(0x110000) if self.random.random() < 0.5 else self.random.randrange(0x3000)
            if not 0xD800 <= c < 0xE000:
                return chr(c)

    def string(self):
        return "".join(self.piece() for _ in range(self.random.choice([1, 1, 2, 3, 5, 8, 13])))

    def many(self, count):
        return ["", *(self.string() for _ in range(count - 1))]


def sweep(per_string=48):
    """Every code point between letters, spaces, digits and its neighbours."""
    code_points = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    for i in range(0, len(code_points), per_string):
        part = code_points[i : i + per_string]
        yield " ".join(part) + "x" + "y".join(part) + "1" + "".join(part)


def long_runs(n=100_000):
    r = random.Random(5)
    letters = "".join(r.choice("abcdefghij") for _ in range(n))
    marks = "".join(r.choice("\u0301\u0323\u0334\u0345") for _ in range(n))
    mixed = "".join(r.choice("ab \n'1é漢") for _ in range(n))
    units = ["a", "A", " ", "\n", " \n", "1", "漢", "é", "e\u0301", "😀", "!", "\u3000", "\u200d", "aA", "ab ", META, "'s", "<"]
    return [unit * (n // len(unit)) for unit in units] + [letters, "a" + marks, mixed]


def corpus():
    strings = Strings(11)
    common = [strings.word() for _ in range(600)] + ["the", "and", "of", "to", "in", "is", "return", "der", "une", "от"] * 20
    for _ in range(4000):
        yield " ".join(strings.random.choice(common) for _ in range(12)) + strings.random.choice([".", "\n", "'s", " 123", "  "])
    yield from CODE * 20
    yield from (strings.string() for _ in range(1000))


def train_model(kind, pre_tokenizer, vocab_size):
    """The "model" of a tokenizer.json: vocabulary and merges."""
    pieces = kind == "pieces"
    start = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))] if pieces else []
    skeleton = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": metaspace("always") if pieces else pre_tokenizer, "post_processor": None, "decoder": None,
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }
    tokenizer = Tokenizer.from_str(json.dumps(skeleton))
    alphabet = [] if pieces else pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=start, initial_alphabet=alphabet, limit_alphabet=vocab_size // 3, show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return json.loads(tokenizer.to_str())["model"]


def build(family, model):
    """The family's tokenizer.json around a model, as a dict."""
    spec = FAMILIES[family]
    model = model | spec["model"]
    next_id = len(model["vocab"])
    tokens = []
    for token in [*(added(t) for t in ("<unk>", "<s>", "</s>") if spec["kind"] == "pieces"), *CHAT]:
        known = model["vocab"].get(token["content"])
        tokens.append(token | {"id": next_id if known is None else known})
        next_id += known is None
    out = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": sorted(tokens, key=lambda t: t["id"])}
    out |= {key: spec[key] for key in ("normalizer", "pre_tokenizer", "decoder")} | {"post_processor": None, "model": model}
    if spec["bos"]:
        bos_id = next(t["id"] for t in tokens if t["content"] == spec["bos"])
        out["post_processor"] = sequence(byte_level(), template(spec["bos"], bos_id), key="processors")
    return out


def train(family, vocab_size=2600):
    """A tokenizer.json of the family with a vocabulary of its own, as a dict."""
    spec = FAMILIES[family]
    return build(family, train_model(spec["kind"], spec["pre_tokenizer"], vocab_size))


def real_tokenizers(folder):
    """tokenizer.json files of a folder of model directories, as dicts; one has lost its no-break spaces on the way."""
    for path in sorted(pathlib.Path(folder).glob("*/tokenizer.json")):
        data = json.loads(path.read_text())
        merges = data["model"]["merges"]
        if any(isinstance(m, str) and m.count(" ") > 1 for m in merges):
            data["model"]["vocab"] = {k.replace(" ", "\xa0"): v for k, v in data["model"]["vocab"].items()}
            data["model"]["merges"] = [restore_spaces(m) if isinstance(m, str) else m for m in merges]
        yield path.parent.name, data


def restore_spaces(merge):
    """The middle space of an odd number of them separates the two tokens of a merge."""
    if merge.count(" ") == 1:
        return merge
    blanks = [i for i, c in enumerate(merge) if c == " "]
    middle = 1 if merge.startswith(META) else blanks[len(blanks) // 2]
    return merge[:middle].replace(" ", "\xa0") + " " + merge[middle + 1 :].replace(" ", "\xa0")




def encode_or_none(tokenizer, text, special):
    """Ids, or None where tokenizers itself panics: it does for some added tokens beside normalized characters."""
    try:
        return tokenizer.encode(text, add_special_tokens=special).ids
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        return None
