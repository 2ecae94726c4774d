"""attnconv bench: records, tables, reports, and bad input. No time is asserted anywhere."""

import json
import re

import pytest
import torch
from cli.test_bad_input import assert_refused

from attnconv.bench import machine
from attnconv.kernels.relative_attention import native


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """The machine's rates in a moment, and no compiler."""
    monkeypatch.setattr(machine, "SECONDS", 0.0)
    monkeypatch.setattr("torch.compile", lambda function, **_: function)


pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without")

FLAGS = {
    "ops": "--backward --no-backward --case --device --dtype --impl --json --out --rounds --sizes --threads",
    "layers": "--backward --no-backward --case --device --dtype --json --layer --out --rounds --sizes --threads",
    "models": (
        "--attend --attention --augment --batch-size --device --dtype --image-size --impl --json --model --out "
        "--rounds --threads"
    ),
    "report": "--folder --out",
}


@pytest.mark.parametrize("command", FLAGS)
def test_every_flag_is_listed_here(attnconv, command):
    _, out, _ = attnconv("bench", command, "--help")
    assert set(re.findall(r"--[a-z][a-z0-9-]*", out)) == {"--import", *FLAGS[command].split()}


CPU = ("--device", "cpu")
CHOICE = "--backward --device --dtype --explain-choice --json --key-dim --map-size --positions --value-dim"


def test_every_flag_of_the_explanation_is_listed_here(attnconv):
    _, out, _ = attnconv("bench", "--help")
    found = set(re.findall(r"--[a-z][a-z0-9-]*", out)) - {"--no-backward", "--no-positions", "--help", "--version"}
    assert found == {"--import", *CHOICE.split()}


def test_the_choice_of_a_kernel_is_explained(attnconv, monkeypatch):
    monkeypatch.setattr(native, "MISSING", "its library was not built")
    code, out, err = attnconv("bench", "--explain-choice", "--device", "cpu")
    assert code == 0, err
    assert out.startswith("map 32,32, D 20, E 2, float32, cpu: blocked\n")
    assert re.search(r"^ *sdpa +could run; blocked goes first: the fastest on maps of 71 positions", out, re.M)
    assert re.search(r"^ *native +its library was not built *$", out, re.M)
    assert re.search(r"^ *triton +\S", out, re.M)


def test_the_choice_as_json(attnconv, monkeypatch):
    monkeypatch.setattr(native, "MISSING", None)
    _, out, _ = attnconv(
        "bench", "--explain-choice", "--map-size", "7,7", "--value-dim", "8", "--device", "cpu", "--json"
    )
    found = json.loads(out)
    assert found["kernel"] == "native"
    assert list(found["reasons"]) == ["eager", "blocked", "native", "sdpa", "triton"]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--map-size", "a,3"), "--map-size must be integers such as 8,16,32, got 'a,3'"),
        (("--map-size", "1,2,3,4"), "--map-size must have one to three numbers, got '1,2,3,4'"),
        (("--map-size", "0,3"), "map-size must be at least 1"),
        (("--key-dim", "0"), "key-dim must be at least 1"),
    ],
)
def test_a_shape_that_is_none_gets_a_sentence(attnconv, flags, sentence):
    assert_refused(attnconv("bench", "--explain-choice", *flags), sentence)


def test_alone_it_prints_help(attnconv):
    code, out, _ = attnconv("bench")
    assert code == 0
    assert all(command in out for command in FLAGS)


def test_ops_leave_records_and_print_tables(attnconv, tmp_path):
    words = ["--sizes", "2,3", "--impl", "auto,eager,triton", "--rounds", "1", "--out", tmp_path, "--device", "cpu"]
    code, out, err = attnconv("bench", "ops", *words)
    assert code == 0, err
    lines = [json.loads(line) for line in (tmp_path / "ops.jsonl").read_text().splitlines()]
    assert {(line["case"], line["pass"]) for line in lines} == {
        (case, what) for case in ("map2", "map3") for what in ("forward", "forward+backward")
    }
    assert {line["device"] for line in (line["machine"] for line in lines)} == {"cpu"}
    assert all(line["command"].startswith("attnconv") for line in lines)
    assert all(len(line["seconds"]) == 1 or line["why_not"] for line in lines)
    assert re.search(
        r"^map2 \(B 64, N 8, H 2, W 2, D 20, E 2\), forward, float32(, floor .* ms)?; ratios to auto$", out, re.M
    )
    assert re.search(r"^auto +\S", out, re.M)
    assert f"{len(lines)} records added to {tmp_path / 'ops.jsonl'}" in out
    assert "map3 forward+backward: done" in err


@pytest.fixture
def threads_restored():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif(native.MISSING is not None, reason=str(native.MISSING))
def test_the_floor_at_the_rates_of_a_core(attnconv, tmp_path, monkeypatch, threads_restored):
    monkeypatch.setattr(native, "INSTRUCTION_SET", "avx2")
    monkeypatch.setattr(native, "rates", lambda: (64e6, 2e6))
    words = ["--sizes", "2", "--impl", "auto,native,blocked", "--rounds", "1", "--threads", "2", "--out", tmp_path]
    code, out, err = attnconv("bench", "ops", *words, "--device", "cpu")
    assert code == 0, err
    floors = [((64 * 8 * 4**2) * (macs / 64e6 + exps / 2e6)) / 2 for macs, exps in ((22, 1), (86, 2))]
    lines = [json.loads(line) for line in (tmp_path / "ops.jsonl").read_text().splitlines()]
    assert {line["machine"]["threads"] for line in lines} == {2}
    assert [line["floor_seconds"] for line in lines] == [pytest.approx(f) for f in floors for _ in range(3)]
    assert "a thread: 0.064 G multiply-adds/s, 0.002 G exponentials/s (avx2), median\n" in out
    assert re.search(r"^candidate .* of peak +floor ms +/ floor$", out, re.M)
    assert re.search(rf"^native +\S.* {floors[0] * 1e3:.3g} +\d+\.\d\d$", out, re.M)


def test_without_the_library_there_is_no_floor(attnconv, tmp_path, monkeypatch):
    monkeypatch.setattr(native, "MISSING", "its library was not built")
    words = ["--sizes", "2", "--impl", "auto", "--no-backward", "--rounds", "1", "--out", tmp_path, "--device", "cpu"]
    code, out, err = attnconv("bench", "ops", *words)
    assert code == 0, err
    assert "\nno floor, which impl='native' measures: its library was not built\n" in out
    assert not re.search(r"/ floor", out)


def test_ops_as_json_of_some_candidates(attnconv, tmp_path):
    _, out, _ = attnconv(
        "bench", "ops", "--sizes", "2", "--impl", "eager,einsum", "--no-backward", "--dtype", "bfloat16", "--rounds",
        "1", "--out", tmp_path, "--json", "--device", "cpu",
    )  # fmt: skip
    found = json.loads(out)
    assert [(line["contestant"], line["pass"], line["dtype"]) for line in found] == [
        ("eager", "forward", "bfloat16"), ("einsum", "forward", "bfloat16"),
    ]  # fmt: skip
    assert found == [json.loads(line) for line in (tmp_path / "ops.jsonl").read_text().splitlines()]


def test_cases_by_name(attnconv, tmp_path, monkeypatch):
    from attnconv.bench.cases import BilinearCase

    monkeypatch.setattr("attnconv.cli.bench.BILINEAR", (BilinearCase("X1", 2, 3, 5),))
    _, out, _ = attnconv(
        "bench", "ops", "--case", "X1", "--rounds", "1", "--out", tmp_path, "--json", "--device", "cpu"
    )
    assert {line["study"] for line in json.loads(out)} == {"bilinear_attention"}


def test_all_cases_are_those_of_the_device_and_the_whole_sweep(attnconv, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "attnconv.bench.benchmark.run", lambda benchmarks, *_, **__: seen.extend(benchmarks) or iter(())
    )
    attnconv("bench", "ops", "--case", "all", "--out", tmp_path, "--device", "cpu")
    names = list(dict.fromkeys(benchmark.case for benchmark in seen))
    named = [*(f"S{i}" for i in range(1, 7)), "R14", "R7", "SAGAN", "1D", "3D"]
    sweep = [f"map{n}" for n in (8, 16, 32, 64, 128)]
    assert names == [*named, *sweep, *(f"X{i}" for i in range(1, 6))]
    seen.clear()
    attnconv("bench", "ops", "--case", "S1", "--sizes", "16", "--no-backward", "--out", tmp_path, "--device", "cpu")
    assert [benchmark.case for benchmark in seen] == ["S1", "map16"]


def test_a_report_of_the_records(attnconv, tmp_path):
    attnconv("bench", "ops", "--sizes", "2,3", "--impl", "auto", "--rounds", "1", "--out", tmp_path, "--device", "cpu")
    code, out, _ = attnconv("bench", "report", tmp_path, "--out", tmp_path / "page" / "kernels.md")
    assert code == 0
    assert out == f"{tmp_path / 'page' / 'kernels.md'}, with 2 drawings beside it\n"
    text = (tmp_path / "page" / "kernels.md").read_text()
    drawings = re.findall(r"\]\((\S+\.svg)\)", text)
    assert len(drawings) == 2
    assert all((tmp_path / "page" / name).is_file() for name in drawings)
    assert attnconv("bench", "report", tmp_path)[0] == 0
    assert (tmp_path / "report.md").is_file()


BAD_COMMANDS = [
    (["opz"], "unknown command 'opz'; nearest: 'ops'"),
    (["ops", "--case", "S11"], "unknown case 'S11'; nearest: 'S1'"),
    (["ops", "--impl", "egar"], "unknown impl 'egar'; nearest: 'eager'"),
    (
        ["ops", "--case", "X1", "--impl", "blocked"],
        "unknown impl 'blocked'; known: auto, plain-gram, plain-gram_weight",
    ),
    (["ops", "--dtype", "int8"], 'Invalid value "int8" for --dtype'),
    (["ops", "--rounds", "0"], "rounds must be at least 1, got 0"),
    (["ops", "--threads", "0"], "threads must be at least 1, got 0"),
    (["ops", "--sizes", "8,large"], "--sizes must be integers such as 8,16,32, got '8,large'"),
    (["ops", "--sizes", "0"], "a size of the sweep must be at least 1, got 0"),
    (["ops", "--case", ","], "no case is left to run: got --case ','"),
    (["report"], "no folder at benchmarks/results; attnconv bench ops, layers or models makes one"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_COMMANDS, ids=[" ".join(a) for a, _ in BAD_COMMANDS])
def test_bad_commands_get_one_line_and_leave_nothing(attnconv, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert_refused(attnconv("bench", *arguments), message)
    assert list(tmp_path.iterdir()) == []


def test_records_of_another_version(attnconv, tmp_path):
    (tmp_path / "ops.jsonl").write_text('{"format": 99}\n')
    assert_refused(attnconv("bench", "report", tmp_path), r"ops\.jsonl, line 1 has format 99; this version reads 1")


def test_a_folder_that_is_a_file(attnconv, tmp_path):
    (tmp_path / "taken").write_text("")
    assert_refused(
        attnconv("bench", "ops", "--sizes", "2", "--out", tmp_path / "taken"), r"cannot make the folder .*taken: "
    )
