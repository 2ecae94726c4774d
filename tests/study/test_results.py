"""docs/results/studies.md says what the kept records say."""

import re
import shutil
from pathlib import Path

import pytest

from attnconv.study.folder import read_records
from attnconv.study.report import write_report

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "benchmarks" / "results" / "studies"
PAGE = (ROOT / "docs" / "results" / "studies.md").read_text(encoding="utf-8")
STUDIES = ("aa-cifar100-small", "attention-kinds-small", "simple-self-attention-small", "why-attention")
ROW = ("imagewoof-128-5ep", "imagewoof-128-5ep-float32")  # of one published table, in two precisions
RUNS = (*ROW, "precision-128-1ep")  # each run of them stands on the page, and no mean with its test


def test_these_are_the_kept_ones():
    found = {path.name for path in KEPT.iterdir() if path.is_dir()}
    assert found == {*STUDIES, *RUNS}


@pytest.mark.parametrize("name", RUNS)
def test_each_run_stands_on_the_page(name):
    records = _done(name)
    assert records
    plan = (KEPT / name / "study.yaml").read_text(encoding="utf-8")
    for record in records:
        last = record["history"][-1]
        numbers = f"| {record['seed']} | {last['train_loss']:.4f} | {record['top1']:.2f} |"
        if name in ROW:
            precision = "bfloat16" if "precision: bf16" in plan else "float32"
            numbers = numbers.replace("| ", f"| {precision} | ", 1)
            off = f"{record['attention_off']['top1']:.2f}" if "attention_off" in record else ""
            seconds = sum(epoch["seconds"] for epoch in record["history"])
            numbers = f"| {record['arm']} {numbers} {record['best_epoch']} | {off} | {seconds:,.0f} |\n"
            images = sum(round(epoch["images_per_second"] * epoch["seconds"]) for epoch in record["history"])
            assert f"of {images:,} training images each" in PAGE
        assert numbers in PAGE
        assert record["commit"][:7] in PAGE


def test_the_means_of_imagewoof_stand_on_the_page():
    tops = {"xresnet50": {}, "ssa_xresnet50": {}}
    for name in ROW:
        for record in _done(name):
            assert record["seed"] not in tops[record["arm"]]
            tops[record["arm"]][record["seed"]] = record["top1"]
    assert tops["xresnet50"].keys() == tops["ssa_xresnet50"].keys()
    plain, attended = (sum(scores.values()) / len(scores) for scores in tops.values())
    differences = [tops["ssa_xresnet50"][seed] - top1 for seed, top1 in sorted(tops["xresnet50"].items())]
    assert min(differences) > 0
    words = " ".join(PAGE.split())
    count = ("three", "four", "five")[len(differences) - 3]
    assert f"Here they are {plain:.2f} and {attended:.2f}, of {count} runs each" in words
    *first, last = [f"{difference:.1f}" for difference in differences]
    assert f"in all {count} pairs, by {', '.join(first)} and {last} points" in words


def _done(name):
    return [record for record in read_records(KEPT / name / "records.jsonl") if record["state"] == "done"]


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
    assert len(rows) >= 3
    for row in rows:
        mean = f"{row['mean']:.2f} ± {row['sd']:.2f}"
        (line,) = [line for line in lines if mean in line]
        if row["difference"] is None:
            continue
        assert f"| {row['difference']:+.2f} |" in line
        assert f"| {row['difference_low']:+.2f} to {row['difference_high']:+.2f} |" in line
        assert f"| {ps[row['arm']]:.3f} |" in line
        assert f"| {row['p_holm']:.3f} |" in line
