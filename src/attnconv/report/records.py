"""What a run wrote down, read back."""

import csv
import json
from pathlib import Path
from typing import Any

from attnconv import checks


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The rows of RUN/metrics.csv, one an epoch."""
    try:
        with (run / "metrics.csv").open(newline="") as file:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError) as error:
        raise checks.InputError(f"cannot read {run / 'metrics.csv'}: {error}") from error


def read_result(run: Path) -> dict[str, Any]:
    """RUN/result.json."""
    try:
        return json.loads((run / "result.json").read_text())
    except (OSError, ValueError) as error:
        raise checks.InputError(f"cannot read {run / 'result.json'}: {error}") from error
