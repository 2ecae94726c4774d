import csv
import io

import pytest
from study.run_records import arm_records, run_record

from attnconv.study.comparison import compare
from attnconv.study.tables import csv_text, epoch_rows, notes, run_rows, summary_rows, tables

PLAIN = [70.0, 71.0, 69.5, 70.2, 70.9]
BETTER = [72.1, 72.4, 71.9, 72.0, 73.3]


def compared(seeds: int = 5, extra=(), **changes):
    records = arm_records("plain", PLAIN[:seeds]) + arm_records("better", BETTER[:seeds], **changes)
    return compare([*records, *extra], baseline="plain", chance=10)


def lost(state: str) -> list[dict]:
    return [run_record("lost", seed, [], state=state) for seed in range(5)]


def cells(comparison, arm: str) -> dict[str, str]:
    """The first table's row; of columns with one name the last."""
    table = tables(comparison)[0]
    return dict(zip(table.header, next(row for row in table.rows if row[0] == arm), strict=True))


def test_the_first_table():
    found = cells(compared(), "better")
    assert found["top-1, mean ± sd"] == "72.34 ± 0.57"
    assert found["difference"] == "+2.02"
    assert found["95 % interval"].startswith("+1.")
    assert (found["runs"], found["diverged"], found["pairs"]) == ("5", "0", "5")
    assert (found["p"], found["p (Holm)"], found["runs needed"]) == ("0.0625", "0.0625", "6")
    assert cells(compared(), "plain")["p"] == "the baseline"


def test_every_table_has_a_cell_for_each_column():
    for table in tables(compared(extra=lost("failed"))):
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.header)}


def test_the_scores_name_is_the_callers():
    comparison = compare(arm_records("plain", PLAIN), baseline="plain", chance=0, score="mean IoU")
    assert "mean IoU, mean ± sd" in tables(comparison)[0].header


def test_one_seed_prints_a_table_with_the_reason():
    comparison = compared(seeds=1)
    found = cells(comparison, "better")
    assert (found["p"], found["p (Holm)"], found["runs needed"]) == ("fewer than two seeds", "-", "-")
    assert found["top-1, mean ± sd"] == "72.10"
    assert "better: no test, fewer than two seeds." in notes(comparison)


def test_students_intervals_are_marked():
    assert cells(compared(seeds=3), "better")["95 % interval"].endswith(" (t)")
    assert not cells(compared(), "better")["95 % interval"].endswith(" (t)")


@pytest.mark.parametrize(
    ("state", "p", "runs"),
    [
        ("diverged", "no run is done, and 5 of 5 diverged", "5"),
        ("failed", "no run is done", "0 of 5"),
        ("missing", "no run is done", "0 of 5"),
    ],
)
def test_an_arm_without_results_is_shown(state, p, runs):
    found = cells(compared(extra=lost(state)), "lost")
    assert (found["p"], found["runs"], found["difference"]) == (p, runs, "-")


def test_lines_without_diverged_runs():
    some = [run_record("some", seed, [30.0], state="diverged") for seed in range(2)]
    some += [run_record("some", seed, [60.0, 70.0 + seed]) for seed in range(2, 5)]
    comparison = compared(extra=some)
    found = [row for row in tables(comparison)[1].rows if "without diverged" in row[1]]
    assert [(row[0], row[3], row[4]) for row in found] == [("some", "3", "73.00 ± 1.00")]
    assert cells(comparison, "some")["diverged"] == "2"
    assert any(note.startswith("Diverged runs are in all means") for note in notes(comparison))
    assert not any("iverged" in note for note in notes(compared()))


def note_with(comparison, words: str) -> str:
    (found,) = [note for note in notes(comparison) if words in note]
    return found


def test_the_notes_say_that_five_seeds_cannot_reach_five_percent():
    found = note_with(compared(), "smallest possible p")
    assert found.startswith("better: with so few runs the smallest possible p is 0.0625, so no scores")
    assert found.endswith("6 seeds in every arm are the fewest that can.")


def test_the_notes_say_where_difference_and_means_are_of_other_runs():
    some = [arm_records("plain", [70.0, 71.0, 69.5]), arm_records("b", [71.0, 72.5, 70.1, 60.0, 61.0])]
    found = note_with(compare([*some[0], *some[1]], baseline="plain", chance=10), "of the 3 seeds that it shares")
    assert found.startswith("b: the difference is of the 3 seeds")
    assert not any("seeds that it shares" in note for note in notes(compared()))


def test_the_notes_count_holm_in():
    six = [70.0, 71.0, 69.5, 70.2, 70.9, 70.1]
    arms = [arm_records(name, [s + up for s in six]) for name, up in (("plain", 0), ("b", 1), ("c", 2))]
    found = note_with(compare([*arms[0], *arms[1], *arms[2]], baseline="plain", chance=10), "smallest possible p")
    assert "0.03125 (0.0625 after Holm)" in found
    assert "7 seeds" in found
    alone = compare(arms[0] + arms[1], baseline="plain", chance=10)
    assert not any("smallest possible p" in note for note in notes(alone))


def test_the_notes_say_what_schedules_do_to_equal_budgets():
    found = notes(compared(epoch_seconds=20.0))
    assert "Equal time: 20 s of training, what plain needs." in found
    assert any("one-cycle" in note for note in found)


@pytest.mark.parametrize(
    ("key", "value", "note"),
    [
        ("commit", "b2", "The runs come from 2 commits (a1, b2)."),
        ("machine", "n", "The runs come from 2 machines (m, n): seconds are not comparable between them."),
    ],
)
def test_the_notes_say_where_runs_differ(key, value, note):
    assert note in notes(compared(**{key: value}))
    assert not any("come from" in found for found in notes(compared()))


def test_the_notes_count_runs_that_are_not_there():
    mixed = [run_record("lost", 0, [], state="failed"), run_record("lost", 1, [50.0], state="running")]
    comparison = compared(extra=mixed)
    assert note_with(comparison, "in no number").startswith("lost: 1 failed and 1 running,")
    assert cells(comparison, "lost")["runs"] == "0 of 2"


def test_the_notes_say_what_was_compared_unpaired():
    other = [run_record("other", 10 + seed, [60.0, 70.0 + seed]) for seed in range(5)]
    assert note_with(compared(extra=other), "unpaired").startswith("other: ")
    assert cells(compared(extra=other), "other")["pairs"] == "unpaired, 5 and 5"


def test_arms_of_different_lengths_are_said_to_be():
    short = [run_record("short", seed, [60.0 + seed]) for seed in range(5)]
    assert note_with(compared(extra=short), "different numbers of epochs")


def test_csv_holds_every_number():
    comparison = compared()
    found = list(csv.DictReader(io.StringIO(csv_text(summary_rows(comparison)))))
    assert [(row["arm"], row["reading"]) for row in found[4:]] == [
        ("better", reading) for reading in ("last", "best", "equal_time", "equal_flops")
    ]
    last, best = found[4:6]
    reading, test = comparison.rows[1].last, comparison.rows[1].test
    assert reading.estimate is not None
    assert reading.difference is not None
    assert float(last["mean"]) == reading.estimate.mean
    assert float(last["difference_low"]) == reading.difference.interval.low
    assert float(last["p_holm"]) == test.holm_p
    assert (last["interval"], last["paired"], last["pairs"], last["runs_needed"]) == ("bootstrap", "True", "5", "6")
    assert (best["p"], best["p_holm"]) == ("", "")


def test_csv_of_runs_and_epochs():
    comparison = compared(extra=lost("missing"))
    runs, epochs = (list(csv.DictReader(io.StringIO(csv_text(f(comparison))))) for f in (run_rows, epoch_rows))
    assert len(runs) == 15
    assert len(epochs) == 20
    assert "history" not in runs[0]
    assert (runs[0]["seed"], runs[0]["score"], runs[14]["score"]) == ("0", "70.0", "")
    wanted = ("arm", "seed", "epoch", "val_score", "val_loss", "train_loss", "seconds")
    assert epochs[1] == dict(zip(wanted, ("plain", "0", "2", "70.0", "1.0", "1.0", "10.0"), strict=True))
