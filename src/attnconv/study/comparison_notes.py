"""What has to be said below a comparison's tables, a sentence or two a note."""

from collections.abc import Sequence

from attnconv.inactive import LOGITS_MOVED, PREDICTIONS_CHANGED
from attnconv.study import statistics
from attnconv.study.comparison import Comparison, Row
from attnconv.study.power import ALPHA


def notes(comparison: Comparison) -> list[str]:
    return [
        *_always(comparison),
        *_tests(comparison),
        *_diverged(comparison),
        *_absent(comparison),
        *_budgets(comparison),
        *_attention(comparison),
        *_mixed(comparison),
    ]


def _always(comparison: Comparison) -> list[str]:
    return [
        f"{comparison.score} in percent, on validation; differences are to {comparison.baseline}, in points. The test "
        "is of the last epoch, which was fixed before the runs; the best epoch is picked by the score itself, so it is "
        "too high in every arm.",
        "Intervals: 95 %, expanded percentile bootstrap, which at 5 runs covers about 92 % and from 7 runs 94 %; "
        "(t): Student's or Welch's, with fewer than 5 runs. Each is about one mean or one difference: Holm does not "
        "widen them.",
    ]


def _tests(comparison: Comparison) -> list[str]:
    tested = [row for row in comparison.rows if row.test.permutation]
    reasons = [f"{row.arm}: no test, {row.test.why_not}." for row in comparison.rows[1:] if not row.test.permutation]
    if not tested:
        return reasons
    count = len(tested)
    plural = "s" if count > 1 else ""
    text = [
        f"p: two-sided permutation test; p (Holm): adjusted for the {count} comparison{plural} of the table. Runs "
        "needed: an arm, for 80 % power at 5 % in one t-test, were the observed difference the true one, and no fewer "
        "than the table's test needs at all; it is as uncertain as the difference is, and below about 9 pairs the "
        "permutation test sees less than the t-test."
    ]
    for smallest in sorted({row.test.permutation.smallest_p for row in tested if row.test.permutation}, reverse=True):
        rows = [row for row in tested if row.test.permutation and row.test.permutation.smallest_p == smallest]
        if smallest * count > ALPHA:
            text.append(_out_of_reach(rows, smallest, count))
    return text + _unpaired(tested) + _partly_paired(comparison.rows[0], tested) + reasons


def _out_of_reach(rows: Sequence[Row], smallest: float, count: int) -> str:
    names = ", ".join(row.arm for row in rows)
    alone = (
        "no scores could come out below 0.05" if smallest > ALPHA else "no scores could come out below 0.05 after Holm"
    )
    enough = statistics.seeds_to_reach(count)
    return (
        f"{names}: with so few runs the smallest possible p is {smallest:.4g}"
        + (f" ({min(1.0, smallest * count):.4g} after Holm)" if count > 1 else "")
        + f", so {alone}, whatever the difference. {enough} seeds in every arm are the "
        "fewest that can."
    )


def _unpaired(tested: Sequence[Row]) -> list[str]:
    names = [row.arm for row in tested if row.last.difference and not row.last.difference.paired]
    return [f"{', '.join(names)}: too few seeds shared with the baseline; compared unpaired."] if names else []


def _partly_paired(baseline: Row, tested: Sequence[Row]) -> list[str]:
    found = []
    for row in tested:
        difference = row.last.difference
        runs = max(reading.estimate.n for reading in (row.last, baseline.last) if reading.estimate)
        if difference and difference.paired and difference.n[0] < runs:
            found.append(
                f"{row.arm}: the difference is of the {difference.n[0]} seeds that it shares with the baseline, the "
                "means are of all runs, so the one need not be the difference of the others."
            )
    return found


def _diverged(comparison: Comparison) -> list[str]:
    if not any(row.counts["diverged"] for row in comparison.rows):
        return []
    return [
        "Diverged runs are in all means with the score they ended with: their last finite validation, or chance if "
        "they never finished an epoch. The lines without diverged runs show how much that matters; they compare only "
        "the lucky runs."
    ]


def _absent(comparison: Comparison) -> list[str]:
    found = []
    for row in comparison.rows:
        parts = [f"{row.counts[state]} {state}" for state in ("failed", "running", "missing") if row.counts[state]]
        if parts:
            found.append(f"{row.arm}: {' and '.join(parts)}, in no number until they are done.")
    return found


def _budgets(comparison: Comparison) -> list[str]:
    found = []
    if comparison.time:
        arm, seconds = comparison.time
        found.append(f"Equal time: {seconds:,.0f} s of training, what {arm} needs.")
    if comparison.flops:
        arm, flops = comparison.flops
        found.append(f"Equal FLOPs: {flops:.3g} FLOPs of training, what {arm} needs.")
    if found:
        found.append(
            "An arm's score there is that of the last epoch that ends within the budget. A schedule such as one-cycle "
            "is made for its own length: a run read before its end has not yet annealed and scores less than one "
            "planned for the budget would. So these readings are hard on costly arms; train those for fewer epochs to "
            "compare fairly."
        )
    return found


def _attention(comparison: Comparison) -> list[str]:
    measured = [row for row in comparison.rows if row.off]
    if not measured:
        return []
    found = [
        "Attention switched off: the network of the best epoch (best.pt), on the validation images, with gamma 0 or "
        "the attention channels 0. It was trained with attention, so that score is not a plain network's; how far it "
        "falls does not say what attention is worth. Inactive: the logits move by less than "
        f"{LOGITS_MOVED:g} of their norm, and less than {PREDICTIONS_CHANGED:g} % of the predictions change."
    ]
    for row in measured:
        if row.off and row.off.inactive:
            found.append(
                f"{row.arm}: attention is {row.off.verdict}. An inactive network answers alike with and without it: "
                "what attention computes there explains no difference of scores."
            )
    return found


def _mixed(comparison: Comparison) -> list[str]:
    found = []
    if len({row.epochs for row in comparison.rows if row.epochs}) > 1:
        found.append("The arms were trained for different numbers of epochs: the first table is not of equal epochs.")
    for key, text in (
        ("commit", "commits"),
        ("version", "versions of attnconv: they may differ for that reason alone"),
        ("torch", "versions of torch"),
        ("machine", "machines: seconds are not comparable between them"),
        ("device", "devices: seconds are not comparable between them"),
    ):
        kinds = dict.fromkeys(str(record[key]) for record in comparison.records if record.get(key))
        if len(kinds) > 1:
            head, _, tail = text.partition(": ")
            found.append(f"The runs come from {len(kinds)} {head} ({', '.join(kinds)}){tail and ': '}{tail}.")
    return found
