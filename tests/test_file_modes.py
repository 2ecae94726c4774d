"""Every file that runs, studies, reports and exports leave has the mode that the umask says, as any program's has."""

import os

import pytest
from export.untrained import meta, network
from study.tiny import ARMS, BASE, Here, tiny

from attnconv import export
from attnconv.study.folder import StudyFolder
from attnconv.study.report import write_report
from attnconv.study.run import run_study

for package in ("onnx", "onnxscript", "onnxruntime", "matplotlib"):
    pytest.importorskip(package)

MASK = 0o027


@pytest.fixture
def masked():
    before = os.umask(MASK)
    yield
    os.umask(before)


def assert_modes(folder, *names):
    found = {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in folder.rglob("*")}
    wanted = {name: 0o777 if (folder / name).is_dir() else 0o666 for name in found}
    assert found == {name: mode & ~MASK for name, mode in wanted.items()}
    assert set(names) <= found.keys()


def test_of_a_study_with_its_runs_and_its_report(tmp_path, masked):
    folder = StudyFolder(tmp_path / "study")
    run_study(tiny(base={**BASE, "epochs": 1}, arms={"plain": ARMS["plain"]}), folder, Here(), progress=False)
    write_report(folder.path)
    run = [f"runs/plain-seed0/{name}" for name in ("config.yaml", "metrics.csv", "last.pt", "best.pt", "result.json")]
    assert_modes(folder.path, "study.yaml", "records.jsonl", "report.html", "runs/plain-seed0/facts.json", *run)


@pytest.mark.parametrize("name", export.FORMATS)
def test_of_an_export(tmp_path, masked, name):
    file = f"model{export.SUFFIXES[name]}"
    (tmp_path / "out").mkdir()
    model = network("convnet3", 8)
    export.FORMATS[name](model, tmp_path / "out" / file, meta=meta(8))
    assert_modes(tmp_path / "out", file)
