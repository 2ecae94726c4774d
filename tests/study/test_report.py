"""The report of a planted study: what it must say, and that its three forms agree."""

import csv
import re

import pytest
from report.test_page import Tags
from study.planted import GAIN, PLAN, all_done, diverged, keep, plan, record, undone

from attnconv.checks import InputError
from attnconv.study.comparison import comparisons
from attnconv.study.drawings import curves_of, forest, point_of
from attnconv.study.report import write_report

FAILED = "its process was killed <3 times>, at last by SIGKILL"


def with_faults(study):
    faults = {("aa", 2): diverged("aa", 2), ("late", 4): undone("late", 4, "failed", FAILED)}
    return [faults.get((found["arm"], found["seed"]), found) for found in all_done(study)]


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    study = plan()
    folder = keep(tmp_path_factory.mktemp("study"), study, with_faults(study))
    return folder, write_report(folder)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_same_records_make_the_same_bytes(reported, tmp_path):
    folder, written = reported
    before = {path.name: path.read_bytes() for path in written.files}
    assert {path.name: path.read_bytes() for path in write_report(folder).files} == before


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "study.yaml").unlink(), "holds no study: it has no study.yaml"),
        (lambda folder: (folder / "study.yaml").write_text("name: ["), "cannot read .*study.yaml: "),
        (lambda folder: (folder / "records.jsonl").write_text("{"), "records.jsonl, line 1 is no record of a study"),
        (lambda folder: (folder / "records.jsonl").write_text('{"format": 99}'), "line 1 has format 99"),
        (lambda folder: (folder / "records.jsonl").write_bytes(b"\xff"), "cannot read .*records.jsonl"),
        (lambda folder: (folder / "report.html").mkdir(), "cannot write .*report.html"),
    ],
)
def test_what_cannot_be_read_or_written_is_named_in_one_line(tmp_path, spoil, message):
    study = plan()
    keep(tmp_path, study, all_done(study))
    spoil(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)


def test_runs_in_their_folders_are_read_anew(tmp_path):
    """A run's folder counts, and not the records that were made before it."""
    study = plan()
    keep(tmp_path, study, all_done(study))
    (tmp_path / "runs" / "plain-seed0").mkdir(parents=True)
    assert write_report(tmp_path).runs == {"done": 0, "diverged": 0, "failed": 0, "running": 0, "missing": 15}


def test_code_of_your_own_is_told_and_imported_by_the_command(tmp_path):
    study, codes = plan(), ("gate 0123456789ab", "gate 0123456789ab + gate ba9876543210, nets.small 00112233aabb")
    keep(tmp_path, study, [found | {"code": codes[found["seed"] % 2]} for found in all_done(study)])
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert " --out studies/again --import gate --import nets.small\n" in text
    assert "gate 012345678 + gate ba9876543, nets.small 00112233a" in text


def test_the_planted_gain_is_there():
    assert GAIN["aa"] > 0 > GAIN["late"]
    assert record("aa", 0)["top1"] > record("plain", 0)["top1"]


def test_an_arm_that_diverged_before_its_first_epoch_is_drawn_at_chance():
    study = plan()
    records = [
        diverged("aa", found["seed"], epochs=0) | {"classes": 10} if found["arm"] == "aa" else found
        for found in all_done(study)
    ]
    (comparison,) = comparisons(study, records).values()
    curves = curves_of("aa", comparison.arms["aa"], (1, 2, 3))
    assert curves.runs == [{1: 10.0, 2: 10.0, 3: 10.0}] * 5
    assert curves.stopped == [1] * 5


def test_a_curve_ends_where_the_table_does():
    """A run that diverged keeps the score that it had, and is in the mean with it."""
    study = plan()
    (comparison,) = comparisons(study, with_faults(study)).values()
    curves = curves_of("aa", comparison.arms["aa"], ())
    assert sum(run[3] for run in curves.runs) / 5 == pytest.approx(comparison.rows[1].last.estimate.mean)
    assert [stopped for stopped in curves.stopped if stopped] == [1]


def test_every_file_is_there(reported):
    folder, written = reported
    drawn = ["forest.svg", "curves.svg", "time.svg", "flops.svg"]
    names = ["report.html", "report.md", "summary.tex", *drawn, *(f"{name}.csv" for name in CSV)]
    assert [path.name for path in written.files] == names
    assert all((folder / name).stat().st_size for name in names)
    assert written.runs == {"done": 13, "diverged": 1, "failed": 1, "running": 0, "missing": 0}


CSV = ("summary", "details", "runs", "epochs")


def test_the_page_says_what_a_reader_needs(reported):
    text = (reported[0] / "report.html").read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert all(address.startswith("#") for address in tags.addresses)
    assert text.count("<svg") == 4
    for said in (
        "Does &lt;attention&gt; help &amp; how much?",
        "13 of 15 runs are done, 1 diverged, 1 failed.",
        "aa, published: 81.6 (last epoch, 5 runs), A paper, table 1.",
        "77.60 ± 4.82",  # the diverged run is in it
        "killed &lt;3 times&gt;",
        "commit 012345678",
        "Abacus 2, 2 cores",
        "torch 2.99",
        "last epoch, without diverged runs",
        "attnconv study run",
    ):
        assert said in text, said
    assert "<attention>" not in text


def test_the_page_begins_with_the_verdict_and_ends_with_the_notes(reported):
    text = (reported[0] / "report.html").read_text()
    parts = [
        "<svg",
        "No verdict with 4 to 5 seeds",
        "<h2>Scores after the last epoch",
        "<h2>Curves and costs",
        "<details",
        "<h2>Notes",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert text.count("<h2>Notes") == 1
    assert "<details open" not in text


def test_diverged_runs_stand_out(reported):
    text = (reported[0] / "report.html").read_text()
    marked = re.findall(r'<tr class="marked"><td[^>]*>(.*?)</td><td[^>]*>(.*?)</td><td[^>]*>(.*?)</td>', text)
    assert ("aa", "2", "diverged") in marked
    assert ("late", "4", "failed") in marked
    assert [row[0] for row in marked] == ["aa", "aa", "late"]  # first of the verdict


def test_markdown_says_the_same_as_the_page(reported):
    folder, _ = reported
    page, text = ((folder / name).read_text() for name in ("report.html", "report.md"))
    cells = re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", page)
    for number in [cell for cell in cells if re.fullmatch(r"[-+0-9.,]+", cell)]:
        assert f"| {number} |" in text
    for name in ("forest.svg", "curves.svg", "time.svg", "flops.svg"):
        assert f"({name})" in text
    assert set(re.findall("<h2>(.*)</h2>", page)) <= set(re.findall(r"^## (.*)", text, flags=re.MULTILINE))


def test_csv_files_hold_every_number_unrounded(reported):
    folder, written = reported
    summary, runs, epochs = (rows_of(folder / f"{name}.csv") for name in ("summary", "runs", "epochs"))
    assert len(runs) == 15
    assert {(row["arm"], row["seed"]): row["state"] for row in runs}["aa", "2"] == "diverged"
    assert len(epochs) == 13 * 3 + 1
    assert float(epochs[0]["val_loss"]) == 2.0
    (aa,) = [row for row in summary if row["arm"] == "aa"]
    assert float(aa["difference"]) == pytest.approx(2.0)
    assert float(aa["mean"]) == written.summary()[1]["mean"] == pytest.approx(77.6)


def test_latex_escapes_names(tmp_path):
    arms = {"plain": PLAN["arms"]["plain"], "aa_1": PLAN["arms"]["aa"]}
    study = plan(arms=arms, published={})
    records = [record(run.arm, run.seed) for run in study.runs() if run.arm == "plain"]
    write_report(keep(tmp_path, study, records))
    text = (tmp_path / "summary.tex").read_text()
    assert "arm & top-1, mean $\\pm$ sd & difference & 95 \\% interval & p (Holm) & runs needed & runs \\\\\n" in text
    assert "aa\\_1 & - & - & - & - & - & 0 of 5 \\\\\n" in text
    assert text.count("{") == text.count("}")


def test_an_effect_that_seven_seeds_show_is_called_so(tmp_path):
    study = plan(seeds=7)
    write_report(keep(tmp_path, study, all_done(study)))
    text = (tmp_path / "report.md").read_text()
    assert re.search(
        r"^- \*\*aa is better than plain\.\*\* \+[34]\.\d+ points, 95 % interval ", text, flags=re.MULTILINE
    )
    assert re.search(
        r"^- \*\*late is worse than plain\.\*\* -[23]\.\d+ points, .*, p = 0\.031\.\n", text, flags=re.MULTILINE
    )


def test_the_report_of_blocks_has_one_verdict_and_curves_for_each(tmp_path):
    arms = {
        f"{block}/{arm}": {**options, "epochs": epochs}
        for block, epochs in (("short", 3), ("long", 5))
        for arm, options in PLAN["arms"].items()
    }
    study = plan(arms=arms, published={"short/aa": {"value": 81.6, "source": "A", "score": "best_top1"}}, scale="small")
    written = write_report(keep(tmp_path, study, all_done(study)))
    text = (tmp_path / "report.md").read_text()
    assert re.findall(r"^## (.*)$", text, flags=re.MULTILINE) == [
        "Scores after the last epoch", "Curves and costs: short", "Curves and costs: long", "Runs", "Plan", "Notes",
    ]  # fmt: skip
    assert "| short/aa | 79.60 ± 0.47 | +4.00 |" in text
    assert "adjusted (Holm) for the 4 comparisons" in text
    assert "81.6 (best epoch)" in text
    assert "The size is not the published one (scale 'small')" in text
    assert {"forest.svg", "curves-short.svg", "flops-long.svg"} <= {path.name for path in written.files}
    assert [row["arm"] for row in rows_of(tmp_path / "summary.csv")] == list(arms)


def test_a_single_epoch_is_a_dot_plot(tmp_path):
    study = plan(base={"data": "digits", "epochs": 1})
    records = [one | {"history": one["history"][:1]} for one in all_done(study)]
    written = write_report(keep(tmp_path, study, records))
    names = {path.name for path in written.files}
    assert "runs.svg" in names
    assert "curves.svg" not in names


def test_a_study_without_runs_says_so(tmp_path):
    study = plan()
    written = write_report(keep(tmp_path, study, []))
    text = (tmp_path / "report.md").read_text()
    assert "0 of 15 runs are done, 15 missing." in text
    assert "| late | - | - | - | - | - | 0 of 5 | 80 |" in text  # published, and no run of ours
    assert "<svg" not in (tmp_path / "report.html").read_text()
    assert written.runs["missing"] == 15


def test_an_arm_all_of_whose_runs_diverged_is_shown(tmp_path):
    study = plan()
    records = [diverged("aa", found["seed"]) if found["arm"] == "aa" else found for found in all_done(study)]
    write_report(keep(tmp_path, study, records))
    text = (tmp_path / "report.md").read_text()
    assert "aa: not compared with plain, no run is done, and 5 of 5 diverged." in text


def test_no_interval_leaves_the_scale():
    study = plan(seeds=2)
    records = [found | {"top1": 90.0 * found["seed"] + 5} for found in all_done(study)]
    compared = comparisons(study, records)
    row = compared[""].rows[0]
    assert (row.last.estimate.interval.low, row.last.estimate.interval.high) == (0.0, 100.0)
    assert point_of(row, compared[""].arms[row.arm], "time").interval == (0.0, 100.0)


def test_the_forest_marks_published_differences_where_both_are_known():
    both = {"plain": {"value": 78.0, "source": "A"}, **PLAN["published"]}
    for published, marked in ((PLAN["published"], False), (both, True)):
        study = plan(published=published)
        (drawing,) = forest(study, comparisons(study, all_done(study)))
        assert ("Diamonds: published differences." in drawing.caption) == marked
