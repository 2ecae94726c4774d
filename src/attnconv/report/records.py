"""What a run wrote down, read back."""

import csv
import re
from pathlib import Path

from attnconv import checks


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The rows of RUN/metrics.csv, one an epoch."""
    try:
        with (run / "metrics.csv").open(newline="") as file:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError) as error:
        raise checks.InputError(f"cannot read {run / 'metrics.csv'}: {error}") from error


def short_commit(value: str) -> str:
    """Each hash by its first nine digits; what stands beside them stays."""
    return re.sub(r"\b([0-9a-f]{9})[0-9a-f]+\b", r"\1", value)
