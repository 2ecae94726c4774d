"""The golden files of tests/golden: what the programs of 2019 and fastai computed, from weights that a formula gives.

Each names the tensors of a state dict in its order, the shape of an image, and every so-many-th number of the output,
in float64 and eval mode, on torch 2.15. tests/golden/README.md has the formula in words.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).with_name("golden")


def golden(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def state_dict(file, gamma=0.3):
    """The weights of ``file``, of `golden`, under the names of the program that it comes from."""
    return {name: _tensor(i, name, shape, dtype, gamma) for i, (name, shape, dtype) in enumerate(file["keys"])}


def images(file):
    i = np.arange(math.prod(file["input"]), dtype=np.float64)
    return torch.from_numpy(np.sin(0.11 * i) + np.cos(0.0173 * i)).float().double().reshape(file["input"])


def error(model, file):
    """The largest difference from the numbers of ``file``, in float64 and eval mode."""
    with torch.no_grad():
        output = model.double().eval()(images(file))
    assert list(output.shape) == file["output_shape"]
    expected = torch.tensor(file["output"], dtype=torch.float64)
    found = output.flatten()[:: file["every"]]
    assert found.shape == expected.shape
    return (found - expected).abs().max().item()


def _tensor(index, name, shape, dtype, gamma):
    n, last = math.prod(shape), name.rpartition(".")[2]
    i = np.arange(n, dtype=np.float64)
    wave = np.sin(0.7 * i + 1.3 * index + 0.5) * np.cos(0.013 * i * (1 + index % 5) + index)
    if dtype == "torch.int64":
        return torch.zeros(shape, dtype=torch.int64)
    if last == "running_var":
        wave = 1 + 0.5 * abs(wave)
    elif last in ("weight_u", "weight_v"):
        wave = wave / np.linalg.norm(wave)
    elif last == "gamma":
        wave = np.full(n, gamma)
    elif len(shape) > 1 and not last.startswith("key_rel"):
        wave = wave * math.sqrt(2 / (n / shape[0]))
    elif last == "weight":
        wave = 1 + 0.2 * wave
    else:
        wave = 0.3 * wave
    return torch.from_numpy(wave).float().reshape(shape)
