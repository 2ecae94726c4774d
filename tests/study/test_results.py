"""docs/results/studies.md says what the kept records say."""

import re
import shutil
from pathlib import Path

import pytest

from attnconv.study.report import write_report

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "benchmarks" / "results" / "studies"
PAGE = (ROOT / "docs" / "results" / "studies.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(path.name for path in KEPT.iterdir()))
def test_every_mean_and_difference_stands_on_the_page(name, tmp_path):
    shutil.copytree(KEPT / name, tmp_path / name)
    written = write_report(tmp_path / name)
    section = re.split(r"^## ", PAGE, flags=re.M)[1:]
    (text,) = [part for part in section if part.splitlines()[0] == name.replace("-small", ", small")]
    assert set(written.runs) - {state for state, count in written.runs.items() if not count} == {"done"}
    for row in written.summary():
        if row["reading"] == "last":
            assert f"{row['mean']:.2f} ± {row['sd']:.2f}" in text
            if row["difference"] is not None:
                assert f"| {row['difference']:+.2f} |" in text
                assert f"{row['difference_low']:+.2f} to {row['difference_high']:+.2f}" in text
                assert f"{row['p']:.3f}"[:5] in text
