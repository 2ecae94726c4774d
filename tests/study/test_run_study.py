"""A study's folder over its life: run, run again, extended, refused, diverged, failed. The runs are in this process."""

import dataclasses
import json

import pytest
import yaml
from study.tiny import ARMS, BASE, Here, tiny, without_times

from attnconv import __version__
from attnconv.checks import InputError
from attnconv.files import locked
from attnconv.study import folder as folder_module
from attnconv.study.folder import StudyFolder, counts, facts_of, read_records, record, records
from attnconv.study.report import write_report
from attnconv.study.run import run_study


def do(study, folder, **settings):
    here = Here()
    return here, run_study(study, folder, here, progress=False, **settings)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a study that is done, two runs and one that diverges; tests that change it put it back."""
    folder = StudyFolder(tmp_path_factory.mktemp("study") / "one")
    study = tiny(arms={**ARMS, "wild": {"model": "convnet3", "lr": 1e30}})
    here, found = do(study, folder)
    assert here.names == ["plain-seed0", "augmented-seed0", "wild-seed0"]
    return study, folder, found


def test_a_record_says_what_a_run_was_and_came_to(finished):
    _, folder, found = finished
    plain = found[0]
    result = json.loads((folder.path / "runs/plain-seed0/result.json").read_text())
    assert (plain["arm"], plain["seed"], plain["state"], plain["reason"]) == ("plain", 0, "done", None)
    for name in ("top1", "best_top1", "best_epoch", "top5", "loss", "params", "seconds", "train_seconds_per_epoch"):
        assert plain[name] == result[name]
    assert [row["epoch"] for row in plain["history"]] == [1, 2]
    assert plain["history"][-1]["val_top1"] == plain["top1"]
    assert (plain["images"], plain["classes"], plain["device"], plain["threads"]) == (64, 10, "cpu", 1)
    assert plain["version"] == __version__
    assert "cores" in plain["machine"]
    assert read_records(folder.records) == found


def test_flops_are_those_of_the_network_on_one_image(finished):
    from attnconv.bench.cost import cost
    from attnconv.models import create_model

    for one, model, options in zip(finished[2], ("convnet3", "aa_convnet3"), ({}, {"augment": [3]}), strict=False):
        network = create_model(model, num_classes=10, in_channels=1, image_size=8, **options)
        counted = cost(network, in_channels=1, image_size=(8, 8))
        assert (one["flops"], one["params"]) == (counted.flops, counted.params)


def test_a_diverged_run_is_kept_as_one(finished):
    wild = finished[2][2]
    assert (wild["state"], wild["top1"]) == ("diverged", None)
    assert "the loss is nan" in wild["reason"] or "the loss is inf" in wild["reason"]
    assert wild["params"] is not None
    assert counts(finished[2]) == {"done": 2, "diverged": 1, "failed": 0, "running": 0, "missing": 0}


def test_running_again_does_nothing_more(finished):
    study, folder, found = finished
    here, again = do(study, folder)
    assert here.names == []
    assert again == found


def test_more_seeds_and_arms_need_extend_and_do_what_is_missing(finished, tmp_path):
    import shutil

    study, folder, found = finished
    shutil.copytree(folder.path, tmp_path / "copy")
    folder = StudyFolder(tmp_path / "copy")
    more = dataclasses.replace(study, arms={**study.arms, "last": {"model": "convnet3", "epochs": 1}}, seeds=(0, 1))
    with pytest.raises(InputError, match=r"arm last is new; seed 1 is new\. --extend accepts that"):
        do(more, folder)
    here, again = do(more, folder, extend=True)
    assert here.names == ["last-seed0", "plain-seed1", "augmented-seed1", "wild-seed1", "last-seed1"]
    assert [one for one in again if one["seed"] == 0 and one["arm"] != "last"] == found
    assert folder.study() == dataclasses.replace(more, threads=1)
    # The larger plan is the folder's now.
    with pytest.raises(InputError, match="arm last is gone; seed 1 is gone"):
        do(study, folder, extend=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": {**BASE, "epochs": 3}}, "arm plain: epochs was 2 and is now 3; arm augmented: epochs"),
        ({"arms": {"plain": ARMS["plain"]}}, "arm augmented is gone"),
        ({"seeds": (1,)}, "seed 0 is gone"),
        ({"baseline": "augmented"}, "baseline was 'plain' and is now 'augmented'"),
        ({"score": "top5"}, "score was 'top1' and is now 'top5'"),
        ({"threads": 2}, "threads was 1 and is now 2"),
    ],
)
@pytest.mark.parametrize("extend", [False, True])
def test_a_changed_plan_is_refused_with_its_differences(finished, change, message, extend):
    study, folder, _ = finished
    with pytest.raises(InputError, match=f"holds runs of another plan: .*{message}"):
        do(dataclasses.replace(study, **change), folder, extend=extend)
    assert folder.study() == dataclasses.replace(study, threads=1)


def test_where_a_run_computes_is_no_change_of_it(finished):
    study, folder, found = finished
    assert do(dataclasses.replace(study, base={**BASE, "device": "auto"}), folder)[1] == found
    assert do(study, folder)[1] == found


def test_a_plan_edited_in_the_folder_is_noticed(finished):
    _, folder, _ = finished
    before = folder.plan.read_text()
    folder.plan.write_text(before.replace("epochs: 2", "epochs: 4"))
    with pytest.raises(InputError, match=r"study\.yaml was changed after run plain-seed0 was begun: epochs was 2 and"):
        do(folder.study(), folder)
    folder.plan.write_text(before)


def test_before_any_run_the_plan_may_change(tmp_path):
    folder = StudyFolder(tmp_path / "study")
    folder.prepare(tiny(), threads=1)
    assert folder.prepare(tiny(seeds=(5,)), threads=3).seeds == (5,)
    assert folder.study().threads == 1


def test_runs_of_another_version_are_refused(finished, monkeypatch):
    study, folder, found = finished
    monkeypatch.setattr(folder_module, "__version__", "9.9")
    with pytest.raises(
        InputError, match=rf"another version \(3 of attnconv {__version__}; this is 9\.9\).*--mix-versions"
    ):
        do(study, folder)
    assert do(study, folder, mix_versions=True)[1] == found


def test_records_of_another_format_are_refused(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"format": 99}\n')
    with pytest.raises(InputError, match="line 1 has format 99; this version reads 1"):
        read_records(path)
    path.write_text(json.dumps({"format": 1, "arm": "a", "seed": 0, "state": "done"}) + "\nrubbish\n")
    with pytest.raises(InputError, match="line 2 is no record of a study"):
        read_records(path)
    path.write_text('{"format": 1, "arm": "plain", "seed": 0}\n')
    with pytest.raises(InputError, match="line 1 is damaged: it has no state"):
        read_records(path)
    path.write_text('{"format": 1, "arm": "plain", "seed": 0, "state": "dome"}\n')
    with pytest.raises(InputError, match="line 1: 'dome'; nearest: 'done'"):
        read_records(path)
    with pytest.raises(InputError, match="cannot read"):
        read_records(tmp_path / "nothing")


def test_a_damaged_result_is_no_result_and_is_made_again(tmp_path):
    study = tiny(base={**BASE, "epochs": 1}, arms={"plain": ARMS["plain"]})
    folder = StudyFolder(tmp_path / "study")
    _, (good,) = do(study, folder)
    run = folder.run(study.runs()[0]).path
    (run / "result.json").write_text("{}")
    (run / "facts.json").write_text(json.dumps({**json.loads((run / "facts.json").read_text()), "sessions": 3}))
    found = record(folder, study.runs()[0])
    assert (found["state"], found["reason"], found["top1"]) == ("failed", "its result.json is damaged", None)
    here, (again,) = do(study, folder)
    assert here.names == ["plain-seed0"]
    assert (again["state"], again["top1"], again["history"]) == ("done", good["top1"], good["history"])


def test_a_failed_run_says_why_and_is_tried_again(tmp_path):
    images = tmp_path / "images"
    for part in ("train", "val"):
        (images / part).mkdir(parents=True)
    study = tiny(
        base={"data": str(images), "epochs": 1, "batch_size": 2, "device": "cpu", "workers": 0, "image_size": 8}
    )
    study = dataclasses.replace(study, arms={"plain": {"model": "convnet3"}})
    folder = StudyFolder(tmp_path / "study")
    _, (failed,) = do(study, folder)
    assert failed["state"] == "failed"
    assert "holds no class folder" in failed["reason"]
    from cli.conftest import picture

    for part in ("train", "val"):
        (images / part / "red").mkdir()
        (images / part / "blue").mkdir()
        for i in range(4):
            picture(images / part / "red" / f"{i}.png")
            picture(images / part / "blue" / f"{i}.png", colour=(0, 0, 250))
    here, (done,) = do(study, folder)
    assert here.names == ["plain-seed0"]
    assert (done["state"], done["reason"]) == ("done", None)


def test_an_interrupted_run_goes_on_and_ends_as_one_that_was_not(finished, monkeypatch, tmp_path):
    """Interrupted after an epoch: status says so, the next call resumes, and the record is the same but for times."""
    from attnconv.train import progress

    study, folder = tiny(), StudyFolder(tmp_path / "study")
    rows = []

    def stop(display, row):
        rows.append(row)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(progress.Display, "epoch_done", stop)
        with pytest.raises(KeyboardInterrupt):
            do(study, folder)
    first, second = read_records(folder.records)
    assert (first["state"], first["reason"]) == ("missing", "interrupted after 1 of 2 epochs")
    assert (second["state"], second["reason"]) == ("missing", None)
    here, found = do(study, folder)
    assert here.names == ["plain-seed0", "augmented-seed0"]
    assert without_times(found) == without_times(finished[2][:2])
    assert len(facts_of(folder.path / "runs" / "plain-seed0")["sessions"]) == 2


def test_a_run_under_way_is_said_to_be(finished):
    study, folder, _ = finished
    planned = study.runs()[0]
    path = folder.run(planned).result
    kept = path.read_text()
    path.unlink()
    with locked(folder.run(planned).path):
        found = record(folder, planned)
    path.write_text(kept)
    assert (found["state"], found["reason"]) == ("running", "2 of 2 epochs done")


def test_two_at_a_time_cannot_work_in_a_folder(finished):
    study, folder, _ = finished
    with locked(folder.path), pytest.raises(InputError, match="another process"):
        do(study, folder)


def test_the_plan_of_a_study_at_work_stays(finished):
    study, folder, _ = finished
    kept = folder.plan.read_text()
    more = dataclasses.replace(study, seeds=(0, 1))
    with locked(folder.path), pytest.raises(InputError, match="another process"):
        do(more, folder, extend=True)
    assert folder.plan.read_text() == kept


def test_a_run_that_the_plan_does_not_name_is_no_secret(finished):
    study, folder, _ = finished
    kept = folder.plan.read_text()
    fewer = {name: options for name, options in study.arms.items() if name != "wild"}
    text = yaml.safe_dump({**folder.study().to_dict(), "arms": fewer})
    for work in (lambda: do(folder.study(), folder), lambda: write_report(folder.path)):
        folder.plan.write_text(text)
        with pytest.raises(InputError, match=r"study\.yaml was changed after run wild-seed0 was begun: it does not"):
            work()
    folder.plan.write_text(kept)


def test_an_archive_is_shown_and_not_run(finished, tmp_path):
    study, folder, found = finished
    archive = StudyFolder(tmp_path)
    for file in (folder.plan, folder.records):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert records(archive, study) == found
    with pytest.raises(InputError, match=r"holds the records of runs and not the runs, .* give another --out"):
        do(dataclasses.replace(study, score="top5"), archive)
    assert archive.records.read_bytes() == folder.records.read_bytes()
    assert archive.plan.read_bytes() == folder.plan.read_bytes()


def test_nothing_is_written_where_names_do_not_exist_or_other_files_are(tmp_path):
    folder = StudyFolder(tmp_path / "study")
    with pytest.raises(InputError, match="unknown model 'convnet4'"):
        do(tiny(arms={"plain": {"model": "convnet4"}}), folder)
    assert not folder.path.exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="holds other files and no study"):
        do(tiny(), StudyFolder(tmp_path))
    with pytest.raises(InputError, match="is a file; --out must name a folder"):
        do(tiny(), StudyFolder(tmp_path / "file"))
    with pytest.raises(InputError, match=r"holds no study: it has no study\.yaml"):
        records(StudyFolder(tmp_path), StudyFolder(tmp_path).study())
