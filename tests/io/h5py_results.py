# SPDX-License-Identifier: Apache-2.0
"""Reads a result file the way a user would: h5py_results.py FILE TEXTS_AS_JSON."""
import json
import sys

import h5py
import numpy as np

texts = json.loads(sys.argv[2])
assert h5py.File(sys.argv[1])["results/text"][1].decode() == texts[1]

with h5py.File(sys.argv[1]) as f:
    r = f["results"]
    assert list(r["text"].asstr()) == texts
    assert list(r["id"].asstr()) == [f"id-{i}" for i in range(len(texts))]
    assert f.attrs["nightshift_format"] == "results/1"
    assert json.loads(f.attrs["provenance"]) == {"größe": 1}
    assert json.loads(f.attrs["summary"])["failures"] == {"too_long": 1}
    names = {v: k for k, v in h5py.check_enum_dtype(r["finish_reason"].dtype).items()}
    assert [names[v] for v in r["finish_reason"]] == ["stop", "stop", "failed", "stop", "stop"]
    assert r["error"].asstr()[2].startswith("too_long") and r["error"].asstr()[0] == ""
    offsets = r["offsets"][:]
    assert offsets.dtype == np.uint64 and r["tokens"].dtype == np.int32
    for i in range(len(texts)):
        assert list(r["tokens"][offsets[i]:offsets[i + 1]]) == [100 * i + t for t in range(i)]
    assert r["finished_s"].dtype == np.float64 and r["finished_s"][3] == 3.0
    assert r["logprobs"].shape == r["tokens"].shape and (r["logprobs"][:] == -0.5).all()
    assert r["top_tokens"].shape == (len(r["tokens"]), 3) and (r["top_tokens"][:] == -1).all()
    assert np.isnan(r["top_logprobs"][:]).all()
    assert list(r["row"]) == list(range(len(texts))) and not r["sample"][:].any()
