"""Records: what a line says, appending to files, and files that are damaged or another's."""

import json
from pathlib import Path

import pytest
import torch
from bench.candidates import CPU, UNABLE, FakeTime, settings

from attnconv.bench.benchmark import run
from attnconv.bench.records import FORMAT, append, load, load_folder, provenance
from attnconv.kernels.relative_attention import native

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
RATES = {"matmul_flops_per_s": 1e9, "exps_per_s": 1e6}


@pytest.fixture(autouse=True)
def _known_rates(monkeypatch):
    monkeypatch.setattr("attnconv.bench.benchmark.rates", lambda device, dtype: RATES)


@pytest.fixture
def time(monkeypatch):
    return FakeTime(monkeypatch)


def pair(time, **more):
    seconds = [5.0, 0.0, 9.0, 2.0, 9.0, 4.0, 9.0, 3.0]  # of rounds 2, 4 and 3: before each the timer calls once
    return time.benchmark({"a": seconds, "b": UNABLE}, flops={"a": 10**9, "b": None}.get, **more)


def recorded(tmp_path, benchmark):
    made = provenance(CPU, 3, commit="abc", command=["attnconv", "bench", "a b"])
    (found,) = run([benchmark], settings(seed=3), made, file=tmp_path / "ops.jsonl")
    return found


def test_a_line_says_what_was_measured_and_where(tmp_path, time):
    first, second = recorded(tmp_path, pair(time, exps=10**6, size=8))
    assert first["seconds"] == [2.0, 4.0, 3.0]
    assert first["median_seconds"] == 3.0
    assert first["floor_seconds"] == 2.0  # a second for the products, a second for the exponentials
    assert first["peak_fraction"] == pytest.approx(1 / 3)
    assert first["peak_bytes"] == 0
    assert (first["format"], first["study"], first["case"], first["size"]) == (FORMAT, "toys", "T1", 8)
    assert (first["shape"], first["pass"], first["dtype"], first["baseline"]) == ({"B": 2}, "forward", "float32", "a")
    assert (first["contestant"], first["why_not"]) == ("a", None)
    assert (first["seed"], first["commit"], first["command"]) == (3, "abc", "attnconv bench 'a b'")
    assert first["machine"]["threads"] == torch.get_num_threads()
    assert {"name", "device", "torch", "triton"} <= set(first["machine"])
    assert first["date"].endswith("+00:00")
    assert first["session"] == second["session"]
    assert {key: first[key] for key in RATES} == RATES
    assert (second["contestant"], second["why_not"], second["seconds"]) == ("b", "needs a unicorn", [])
    assert second["median_seconds"] is second["peak_bytes"] is second["peak_fraction"] is None


def test_a_new_line_has_all_keys_of_those_that_were_published(tmp_path, time):
    published = load(RESULTS / "ops.jsonl")
    assert len(published) > 100
    assert set(published[-1]) <= set(recorded(tmp_path, pair(time))[0])


def test_without_exponentials_there_is_no_floor(tmp_path, time):
    assert recorded(tmp_path, pair(time))[0]["floor_seconds"] is None


def test_the_floor_on_a_cpu_is_that_of_the_higher_rates_around_each_turn(tmp_path, time, monkeypatch):
    around = iter([(10.0, 6.0), (20.0, 3.0), (5.0, 9.0), (40.0, 1.0), (8.0, 2.0), (4.0, 4.0)])
    monkeypatch.setattr(native, "MISSING", None)
    monkeypatch.setattr(native, "INSTRUCTION_SET", "avx2")
    monkeypatch.setattr(native, "rates", lambda: next(around))
    first, second = recorded(tmp_path, pair(time, exps=36, macs=80))
    assert first["rates"] == [[20.0, 6.0], [40.0, 9.0], [8.0, 4.0]]
    threads = torch.get_num_threads()
    assert first["floors"] == [(4 + 6) / threads, (2 + 4) / threads, (10 + 9) / threads]
    assert first["floor_seconds"] == 10 / threads
    assert (first["macs"], first["instruction_set"], first["floor_why_not"]) == (80, "avx2", None)
    assert (second["rates"], second["floors"], second["floor_seconds"]) == ([], [], None)


def test_without_the_library_the_reason_is_recorded(tmp_path, time, monkeypatch):
    monkeypatch.setattr(native, "MISSING", "its library was not built")
    monkeypatch.setattr(native, "INSTRUCTION_SET", None)
    first, _ = recorded(tmp_path, pair(time, exps=36, macs=80))
    assert (first["floors"], first["floor_seconds"], first["rates"]) == ([], None, [])
    assert first["floor_why_not"] == "its library was not built"


def test_candidates_that_were_not_asked_for_are_left_out(time):
    (found,) = run([pair(time)], settings(names=("b",)), provenance(CPU, 0, commit=None))
    assert [line["contestant"] for line in found] == ["b"]
    assert time.log == []


def test_records_are_added_and_come_back(tmp_path, time):
    first, second = recorded(tmp_path, pair(time)), recorded(tmp_path, pair(time))
    assert load(tmp_path / "ops.jsonl") == first + second
    assert len({line["session"] for line in first + second}) == 2


def test_records_of_ended_benchmarks_stay_when_a_later_one_is_interrupted(tmp_path, time):
    benchmarks = [pair(time), time.benchmark({"c": KeyboardInterrupt()})]
    with pytest.raises(KeyboardInterrupt):
        list(run(benchmarks, settings(), provenance(CPU, 0, commit=None), file=tmp_path / "ops.jsonl"))
    assert [line["contestant"] for line in load(tmp_path / "ops.jsonl")] == ["a", "b"]


LINE = {"format": FORMAT, "contestant": "a"}


def test_a_last_line_that_was_cut_off_is_left_out_and_makes_room(tmp_path):
    file = tmp_path / "ops.jsonl"
    append(file, [LINE])
    file.write_text(file.read_text() + json.dumps(LINE)[:15])
    assert load(file) == [LINE]
    append(file, [LINE, LINE])
    assert load(file) == [LINE] * 3
    assert file.read_text() == (json.dumps(LINE) + "\n") * 3


def test_a_whole_last_line_without_an_end_is_kept(tmp_path):
    file = tmp_path / "ops.jsonl"
    file.write_text(json.dumps(LINE))
    assert load(file) == [LINE]
    append(file, [LINE])
    assert load(file) == [LINE] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 1}\nnot json\n{"format": 1}\n', r"ops\.jsonl, line 2 is no record of a benchmark"),
        ("[1, 2]\n", "line 1 is no record of a benchmark"),
        ('{"name": "x"}\n', "line 1 is no record of a benchmark"),
        ('{"format": 1}\n\n{"format": 7}\n', "line 3 has format 7; this version reads 1"),
    ],
)
def test_lines_that_are_no_records_are_named(tmp_path, text, message):
    (tmp_path / "ops.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "ops.jsonl")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read .*ops\.jsonl: No such file"):
        load(tmp_path / "ops.jsonl")


def test_a_file_that_cannot_be_written(tmp_path):
    (tmp_path / "results").write_text("a file where the folder should be")
    with pytest.raises(ValueError, match=r"cannot make the folder .*results: "):
        append(tmp_path / "results" / "ops.jsonl", [LINE])


def test_a_folder_gives_the_records_of_its_files(tmp_path):
    append(tmp_path / "ops.jsonl", [LINE])
    append(tmp_path / "layers.jsonl", [{**LINE, "contestant": "b"}])
    assert [line["contestant"] for line in load_folder(tmp_path)] == ["b", "a"]


def test_folders_without_records(tmp_path):
    with pytest.raises(ValueError, match=r"no records in .*; attnconv bench ops, layers or models makes some"):
        load_folder(tmp_path)
    with pytest.raises(ValueError, match=r"no folder at .*nowhere; attnconv bench ops, layers or models makes one"):
        load_folder(tmp_path / "nowhere")
