"""Make the network that the package ships from a finished run of the recipe cifar100-small-30ep.

attnconv train --recipe cifar100-small-30ep --out RUN
python benchmarks/make_example.py RUN MACHINE [FOLDER]

It stores the best epoch's weights in float16, scores what it stored on CIFAR-100's test images, and writes
config.json, model.safetensors and the card into FOLDER, or the package's own. MACHINE, a few words, goes into the card.
"""

import json
import sys
from pathlib import Path

import torch

from attnconv.cli.terminal import duration
from attnconv.models import HubNetwork
from attnconv.recipes.trained import EXAMPLE, images_for, load_trained
from attnconv.train.evaluate import evaluate


def make_example(run: Path, machine: str, folder: Path = EXAMPLE) -> None:
    """Write the network of ``run`` in float16, with the scores of the written file, into ``folder``."""
    trained = load_trained(run, device="cpu")
    model = trained.model
    assert isinstance(model, HubNetwork)
    assert model.provenance is not None
    model.half().save_pretrained(folder, license="mit")
    stored = load_trained(folder, device="cpu")
    data = images_for(trained)
    scores = evaluate(stored.model, data.val_loader(batch_size=250, device=torch.device("cpu"), workers=0))
    found = {"val_top1": scores.top1, "val_top5": scores.top5, "val_loss": scores.loss}
    model.provenance["scores"] |= {name: value for name, value in found.items() if value is not None}
    model.save_pretrained(folder, license="mit")
    seconds = json.loads((run / "result.json").read_text())["seconds"]
    with open(folder / "README.md", "a", encoding="utf-8") as card:
        card.write(
            "\n## Stored form\n\nThe weights are float16, and the scores above are theirs. "
            f"Training took {duration(seconds)} on {machine}.\n"
        )
    print(f"{folder}: top-1 {scores.top1:.2f}% of {scores.count} images")


if __name__ == "__main__":
    make_example(Path(sys.argv[1]), sys.argv[2], *map(Path, sys.argv[3:4]))
