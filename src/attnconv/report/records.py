"""What a run wrote down, read back."""

import csv
import re
from pathlib import Path

from attnconv import checks, files


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The rows of RUN/metrics.csv, one an epoch."""
    try:
        lines = files.read_text(run / "metrics.csv", at_most=files.TABLE).splitlines()
        return [{name: float(value) for name, value in row.items() if value != ""} for row in csv.DictReader(lines)]
    except (OSError, ValueError, TypeError) as error:
        raise checks.InputError(f"cannot read {run / 'metrics.csv'}: {error}") from error


def short_commit(value: str) -> str:
    """Each hash by its first nine digits; what stands beside them stays."""
    return re.sub(r"\b([0-9a-f]{9})[0-9a-f]+\b", r"\1", value)
