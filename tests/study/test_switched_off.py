"""A report's table of the networks with their attention switched off: planted records, and runs that were trained."""

import csv

import pytest
from study.planted import all_done, keep, plan, undone
from study.tiny import Here, tiny

from attnconv.checks import InputError
from attnconv.inactive import is_inactive, remark
from attnconv.study.comparison import comparisons
from attnconv.study.folder import StudyFolder
from attnconv.study.report import write_report
from attnconv.study.run import run_study
from attnconv.study.tables import attention_table, findings, notes

QUIET = {"logits_moved": 2e-5, "predictions_changed": 0.05}
LOUD = {"logits_moved": 0.4, "predictions_changed": 12.5}


def measured(found, **off):
    """The record with its numbers of attention off; its best epoch is the last of three."""
    return found | {"best_epoch": 3, "attention_off": {"top1": 70.0 + found["seed"], "top5": 95.0, **QUIET, **off}}


def planted(**by_seed):
    """Records in which the runs of "aa" say what ``by_seed`` gives for them, of seeds 0 to 4."""
    found = []
    for one in all_done(plan()):
        more = by_seed.get(f"seed{one['seed']}") if one["arm"] == "aa" else None
        found.append(one if more is None else measured(one, **more))
    return found


def row_of(records, arm="aa"):
    (table,) = attention_table(comparisons(plan(), records))
    return dict(zip(table.header, next(row for row in table.rows if row[0] == arm), strict=True))


ALL = {f"seed{i}": {} for i in range(5)}


def test_scores_on_and_off_are_of_the_same_runs():
    found = row_of(planted(seed1={}, seed3=LOUD))
    # aa ends at 79 + 0.3 * ((7 * seed + 6) % 5): 79.9 and 79.6.
    assert (found["attention on"], found["attention off"]) == ("79.75 ± 0.21", "72.00 ± 1.41")
    assert (found["difference"], found["predictions changed, at most"]) == ("-7.75", "12 %")


@pytest.mark.parametrize(
    ("runs", "verdict"),
    [
        (ALL, "inactive in 5 of 5 runs"),
        ({**ALL, "seed2": LOUD, "seed4": LOUD}, "inactive in 3 of 5 runs"),
        (dict.fromkeys(ALL, LOUD), "active"),
        ({"seed0": {}, "seed1": {}}, "inactive in 2 of 2 runs"),
        ({"seed0": LOUD}, "active"),
        ({**ALL, "seed0": {"logits_moved": float("nan")}}, "inactive in 4 of 4 runs"),
    ],
)
def test_the_verdict_is_of_the_runs_that_measured_it(runs, verdict):
    records = planted(**runs)
    assert row_of(records)["attention"] == verdict
    said = [found for found in findings(comparisons(plan(), records)) if "Its attention is inactive in" in found.text]
    assert len(said) == ("inactive" in verdict)


def test_runs_that_are_not_done_do_not_count():
    records = [undone("aa", 4, "failed") if (r["arm"], r["seed"]) == ("aa", 4) else r for r in planted(**ALL)]
    assert row_of(records)["attention"] == "inactive in 4 of 4 runs"


@pytest.mark.parametrize(
    ("moved", "changed", "inactive"),
    [(9.9e-4, 0.099, True), (1e-3, 0.0, False), (0.0, 0.1, False), (float("nan"), 0.0, False)],
)
def test_both_thresholds_have_to_hold(moved, changed, inactive):
    assert is_inactive(moved, changed) == inactive
    assert bool(remark(moved, changed)) == inactive


def test_the_remark_of_a_run():
    assert remark(0.0, 0.0) == "attention inactive: switching it off changes no prediction"
    assert remark(0.0, 0.05) == "attention inactive: switching it off changes 0.05 % of predictions"


def test_arms_without_numbers_have_no_row_and_studies_without_any_no_table():
    records = planted(**ALL)
    (table,) = attention_table(comparisons(plan(), records))
    assert [row[0] for row in table.rows] == ["aa"]
    without = comparisons(plan(), all_done(plan()))
    assert attention_table(without) == []
    assert not any("Attention off" in note for note in notes(plan(), without))


def test_by_top5_the_network_is_still_that_of_the_best_epoch():
    study = plan(score="top5", published={})
    records = [measured(one) | {"best_epoch": 2} if one["arm"] == "aa" else one for one in all_done(study)]
    (row,) = (row for row in comparisons(study, records)[""].rows if row.arm == "aa")
    assert row.off is not None
    assert row.off.on.mean == pytest.approx(92.2)  # 90 + epoch + 0.1 * seed
    assert row.off.off.mean == 95.0


@pytest.mark.parametrize(
    "change", [{"attention_off": [1]}, {"attention_off": {}}, {"attention_off": QUIET}, {"best_epoch": 9}]
)
def test_a_damaged_record_is_named(change):
    records = [one | change if one["arm"] == "aa" else one for one in planted(**ALL)]
    with pytest.raises(InputError, match="'aa' with seed 0 is damaged: it lacks attention_off or its best epoch"):
        comparisons(plan(), records)


def test_the_page_its_twin_and_the_csv_files_say_it(tmp_path):
    write_report(keep(tmp_path, plan(), planted(**ALL)))
    page, text = ((tmp_path / name).read_text() for name in ("report.html", "report.md"))
    for said in (
        ">inactive in 5 of 5 runs</td>",
        "Its attention is inactive in 5 of 5 runs.",
        "its score is not a plain network&#x27;s",
    ):
        assert said in page
    assert "| aa | 79.60 ± 0.47 | 72.00 ± 1.58 | -7.60 | 0.05 % | inactive in 5 of 5 runs |" in text
    details = list(csv.DictReader((tmp_path / "details.csv").open(newline="")))
    best = next(row for row in details if (row["arm"], row["reading"]) == ("aa", "best"))
    assert (best["attention_off_mean"], best["attention_off_n"], best["attention_inactive"]) == ("72.0", "5", "5")
    assert {row["attention_off_mean"] for row in details if row is not best} == {""}
    runs = list(csv.DictReader((tmp_path / "runs.csv").open(newline="")))
    assert [row["attention_off_top1"] for row in runs if row["arm"] == "aa"] == ["70.0", "71.0", "72.0", "73.0", "74.0"]
    assert "attention_off" not in runs[0]


@pytest.mark.slow
def test_runs_that_were_trained(tmp_path):
    """An augmented convolution that works, and a gated layer that could not open in two epochs without a rate."""
    arms = {
        "plain": {"model": "xresnet18"},
        "closed": {"model": "ssa_xresnet18", "lr": 1e-9},
        "augmented": {"model": "aa_convnet3"},
    }
    folder = StudyFolder(tmp_path / "study")
    found = run_study(tiny(arms=arms), folder, Here(), progress=False)
    written = write_report(folder.path)
    (table,) = attention_table(written.compared)
    assert [(row[0], row[-1]) for row in table.rows] == [
        ("closed", "inactive in 1 of 1 runs"),
        ("augmented", "active"),
    ]
    closed, augmented = written.compared[""].rows[1:]
    assert closed.off is not None
    assert closed.off.on == closed.off.off
    assert augmented.off is not None
    assert augmented.off.off.mean == found[2]["attention_off"]["top1"]
    assert augmented.off.on.mean == found[2]["best_top1"]
