"""Tables and drawings of benchmarks, from planted records."""

import pytest

from attnconv.report.bench import comparisons, file_name, markdown, ratios, sweeps, tables
from attnconv.report.page import svg_file
from attnconv.report.plots import sweep_figure

MACHINE = {"name": "Abacus 2", "device": "cpu", "threads": 2, "torch": "2.99", "triton": "3"}


def record(contestant, seconds, **more):
    return {
        "format": 1, "study": "relative_attention", "case": "S1", "size": None, "shape": {"B": 2, "H": 8},
        "pass": "forward", "dtype": "float32", "contestant": contestant, "baseline": "auto", "seconds": seconds,
        "peak_bytes": 2_500_000 if seconds else None, "why_not": None if seconds else "needs a unicorn",
        "flops": 10**9, "exps": 10**6, "matmul_flops_per_s": 1e10, "exps_per_s": 1e7, "session": "first",
        "date": "2026-01-01T00:00:00+00:00", "seed": 0, "commit": "0123456789abcdef", "command": "attnconv bench ops",
        "machine": MACHINE, **more,
    }  # fmt: skip


AUTO, SLOW, ABSENT = record("auto", [2.0, 1.0, 4.0]), record("slow", [4.0, 3.0, 6.0]), record("gone", [])


def test_ratios_are_those_of_rounds():
    assert ratios([4.0, 3.0, 6.0], [2.0, 1.0, 1.0]) == (3.0, (2.0, 6.0))  # of the medians: 4.0
    assert ratios([4.0], [2.0, 1.0, 4.0]) == (2.0, None)


def test_a_table_by_hand():
    (table,) = tables([AUTO, SLOW, ABSENT])
    assert table.title == "S1 (B 2, H 8), forward, float32, floor 200 ms; ratios to auto"
    assert table.machine == "Abacus 2, 2 threads, torch 2.99"
    assert table.rows == (
        ("auto", "2000", "1000 - 4000", "1.00", "1.00 - 1.00", "2.5", "0.5", "5.0 %", "200", "10.00"),
        ("slow", "4000", "3000 - 6000", "2.00", "1.50 - 3.00", "2.5", "0.25", "2.5 %", "200", "20.00"),
    )
    assert len(table.header) == 10
    assert table.note == ""
    assert table.absent == (("gone", "needs a unicorn"),)


def test_unknown_quantities_are_dashes():
    (table,) = tables([record("slow", [1.0], flops=None, exps=None, peak_bytes=None)])
    assert table.rows == (("slow", "1000", "1000 - 1000", "1.00", "1.00 - 1.00", "-", "-", "-"),)
    assert len(table.header) == 8
    assert "floor" not in table.title


MEASURED = {"macs": 6, "instruction_set": "avx2", "floor_why_not": None}


def test_a_floor_is_that_of_the_round():
    rates = [[40e9, 4e9], [20e9, 2e9], [60e9, 6e9]]
    auto = record("auto", [2.0, 3.0, 5.0], **MEASURED, floors=[1.0, 2.0, 0.5], rates=rates)
    later = record("slow", [9.0], **MEASURED, floors=[3.0], rates=[[1e9, 1e9]])
    (table,) = tables([auto, later])
    assert table.header[-2:] == ("floor ms", "/ floor")
    assert [row[-2:] for row in table.rows] == [("1000", "2.00"), ("3000", "3.00")]
    assert "float32, floor 1000 ms; ratios to auto" in table.title
    assert table.note == "a thread: 30 G multiply-adds/s, 3 G exponentials/s (avx2), median"
    assert f"\n{table.note}\n" in markdown([auto, later])[0]


def test_without_the_library_there_is_no_floor_and_the_reason_is_said():
    (table,) = tables([record("auto", [2.0], **{**MEASURED, "floor_why_not": "it is gone"}, floors=[], rates=[])])
    assert len(table.rows[0]) == len(table.header) == 8
    assert "floor" not in table.title
    assert table.note == "no floor, which impl='native' measures: it is gone"


def test_without_the_baseline_the_first_candidate_takes_its_place():
    (table,) = tables([SLOW, record("slower", [9.0, 6.0, 12.0])])
    assert table.title.endswith("; ratios to slow")
    assert [row[3] for row in table.rows] == ["1.00", "2.00"]


def test_a_baseline_that_could_not_run_leaves_no_ratio():
    (table,) = tables([record("auto", []), SLOW])
    assert table.rows[0][3:5] == ("-", "-")
    assert table.absent == (("auto", "needs a unicorn"),)


def test_peak_and_floor_take_the_best_that_the_machine_has_shown():
    better = record("auto", [1.0], case="S2", matmul_flops_per_s=2e10)
    assert tables([AUTO, better])[0].rows[0][7] == "2.5 %"
    other = record("auto", [1.0], machine={**MACHINE, "threads": 4}, matmul_flops_per_s=9e10)
    assert tables([AUTO, other])[0].rows[0][7] == "5.0 %"


def test_of_a_repeated_comparison_the_last_counts():
    later = record("auto", [8.0], session="second", date="2026-02-01T00:00:00+00:00")
    assert comparisons([AUTO, later, SLOW]) == [[later]]


@pytest.mark.parametrize(
    "changed",
    [
        {"case": "S2"}, {"pass": "forward+backward"}, {"dtype": "float16"}, {"shape": {"B": 4, "H": 8}},
        {"machine": {**MACHINE, "torch": "2.98"}}, {"machine": {**MACHINE, "threads": 1}}, {"study": "layers"},
    ],
    ids=str,
)  # fmt: skip
def test_what_differs_is_not_mixed(changed):
    assert len(comparisons([AUTO, record("auto", [1.0], **changed)])) == 2


SWEEP = [
    record(name, [s * n, s * n, 2 * s * n], case=f"map{n}", size=n, shape={"B": 2, "H": n})
    for n in (8, 16, 32)
    for name, s in (("auto", 1.0), ("slow", 3.0))
] + [record("gone", [], case="map8", size=8)]


def test_sweeps_are_found():
    ((title, rows),) = sweeps([*SWEEP, AUTO]).items()
    assert title == "relative attention, forward, float32, Abacus 2, 2 threads, torch 2.99"
    assert len(rows) == 6
    assert sweeps(SWEEP[:2]) == {}  # one size is no sweep
    assert file_name(title) == "relative-attention-forward-float32-abacus-2-2-threads-torch-2-99.svg"


def test_drawings_are_log_log_and_hold_the_numbers():
    ((title, rows),) = sweeps(SWEEP).items()
    figure = sweep_figure(title, rows)
    times, memory = figure.axes
    assert {times.get_xscale(), times.get_yscale(), memory.get_xscale(), memory.get_yscale()} == {"log"}
    drawn = {container.get_label(): container.lines[0] for container in times.containers}
    assert list(drawn) == ["auto", "slow"]
    assert list(drawn["slow"].get_xdata()) == [8, 16, 32]
    assert list(drawn["slow"].get_ydata()) == [12e3, 24e3, 48e3]  # ms an image
    assert list(memory.lines[0].get_ydata()) == [1.25] * 3
    assert [label.get_text() for label in times.get_xticklabels()] == [f"{n} x {n}\nbatch 2" for n in (8, 16, 32)]


def test_the_page_holds_tables_reasons_drawings_and_commands():
    text, figures = markdown([AUTO, SLOW, ABSENT, *SWEEP])
    assert "## Abacus 2, 2 threads, torch 2.99" in text
    assert "| slow | 4000 | 3000 - 6000 | 2.00 | 1.50 - 3.00 |" in text
    assert "- gone: needs a unicorn" in text
    assert text.count("- `attnconv bench ops` (2026-01-01, commit 012345678)") == 1
    ((name, figure),) = figures.items()
    assert f"]({name})" in text
    first = svg_file(figure)
    assert "<svg" in first
    again = markdown([AUTO, SLOW, ABSENT, *SWEEP])[1][name]
    assert svg_file(again) == first


def test_a_comparison_that_nobody_could_run_has_no_table():
    text, figures = markdown([ABSENT])
    assert "| candidate" not in text
    assert "- gone: needs a unicorn" in text
    assert figures == {}
