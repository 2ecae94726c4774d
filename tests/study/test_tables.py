import csv
import io

import pytest
from study.planted import all_done, plan
from study.run_records import arm_records, run_record

from attnconv import files
from attnconv.study import tables
from attnconv.study.comparison import compare, comparisons
from attnconv.study.tables import csv_files, findings, no_verdict, other_tables, verdict_table

PLAIN = [70.0, 71.0, 69.5, 70.2, 70.9]
BETTER = [72.1, 72.4, 71.9, 72.0, 73.3]


def compared(seeds: int = 5, extra=(), **changes):
    records = arm_records("plain", PLAIN[:seeds]) + arm_records("better", BETTER[:seeds], **changes)
    return {"": compare([*records, *extra], baseline="plain", chance=10)}


def notes(found) -> list[str]:
    return tables.notes(plan(published={}), found)


def note_with(found, words: str) -> str:
    (note,) = [note for note in notes(found) if words in note]
    return note


def cells(found, arm: str) -> dict[str, str]:
    """The row of an arm in the table of the verdict."""
    table = verdict_table(plan(published={}), found)
    return dict(zip(table.header, next(row for row in table.rows if row[0] == arm), strict=True))


def finding(found, arm: str) -> str:
    (one,) = [one for one in findings(found) if one.head.startswith(arm)]
    return f"{one.head} {one.text}"


def lost(state: str) -> list[dict]:
    return [run_record("lost", seed, [], state=state) for seed in range(5)]


def test_students_intervals_are_marked():
    assert cells(compared(seeds=3), "better")["95 % interval"].endswith(" (t)")
    assert not cells(compared(), "better")["95 % interval"].endswith(" (t)")


def test_the_notes_say_where_difference_and_means_are_of_other_runs():
    some = [arm_records("plain", [70.0, 71.0, 69.5]), arm_records("b", [71.0, 72.5, 70.1, 60.0, 61.0])]
    found = note_with({"": compare([*some[0], *some[1]], baseline="plain", chance=10)}, "3 seeds that it shares")
    assert found.startswith("b: the difference is over the 3 seeds")
    assert not any("seeds that it shares" in note for note in notes(compared()))


def test_the_notes_say_what_schedules_do_to_equal_budgets():
    found = notes(compared(epoch_seconds=20.0))
    assert "Equal cost: 20 s of training, the total of plain; 6 TFLOPs, the total of plain." in found
    assert any("has not annealed" in note for note in found)


@pytest.mark.parametrize(
    ("key", "value", "note"),
    [
        ("commit", "b2", "The runs come from 2 commits (a1, b2)."),
        ("machine", "n", "The runs come from 2 machines (m, n): do not compare their seconds."),
    ],
)
def test_the_notes_say_where_runs_differ(key, value, note):
    assert note in notes(compared(**{key: value}))
    assert not any("come from" in found for found in notes(compared()))


def test_the_notes_count_runs_that_are_not_there():
    mixed = [run_record("lost", 0, [], state="failed"), run_record("lost", 1, [50.0], state="running")]
    comparison = compared(extra=mixed)
    assert note_with(comparison, "left out of all numbers").startswith("lost: 1 failed and 1 running,")
    assert cells(comparison, "lost")["runs"] == "0 of 2"


def test_arms_of_different_lengths_are_said_to_be():
    short = [run_record("short", seed, [60.0 + seed]) for seed in range(5)]
    assert note_with(compared(extra=short), "different numbers of epochs")


def test_the_verdict_comes_first():
    found = cells(compared(), "better")
    assert list(found) == [
        "arm", "top-1, mean ± sd", "difference", "95 % interval", "p (Holm)", "runs needed", "runs",
    ]  # fmt: skip
    assert list(found.values())[:3] == ["better", "72.34 ± 0.57", "+2.02"]
    assert found["95 % interval"].startswith("+1.")
    assert (found["p (Holm)"], found["runs needed"], found["runs"]) == ("0.062", "6", "5")
    assert cells(compared(), "plain")["difference"] == "baseline"


def test_published_values_have_a_column():
    table = verdict_table(plan(), comparisons(plan(), all_done(plan())))
    assert [row[-1] for row in table.rows] == ["-", "81.6", "80"]


def test_every_table_has_a_cell_for_each_column():
    found = compared(extra=lost("failed"))
    for table in (verdict_table(plan(), found), *other_tables(found)):
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.header)}


def test_the_scores_name_is_the_callers():
    found = {"": compare(arm_records("plain", PLAIN), baseline="plain", chance=0, score="mean IoU")}
    assert "mean IoU, mean ± sd" in verdict_table(plan(), found).header


def test_where_scores_differ_the_row_names_its_own():
    found = {
        block: compare(arm_records(f"{block}/plain", PLAIN), baseline=f"{block}/plain", chance=0, score=score)
        for block, score in (("a", "top-1"), ("b", "mean IoU"))
    }
    assert [row[1] for row in verdict_table(plan(published={}), found).rows] == [
        "70.32 ± 0.63", "70.32 ± 0.63 mean IoU",
    ]  # fmt: skip


def test_one_seed_has_a_difference_and_no_test():
    found = compared(seeds=1)
    assert (cells(found, "better")["difference"], cells(found, "better")["p (Holm)"]) == ("+2.10", "-")
    assert finding(found, "better") == "better: not tested, fewer than two shared seeds. +2.10 points."


@pytest.mark.parametrize(
    ("state", "why", "runs"),
    [
        ("diverged", "no run is done, and 5 of 5 diverged", "5, 5 diverged"),
        ("failed", "no run is done", "0 of 5"),
        ("missing", "no run is done", "0 of 5"),
    ],
)
def test_an_arm_without_results_is_shown(state, why, runs):
    found = compared(extra=lost(state))
    assert (cells(found, "lost")["runs"], cells(found, "lost")["difference"]) == (runs, "-")
    assert finding(found, "lost").strip() == f"lost: not compared with plain, {why}."


def test_a_study_of_one_epoch_has_no_other_readings():
    arms = [
        [run_record(arm, seed, [s]) for seed, s in enumerate(ends)] for arm, ends in (("plain", PLAIN), ("b", BETTER))
    ]
    found = {"": compare([*arms[0], *arms[1]], baseline="plain", chance=10)}
    assert [table.title for table in other_tables(found)] == ["Costs of a run"]
    assert not any("best epoch" in note or "qual cost" in note for note in notes(found))
    assert sum("best epoch" in note or "qual cost" in note for note in notes(compared())) == 3
    arms[1][0] = run_record("b", 0, [30.0], state="diverged")
    found = {"": compare([*arms[0], *arms[1]], baseline="plain", chance=10)}
    assert other_tables(found)[1].header == ("arm", "last epoch, without diverged runs")


def test_a_reading_without_diverged_runs():
    some = [run_record("some", seed, [30.0], state="diverged") for seed in range(2)]
    some += [run_record("some", seed, [60.0, 70.0 + seed]) for seed in range(2, 5)]
    found = compared(extra=some)
    _, readings, *_ = other_tables(found)
    assert readings.header[-1] == "last epoch, without diverged runs"
    assert [row[-1] for row in readings.rows] == ["-", "-", "73.00 (+2.80)"]
    assert any(note.startswith("Diverged runs count with") for note in notes(found))
    assert not any("iverged" in note for note in notes(compared()))


def test_findings_in_words():
    assert finding(compared(), "better") == (
        "better: no verdict with 5 seeds. +2.02 points, 95 % interval +1.48 to +2.40 so far; "
        "at least 6 seeds are needed."
    )
    six = [70.0, 71.0, 69.5, 70.2, 70.9, 70.1]
    ups = (("plain", 0), ("b", 1), ("c", -1))
    arms = [arm_records(name, [s + up * (1 + s / 500) for s in six]) for name, up in ups]
    two = {"": compare([*arms[0], *arms[1], *arms[2]], baseline="plain", chance=10)}
    assert no_verdict(two) == "No verdict with 6 seeds: 2 comparisons need at least 7. Differences so far:"
    assert finding(two, "b").startswith("b: +1.14 points, 95 % interval ")
    assert not no_verdict(compared())  # a single arm says it itself
    none_finished = {"": compare([*arms[0], *arms[1], *lost("failed")], baseline="plain", chance=10)}
    assert not no_verdict(none_finished)  # one that could be tested
    assert finding(none_finished, "lost").startswith("lost: not compared with plain")
    alone = [{"": compare(arms[0] + arms[i], baseline="plain", chance=10)} for i in (1, 2)]
    assert finding(alone[0], "b").startswith("b is better than plain. +1.14 points, 95 % interval ")
    assert finding(alone[0], "b").endswith(", p = 0.031.")
    assert finding(alone[1], "c").startswith("c is worse than plain. -1.14 points")
    same = arm_records("d", [s + move for s, move in zip(six, (0.3, -0.2, 0.1, 0.2, -0.1, 0.0), strict=True)])
    none = {"": compare(arms[0] + same, baseline="plain", chance=10)}
    assert finding(none, "d").startswith("d: no difference from plain shown. +0.05 points")


def rows_of(found, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(csv_files(found)[f"{name}.csv"])))


def test_the_summary_has_ten_columns():
    found = compared()
    plain, better = rows_of(found, "summary")
    assert list(better) == [
        *("arm", "score", "runs", "mean", "sd"),
        *("difference", "difference_low", "difference_high", "p_holm", "runs_needed"),
    ]  # fmt: skip
    row = found[""].rows[1]
    assert float(better["mean"]) == row.last.estimate.mean
    assert float(better["difference_low"]) == row.last.difference.interval.low
    assert float(better["p_holm"]) == row.test.holm_p
    assert (better["runs"], better["runs_needed"], plain["difference"]) == ("5", "6", "")


def test_the_details_hold_every_number():
    found = compared()
    rows = rows_of(found, "details")
    assert [(row["arm"], row["reading"]) for row in rows[4:]] == [
        ("better", reading) for reading in ("last", "best", "equal_time", "equal_flops")
    ]
    last, best, time = rows[4:7]
    row = found[""].rows[1]
    assert float(last["estimate_mean"]) == row.last.estimate.mean
    assert float(last["difference_interval_low"]) == row.last.difference.interval.low
    assert float(last["permutation_p"]) == row.test.permutation.p
    assert (last["estimate_interval_kind"], last["difference_n"], last["runs_to_see"]) == ("bootstrap", "5", "6")
    assert (best["permutation_p"], best["holm_p"], last["done"]) == ("", "", "5")
    assert (time["budget_arm"], time["budget"], time["epochs"]) == ("plain", "20.0", "2")


def test_csv_of_runs_and_epochs():
    found = compared(extra=lost("missing"))
    runs, epochs = rows_of(found, "runs"), rows_of(found, "epochs")
    assert len(runs) == 15
    assert len(epochs) == 20
    assert "history" not in runs[0]
    assert (runs[0]["seed"], runs[0]["score"], runs[14]["score"]) == ("0", "70.0", "")
    wanted = ("arm", "seed", "epoch", "val_score", "val_loss", "train_loss", "seconds")
    assert epochs[1] == dict(zip(wanted, ("plain", "0", "2", "70.0", "1.0", "1.0", "10.0"), strict=True))


def test_none_is_an_empty_cell():
    assert files.csv_text([{"a": None, "b": 1}]) == "a,b\n,1\n"
