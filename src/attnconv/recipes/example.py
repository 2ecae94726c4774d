"""The trained network that the package brings: three layers, the last one augmented, on far-pairs.

`python -m attnconv.recipes.example [FOLDER]` makes it anew: it trains with the options below, scores the last epoch on
the validation images, and writes FOLDER, or the package's own.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from attnconv.data import load_data
from attnconv.data.generated import LEVEL
from attnconv.models import HubNetwork
from attnconv.models.saved import write
from attnconv.recipes.run import run
from attnconv.recipes.trained import Trained, load_trained
from attnconv.train.config import RunConfig

if TYPE_CHECKING:
    from PIL.Image import Image

EXAMPLE = Path(__file__).parent / "example_network"
CONFIG = RunConfig(
    model="aa_convnet3",
    model_options={"augment": [3]},
    data="far-pairs",
    epochs=4,
    batch_size=32,
    optimizer="adamw",
    lr=3e-3,
    weight_decay=1e-2,
    workers=0,
    device="cpu",
)
SHOWN = (0, 2)  # of the first four validation images, which show aa, bb, ab, ba: they share the left glyph


@dataclass(frozen=True, eq=False)
class ExampleImage:
    """A validation image of far-pairs."""

    image: "Image"  # grey
    label: str
    point: tuple[int, int]  # row and column of the middle of the left glyph, pixels


def load_example(device: str = "auto") -> Trained:
    """The network that the package brings, as `load_trained` gives one; its ``scores`` say how good it is."""
    return load_trained(EXAMPLE, device=device)


def example_images() -> list[ExampleImage]:
    """Two validation images of far-pairs, "same" and "different", that differ in the right glyph alone."""
    from PIL import Image

    data = load_data("far-pairs")
    images, labels = data.val.images[list(SHOWN), 0].numpy(), data.val.labels[list(SHOWN)].tolist()  # type: ignore[union-attr]
    found = []
    for pixels, label in zip(images, labels, strict=True):
        at = np.nonzero(pixels[:, : pixels.shape[1] // 2] >= LEVEL)  # glyphs are brighter than any ground
        row, column = (int(a.min() + a.max()) // 2 for a in at)
        found.append(ExampleImage(Image.fromarray(pixels), data.classes[label], (row, column)))
    return found


def make_example(folder: Path = EXAMPLE, config: RunConfig = CONFIG) -> None:
    """Train as ``config`` says and write the network of the last epoch into ``folder``."""
    with tempfile.TemporaryDirectory() as temporary:
        result = run(config, Path(temporary) / "run")
        trained = load_trained(Path(temporary) / "run", checkpoint="last", device="cpu")
    model = trained.model
    assert isinstance(model, HubNetwork)
    model.meta = trained.meta  # with what it says of the images themselves: anybody has them
    write(model, folder)
    print(f"{folder}: top-1 {result['top1']:.2f}% of {load_data(config.data).num_val} images")


if __name__ == "__main__":
    make_example(Path(sys.argv[1]) if len(sys.argv) > 1 else EXAMPLE)
