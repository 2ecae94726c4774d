"""docs/results/studies.md says what the kept records say."""

import re
import shutil
from pathlib import Path

import pytest

from attnconv.study.folder import read_records
from attnconv.study.report import write_report
from attnconv.train.config import read_yaml

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "benchmarks" / "results" / "studies"
PAGE = (ROOT / "docs" / "results" / "studies.md").read_text(encoding="utf-8")
ROW = ("imagewoof-128-5ep", "imagewoof-128-5ep-float32")  # of one published table, in two precisions
RUNS = (*ROW, "precision-128-1ep")  # each run of them stands on the page
STUDIES = ("aa-cifar100-small", "attention-kinds-small", ROW[0], "simple-self-attention-small", "why-attention")


def test_these_are_the_kept_ones():
    found = {path.name for path in KEPT.iterdir() if path.is_dir()}
    assert found == {*STUDIES, *RUNS}


@pytest.mark.parametrize("name", RUNS)
def test_each_run_stands_on_the_page(name):
    precisions = {"fp32": "float32", "bf16": "bfloat16" if name in ROW else "bfloat16, channels_last"}
    plan = read_yaml(KEPT / name / "study.yaml")["arms"]
    records = _records(name)
    assert len(records) == len(plan) * len({record["seed"] for record in records})
    for record in records:
        last = record["history"][-1]
        precision = precisions[plan[record["arm"]]["precision"]]
        numbers = f"| {precision} | {record['seed']} | {last['train_loss']:.4f} | {record['top1']:.2f} |"
        if name in ROW:
            off = f"{record['attention_off']['top1']:.2f}" if "attention_off" in record else ""
            seconds = sum(epoch["seconds"] for epoch in record["history"])
            numbers = f"| {record['arm']} {numbers} {record['best_epoch']} | {off} | {seconds:,.0f} |\n"
            images = sum(round(epoch["images_per_second"] * epoch["seconds"]) for epoch in record["history"])
            assert f"of {images:,} training images each" in PAGE
        else:
            numbers += f" {last['images_per_second']:.1f} |\n"
        assert numbers in PAGE
        assert record["commit"][:7] in PAGE


def test_the_differences_of_imagewoof_stand_on_the_page():
    pairs, (other,) = map(_differences, ROW)
    words = " ".join(PAGE.split())
    *first, last = [f"{difference:+.1f}" for difference in pairs]
    assert f"The differences of the five pairs are {', '.join(first)} and {last} points." in words
    assert f"its difference is {other:+.1f}." in words
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"by {sum(pairs) / len(pairs):.1f} points on average" in readme


def _records(name):
    records = read_records(KEPT / name / "records.jsonl")
    assert {record["state"] for record in records} == {"done"}
    return records


def _differences(name):
    tops = {(record["arm"], record["seed"]): record["top1"] for record in _records(name)}
    return [tops["ssa_xresnet50", seed] - top1 for (arm, seed), top1 in sorted(tops.items()) if arm == "xresnet50"]


@pytest.mark.parametrize("name", STUDIES)
def test_every_mean_and_difference_stands_on_the_page(name, tmp_path):
    """Each in the line of its arm."""
    shutil.copytree(KEPT / name, tmp_path / name)
    written = write_report(tmp_path / name)
    section = re.split(r"^## ", PAGE, flags=re.M)[1:]
    (text,) = [part for part in section if part.splitlines()[0] == name.replace("-small", ", small")]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert set(written.runs) - {state for state, count in written.runs.items() if not count} == {"done"}
    rows = written.summary()
    ps = {row.arm: row.test.permutation.p for one in written.compared.values() for row in one.rows[1:]}
    assert len(rows) == len(read_yaml(KEPT / name / "study.yaml")["arms"])
    for row in rows:
        mean = f"{row['mean']:.2f} ± {row['sd']:.2f}"
        (line,) = [line for line in lines if mean in line]
        if row["difference"] is None:
            continue
        assert f"| {row['difference']:+.2f} |" in line
        assert f"| {row['difference_low']:+.2f} to {row['difference_high']:+.2f} |" in line
        assert f"| {ps[row['arm']]:.3f} |" in line
        assert f"| {row['p_holm']:.3f} |" in line
