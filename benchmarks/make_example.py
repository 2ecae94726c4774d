"""Make the trained network that the package brings: three layers, the last one augmented, on far-pairs.

python benchmarks/make_example.py [FOLDER]

It trains with the options below, scores the last epoch on the validation images, and writes FOLDER, or the package's
own.
"""

import sys
import tempfile
from pathlib import Path

from attnconv.data import load_data
from attnconv.models import HubNetwork
from attnconv.models.saved import write
from attnconv.recipes.trained import EXAMPLE, load_trained
from attnconv.recipes.training import run
from attnconv.train.config import RunConfig

CONFIG = RunConfig(
    model="aa_convnet3",
    model_options={"augment": [3]},
    data="far-pairs",
    epochs=4,
    batch_size=32,
    optimizer="adamw",
    lr=3e-3,
    weight_decay=1e-2,
    channels_last=False,  # the default when the packaged one was trained
    workers=0,
    device="cpu",
)


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
