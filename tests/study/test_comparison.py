"""From records to comparisons: arms and their readings, blocks, scores, and what is refused."""

from itertools import pairwise

import pytest
from study.planted import all_done, diverged, plan, record, undone
from study.run_records import arm_records, run_record

from attnconv import checks
from attnconv.checks import InputError
from attnconv.study import statistics
from attnconv.study.comparison import Comparison, Row, chance_of, compare, comparisons

PLAIN = [70.0, 71.0, 69.5, 70.2, 70.9, 70.4]
BETTER = [72.1, 72.4, 71.9, 72.0, 73.3, 72.2]


def row(comparison: Comparison, arm: str) -> Row:
    return next(row for row in comparison.rows if row.arm == arm)


def two_arms(**changes) -> list[dict]:
    return arm_records("better", BETTER, **changes) + arm_records("plain", PLAIN)


def test_the_baseline_comes_first_and_is_not_tested():
    first, second = compare(two_arms(), baseline="plain", chance=10).rows
    assert (first.arm, second.arm) == ("plain", "better")
    assert first.last.difference is None
    assert first.test.why_not == "the baseline"
    assert first.last.estimate == statistics.estimate(PLAIN)


def test_a_row_holds_what_statistics_says():
    better, plain = dict(enumerate(BETTER)), dict(enumerate(PLAIN))
    found = row(compare(two_arms(), baseline="plain", chance=10), "better")
    assert found.last.difference == statistics.difference(better, plain)
    assert found.test.permutation == statistics.permutation(better, plain)
    assert found.test.holm_p == found.test.permutation.p == 2 / 64
    assert found.test.runs_to_see == 6
    assert (found.params, found.flops, found.epochs, found.seconds) == (1000, 10**9, 2, 20.0)
    assert found.counts["diverged"] + found.counts["done"] == 6


def test_holm_is_over_the_tests_of_the_table():
    noise = [0.3, -0.2, 0.1, 0.2, -0.1, 0.0]
    same = arm_records("same", [score + move for score, move in zip(PLAIN, noise, strict=True)])
    lost = [run_record("lost", seed, [], state="failed") for seed in range(6)]
    found = compare(two_arms() + same + lost, baseline="plain", chance=10)
    ps = [row(found, arm).test.permutation.p for arm in ("better", "same")]
    assert [row(found, arm).test.holm_p for arm in ("better", "same")] == statistics.holm(ps)
    assert row(found, "better").test.holm_p == 4 / 64  # of two tests, not three: the lost arm has none


def test_best_and_last_epoch_are_kept_apart():
    records = [run_record("plain", seed, [80.0 + seed, 70.0 + seed]) for seed in range(3)]
    found = row(compare(records, baseline="plain", chance=10), "plain")
    assert (found.best.estimate.mean, found.last.estimate.mean) == (81.0, 71.0)


def test_a_diverged_run_keeps_the_score_it_ended_with():
    records = two_arms()[1:]
    records.append(run_record("better", 0, [30.0, 50.0, 40.0, float("nan")], state="diverged"))
    found = row(compare(records, baseline="plain", chance=10), "better")
    assert (found.counts["done"], found.counts["diverged"]) == (5, 1)
    assert found.last.estimate.mean == pytest.approx((sum(BETTER[1:]) + 40) / 6)
    assert found.best.estimate.mean == pytest.approx((sum(BETTER[1:]) + 50) / 6)
    assert found.last.difference.n == 6


def test_a_run_that_diverged_before_its_first_epoch_scores_chance():
    records = [*two_arms()[1:], run_record("better", 0, [], state="diverged")]
    found = row(compare(records, baseline="plain", chance=10), "better")
    assert found.last.estimate.mean == pytest.approx((sum(BETTER[1:]) + 10) / 6)
    assert found.best.estimate.mean == found.last.estimate.mean
    assert found.equal_time.estimate.mean == found.last.estimate.mean


def test_diverging_never_makes_an_arm_better_by_dropping_out():
    weak = run_record("better", 0, [30.0, 50.0], state="diverged")
    found = row(compare([*two_arms()[1:], weak], baseline="plain", chance=10), "better")
    assert found.last.estimate.mean < found.without_diverged.estimate.mean
    assert found.without_diverged.estimate == statistics.estimate(BETTER[1:])
    assert found.without_diverged.difference.n == 5


def test_a_diverged_baseline_gives_every_arm_a_second_line():
    records = arm_records("better", BETTER) + arm_records("plain", PLAIN[:5])
    records.append(run_record("plain", 5, [20.0], state="diverged"))
    found = row(compare(records, baseline="plain", chance=10), "better")
    assert found.without_diverged.difference.mean < found.last.difference.mean
    assert row(compare(two_arms(), baseline="plain", chance=10), "better").without_diverged is None


def test_an_arm_that_diverged_in_all_runs_is_shown_and_not_tested():
    lost = [run_record("lost", seed, [5.0], state="diverged") for seed in range(6)]
    found = row(compare(two_arms() + lost, baseline="plain", chance=10), "lost")
    assert found.counts["diverged"] == 6
    assert found.last.estimate.mean == 5.0
    assert found.last.difference is None
    assert found.test.permutation is None
    assert found.test.why_not == found.equal_time.why_not == "no run is done, and 6 of 6 diverged"


def test_a_baseline_that_diverged_in_all_runs_leaves_no_test():
    records = arm_records("better", BETTER) + [run_record("plain", s, [5.0], state="diverged") for s in range(6)]
    found = row(compare(records, baseline="plain", chance=10), "better")
    assert found.test.why_not == "of the baseline, no run is done, and 6 of 6 diverged"
    assert found.last.difference is None
    assert found.equal_time.estimate is not None
    assert found.equal_time.difference is None


def test_failed_and_missing_runs_are_counted():
    records = [*two_arms(), run_record("better", 6, [], state="failed"), run_record("better", 7, [], state="missing")]
    found = row(compare(records, baseline="plain", chance=10), "better")
    assert dict(found.counts) == {"done": 6, "diverged": 0, "failed": 1, "running": 0, "missing": 1}
    assert found.last.estimate.n == 6


def test_an_arm_without_a_run_that_is_done():
    records = [*two_arms(), run_record("lost", 0, [], state="missing")]
    found = row(compare(records, baseline="plain", chance=10), "lost")
    assert found.last.why_not == "no run has a score"
    assert found.test.why_not == "no run is done"
    assert found.last.estimate is None


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_two_seeds_are_not_tested(seeds):
    records = arm_records("better", BETTER[:1]) + arm_records("plain", PLAIN[:seeds])
    found = row(compare(records, baseline="plain", chance=10), "better")
    assert found.last.difference.mean == pytest.approx(2.1)
    assert found.last.difference.interval.low is None
    assert found.test.why_not == "fewer than two shared seeds"


def test_equal_time_reads_the_last_epoch_within_the_cheapest_arms_total():
    records = [run_record("quick", s, [10.0, 20.0 + s], epoch_seconds=10.0) for s in range(3)]
    records += [run_record("slow", s, [11.0, 12.0, 13.0 + s, 50.0], epoch_seconds=6.5, flops=10**8) for s in range(3)]
    found = compare(records, baseline="quick", chance=10)
    assert found.time == ("quick", 20.0)
    assert found.flops == ("slow", pytest.approx(4 * 1000 * 3 * 10**8))
    slow, quick = row(found, "slow"), row(found, "quick")
    assert (slow.equal_time.epochs, slow.equal_time.estimate.mean) == (3, 14.0)
    assert (quick.equal_time.epochs, quick.equal_time.estimate.mean) == (2, 21.0)
    assert slow.equal_time.difference.mean == -7.0
    assert (slow.equal_flops.epochs, slow.equal_flops.estimate.mean) == (4, 50.0)
    assert (quick.equal_flops.epochs, quick.equal_flops.why_not) == (0, "no epoch ends within the budget")
    assert slow.equal_flops.difference is None


def test_one_disturbed_run_does_not_move_an_arms_clock():
    records = [run_record("plain", s, [10.0, 20.0], epoch_seconds=100.0 if s == 1 else 10.0) for s in range(3)]
    found = compare(records, baseline="plain", chance=10)
    assert (found.time, row(found, "plain").seconds) == (("plain", 20.0), 20.0)


def test_a_diverged_run_keeps_its_score_at_an_equal_budget():
    records = [*two_arms()[1:], run_record("better", 0, [20.0], state="diverged")]
    found = row(compare(records, baseline="plain", chance=10), "better")
    assert found.equal_time.estimate.mean == pytest.approx((sum(BETTER[1:]) + 20) / 6)


def test_unknown_flops_leave_the_rest_alone():
    found = row(compare(two_arms(flops=None), baseline="plain", chance=10), "better")
    assert found.equal_flops.why_not == "an arm's FLOPs or images are not known"
    assert found.equal_time.estimate is not None


def test_the_comparison_is_the_same_twice_and_in_any_order_of_runs():
    first = compare(two_arms(), baseline="plain", chance=10)
    second = compare(two_arms()[::-1], baseline="plain", chance=10)
    for one, other in zip(first.rows, second.rows, strict=True):
        assert one.test == other.test
        assert one.last.estimate.interval == other.last.estimate.interval
        assert one.last.difference == other.last.difference


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "no records of runs to compare"),
        (arm_records("plane", PLAIN), "unknown baseline 'plain'; nearest: 'plane'"),
        (arm_records("plain", PLAIN, state="finished"), "unknown state of a run 'finished'"),
        (arm_records("plain", PLAIN) * 2, "2 records of the run of plain with seed 0; one is the rule"),
    ],
)
def test_bad_records_are_refused(records, message):
    with pytest.raises(checks.InputError, match=message):
        compare(records, baseline="plain", chance=10)


def test_chance_is_a_number():
    with pytest.raises(checks.InputError, match="chance must be finite"):
        compare(two_arms(), baseline="plain", chance=float("nan"))


def test_a_worse_end_of_a_diverged_run_lowers_the_mean():
    means = []
    for end in (60.0, 30.0, 1.0):
        records = [*two_arms()[1:], run_record("better", 0, [end], state="diverged")]
        means.append(row(compare(records, baseline="plain", chance=10), "better").last.estimate.mean)
    assert all(one > other for one, other in pairwise(means))


BLOCKS = {
    f"{block}/{arm}": {"model": model, "epochs": epochs}
    for block, epochs in (("short", 3), ("long", 5))
    for arm, model in (("plain", "convnet3"), ("aa", "aa_convnet3"))
}


def test_arms_are_compared_within_their_block():
    study = plan(arms=BLOCKS, published={})
    found = comparisons(study, all_done(study))
    assert list(found) == ["short", "long"]
    assert [row.arm for row in found["long"].rows] == ["long/plain", "long/aa"]
    assert found["long"].rows[1].last.difference.mean == pytest.approx(4.0)
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
        ({"history": [3]}, "the record of 'plain' with seed 0 is damaged: its history holds no epochs: TypeError("),
        ({"history": [{"epoch": 1}]}, "is damaged: its history holds no epochs: KeyError('val_top1')"),
        ({"history": [{"epoch": 1, "val_top1": "high"}]}, "is damaged: its history holds no epochs: ValueError("),
        ({"history": [{"epoch": float("nan"), "val_top1": 1, "seconds": 1}]}, "is damaged: its history"),
        ({"history": 3}, "the record of 'plain' with seed 0 is damaged: its history"),
    ],
)
def test_damaged_records_are_refused_in_one_line(change, message):
    study = plan()
    with pytest.raises(InputError) as caught:
        comparisons(study, [record("plain", 0) | change, *all_done(study)[1:]])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_holm_is_over_all_blocks_of_the_study():
    study = plan(arms=BLOCKS, published={})
    tests = [one.rows[1].test for one in comparisons(study, all_done(study)).values()]
    assert [test.holm_p for test in tests] == statistics.holm([test.permutation.p for test in tests]) == [0.125, 0.125]
    assert [test.runs_to_see for test in tests] == [7, 7]


def test_arms_without_a_shared_seed_are_shown_and_not_tested():
    records = [*two_arms()[:6], *(run_record("plain", 10 + i, [30.0, end]) for i, end in enumerate(PLAIN))]
    found = row(compare(records, baseline="plain", chance=10), "better")
    assert found.last.estimate is not None
    assert found.last.difference is None
    assert found.test.why_not == "fewer than two shared seeds"
