"""What a study can compare, and what the numbers of a paper can be."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """``name``: in tables; ``key``: the last epoch's in a record; ``column``: in the rows of a record's history."""

    name: str
    key: str
    column: str


# The last epoch's, always: it is fixed before the runs. The best epoch's stands beside it as a second reading.
SCORES = {
    "top1": Score("top-1", "top1", "val_top1"),
    "top5": Score("top-5", "top5", "val_top5"),
    "miou": Score("mean IoU", "miou", "val_miou"),
}

# What a published number may be, in words.
PUBLISHED = {
    "top1": "last epoch",
    "best_top1": "best epoch",
    "top5": "top-5, last epoch",
    "miou": "mean IoU, last epoch",
    "best_miou": "mean IoU, best epoch",
}
