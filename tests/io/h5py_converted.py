# SPDX-License-Identifier: Apache-2.0
"""Checks a converted prompts file: h5py_converted.py FILE."""
import json
import sys

import h5py
import numpy as np

with h5py.File(sys.argv[1]) as f:
    assert f.attrs["nightshift_format"] == "prompts/1"
    assert f["prompts/text"].asstr()[5999] == "p5999" and f["prompts/id"].asstr()[0] == "c0"
    temperature = f["params/temperature"][:]
    assert len(temperature) == 6000 and np.isnan(temperature[:5000]).all() and (temperature[5000:] == 0.5).all()
    extra = f["prompts/extra"].asstr()[:]
    assert json.loads(extra[0]) == {"body": {"user": "u"}} and extra[5999] == ""
