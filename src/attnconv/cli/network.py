"""A trained network, of whatever kind of file: a run, a checkpoint, or one of `attnconv export`."""

from pathlib import Path
from typing import TYPE_CHECKING

from attnconv import checks

if TYPE_CHECKING:
    from attnconv.recipes import Trained


def read_network(path: Path, *, checkpoint: str = "best", device: str = "auto") -> "Trained":
    """The network of a run folder, a checkpoint, or an exported file, whose suffix tells it.

    Raises:
        InputError: there is none, it cannot be read, or it cannot run on ``device``.
    """
    from attnconv.export import is_exported, load_exported
    from attnconv.recipes import Trained, load_trained
    from attnconv.recipes.packed import is_packed
    from attnconv.train.config import RunConfig
    from attnconv.train.device import choose_device

    if not is_exported(path) or path.is_dir() or is_packed(path):
        return load_trained(path, checkpoint=checkpoint, device=device)
    if path.suffix == ".safetensors":
        where = choose_device(device)
    elif device in ("auto", "cpu"):
        where = choose_device("cpu")
    else:
        raise checks.InputError(f"{path} runs on the CPU here; --device {device} is for runs and safetensors")
    found = load_exported(path)
    config = RunConfig.from_dict(found.facts.config, source=str(path))
    return Trained(found.model.to(where).eval(), config, found.facts.meta, where, path)
