"""A trained network in one safetensors file: its weights, and in the file's metadata all that is needed to use it.

Nothing of such a file is ever run. Its checksum covers every tensor and every word of the metadata: it tells damage and
changes, not who wrote the file.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnconv import checks
from attnconv.train.atomic import replacing

FORMAT = "attnconv 1"
SUFFIX = ".safetensors"
TEXTS = ("config", "meta", "scores")  # in JSON


def save_packed(path: Path, weights: Mapping[str, Tensor], **texts: Mapping[str, Any]) -> None:
    """Write ``weights`` to ``path``, whole or not at all.

    Args:
        path: a .safetensors file.
        weights: a state dict.
        texts: ``config``, of RunConfig.to_dict(); ``meta``, of ImageData.meta(); ``scores``, plain values of any name
            that say how good the network is and where it comes from.
    Raises:
        InputError: the file cannot be written.
    """
    assert set(texts) == set(TEXTS), texts
    checks.require("safetensors", extra="train")
    from safetensors.torch import save

    # In the order in which they are read back.
    kept = {name: weights[name].detach().cpu().contiguous() for name in sorted(weights)}
    words = {"format": FORMAT, **{name: json.dumps(texts[name], sort_keys=True) for name in TEXTS}}
    with replacing(path) as file:
        file.write(save(kept, {**words, "sha256": _digest(kept, words)}))


def is_packed(path: Path) -> bool:
    """Whether ``path`` is a file that says that `save_packed` wrote it."""
    checks.require("safetensors", extra="train")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError, ValueError):
        return False


def load_packed(path: Path) -> dict[str, Any]:
    """What `save_packed` wrote: {"model": state dict on the CPU, "config": ..., "meta": ..., "scores": ...}.

    Raises:
        InputError: there is no such file, it is none of safetensors or none of ours, or it was changed or damaged.
    """
    checks.require("safetensors", extra="train")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            words = dict(file.metadata() or {})
            weights = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except FileNotFoundError:
        raise checks.InputError(f"no checkpoint at {path}") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise checks.InputError(
            f"{path} cannot be read, is cut short or is no safetensors file: {' '.join(str(error).split())}"
        ) from error
    digest = words.pop("sha256", None)
    if words.get("format") != FORMAT or digest is None or any(name not in words for name in TEXTS):
        raise checks.InputError(
            f"{path} is not a network that attnconv has packed: its metadata has no format {FORMAT!r}, "
            f"{', '.join(TEXTS)} and sha256"
        )
    if digest != _digest(weights, words):
        raise checks.InputError(f"{path} was changed or damaged since it was written: its checksum does not fit")
    return {"model": weights, **{name: json.loads(words[name]) for name in TEXTS}}


def _digest(weights: Mapping[str, Tensor], words: Mapping[str, str]) -> str:
    """SHA-256 of names, types, shapes and bytes of the tensors, and of the metadata."""
    tensors = [(name, str(tensor.dtype), list(tensor.shape)) for name, tensor in sorted(weights.items())]
    found = hashlib.sha256(json.dumps([tensors, sorted(words.items())]).encode())
    for _, tensor in sorted(weights.items()):
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
