"""From records to comparisons: by block, by score, and what is refused."""

import pytest
from study.planted import all_done, diverged, plan, record, undone

from attnconv.checks import InputError
from attnconv.study.comparison import chance_of, comparisons, holm_over_all

BLOCKS = {
    f"{block}/{arm}": {"model": model, "epochs": epochs}
    for block, epochs in (("short", 3), ("long", 5))
    for arm, model in (("plain", "convnet3"), ("aa", "aa_convnet3"))
}


def test_arms_are_compared_within_their_block():
    study = plan(arms=BLOCKS, published={})
    found = comparisons(study, all_done(study))
    assert list(found) == ["short", "long"]
    assert [row.arm for row in found["long"].rows] == ["plain", "aa"]
    assert found["long"].rows[1].last.difference.value == pytest.approx(4.0)
    assert all(len(comparison.records) == 10 for comparison in found.values())


def test_a_run_under_way_has_no_score_yet():
    study = plan()
    records = [undone(r["arm"], r["seed"], "running") if r["arm"] == "late" else r for r in all_done(study)]
    (comparison,) = comparisons(study, records).values()
    assert comparison.rows[2].counts == {"done": 0, "diverged": 0, "failed": 0, "running": 5, "missing": 0}


def test_top5_is_read_where_the_plan_says_so():
    study = plan(score="top5", published={})
    (comparison,) = comparisons(study, all_done(study)).values()
    assert comparison.score == "top-5"
    assert comparison.rows[0].last.estimate.mean == pytest.approx(93.2)
    assert comparison.rows[0].best.estimate.mean == pytest.approx(93.2)


def test_a_block_may_have_a_score_of_its_own():
    study = plan(arms=BLOCKS, published={}, score={"long": "miou"})
    records = all_done(study)
    for found in records:
        if found["arm"].startswith("long"):
            found |= {"miou": 40.0 + found["seed"], "best_miou": 50.0}
            found["history"] = [{**row, "val_miou": 30.0} for row in found["history"]]
    short, long = comparisons(study, records).values()
    assert (short.score, long.score) == ("top-1", "mean IoU")
    row = long.rows[1]
    assert (row.last.estimate.mean, row.best.estimate.mean) == (42.0, 50.0)
    assert {epoch["val_score"] for found in long.records for epoch in found["history"]} == {30.0}
    assert short.rows[0].last.estimate.mean > 60


def test_what_guessing_scores():
    records = [{"classes": 10}]
    assert [chance_of(records, score) for score in ("top-1", "top-5", "mean IoU")] == [10.0, 50.0, 0.0]
    assert chance_of([{"classes": 3}], "top-5") == 100.0


def test_a_records_own_numbers_stay():
    study = plan(score="top5", published={})
    (found, *_) = comparisons(study, all_done(study))[""].records
    own = record(found["arm"], found["seed"])
    assert {key: found[key] for key in own if key != "history"} == {k: v for k, v in own.items() if k != "history"}
    assert (found["score"], found["best_score"]) == (own["top5"], 93 + 0.1 * own["seed"])
    assert [row["val_score"] for row in found["history"]] == [row["val_top5"] for row in own["history"]]
    assert [row["val_top1"] for row in found["history"]] == [row["val_top1"] for row in own["history"]]


def test_holm_over_all_blocks():
    study = plan(arms=BLOCKS, published={})
    compared = comparisons(study, all_done(study))
    ps = [compared[block].rows[1].test.permutation.p for block in ("short", "long")]
    assert holm_over_all(compared) == {("short", "aa"): min(1, 2 * ps[0]), ("long", "aa"): min(1, 2 * ps[1])}
    assert compared["short"].rows[1].test.holm_p == ps[0]


def test_a_run_that_diverged_at_once_counts_with_chance():
    study = plan()
    records = all_done(study)
    records[1] = diverged("aa", 0, epochs=0) | {"classes": 10}
    (comparison,) = comparisons(study, records).values()
    assert (chance_of(records, "top-1"), chance_of(records[2:], "top-1")) == (10.0, 0.0)
    assert comparison.rows[1].last.estimate.mean == pytest.approx((10 + 79.9 + 79.0 + 79.6 + 80.2) / 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arm": "plane"}, "unknown arm in the record of 'plane' with seed 0: 'plane'; nearest: 'plain'"),
        ({"seed": 9}, "unknown seed in the record of 'plain' with seed 9: 9"),
        ({"state": "gone"}, "unknown state of a run 'gone'"),
        ({"top1": None}, "top1 in the record of 'plain' with seed 0 must be a number, got None"),
        ({"top1": float("nan")}, "top1 in the record of 'plain' with seed 0 must be finite, got nan"),
        ({"best_top1": "high"}, "best top1 in the record of 'plain' with seed 0 must be a number, got 'high'"),
        ({"flops": "many"}, "flops in the record of 'plain' with seed 0 must be a number, got 'many'"),
        ({"history": [3]}, "the record of 'plain' with seed 0 is damaged: an epoch of its history is 3"),
        ({"history": [{"epoch": 1}]}, "is damaged: val_top1 of an epoch must be a number, got None"),
        ({"history": [{"epoch": 1.5, "val_top1": 1, "seconds": 1}]}, "number of an epoch must be whole, got 1.5"),
        ({"history": [{"epoch": float("nan"), "val_top1": 1, "seconds": 1}]}, "an epoch must be whole, got nan"),
        ({"history": 3}, "the record of 'plain' with seed 0 is damaged: its history is 3"),
    ],
)
def test_damaged_records_are_refused_in_one_line(change, message):
    study = plan()
    with pytest.raises(InputError) as caught:
        comparisons(study, [record("plain", 0) | change, *all_done(study)[1:]])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
