import csv
import json
import os
import re

import pytest
import torch
import yaml
from train.toy import CLASSES, MemoryLoader, toy_config, toy_net, val_loader

from attnconv.checks import InputError, InputTypeError
from attnconv.train.checkpoint import load_checkpoint, load_weights
from attnconv.train.device import make_engine, make_fabric
from attnconv.train.evaluate import evaluate
from attnconv.train.fit import fit
from attnconv.train.run_folder import RunFolder
from attnconv.train.run_state import RunState


def run(out, *, model=None, train=None, val=None, config=None, meta=None, **options):
    return fit(
        model or toy_net(),
        MemoryLoader() if train is None else train,
        val_loader() if val is None else val,
        config=config or toy_config(),
        out=out,
        meta=meta or {},
        **{"progress": False, **options},
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 8 epochs: (folder, result, trained model)."""
    out, model = tmp_path_factory.mktemp("runs") / "deep" / "run", toy_net(dropout=0.0)
    result = run(out, model=model, config=toy_config(epochs=8, lr=0.3, model="toy", seed=3), meta={"classes": ["a"]})
    return out, result, model


def rows(out):
    with open(out / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_separable_problem_is_learned(finished):
    _, result, _ = finished
    assert result["top1"] >= 90
    assert result["top5"] == 100
    assert result["loss"] < 0.5


def test_the_folder_holds_these_files_and_no_others(finished):
    assert sorted(os.listdir(finished[0])) == ["best.pt", "config.yaml", "last.pt", "metrics.csv", "result.json"]


def test_config_yaml_is_the_configuration(finished):
    assert yaml.safe_load((finished[0] / "config.yaml").read_text())["lr"] == 0.3


def test_metrics_csv_has_a_row_an_epoch(finished):
    out, result, _ = finished
    found = rows(out)
    columns = "epoch step lr train_loss train_top1 val_loss val_top1 val_top5 images_per_second seconds"
    assert list(found[0]) == columns.split()
    assert [row["epoch"] for row in found] == [str(n) for n in range(1, 9)]
    assert [row["step"] for row in found] == [str(4 * n) for n in range(1, 9)]
    assert float(found[-1]["val_loss"]) == result["loss"]
    assert float(found[-1]["train_loss"]) < float(found[0]["train_loss"])
    assert 0 < float(found[-1]["lr"]) < 0.01 < 0.1 < float(found[2]["lr"])
    assert float(found[0]["images_per_second"]) == pytest.approx(30 / float(found[0]["seconds"]))


def test_the_result(finished):
    out, result, _ = finished
    assert json.loads((out / "result.json").read_text()) == result
    found = rows(out)
    accuracies = [float(row["val_top1"]) for row in found]
    assert result["best_top1"] == max(accuracies)
    assert result["best_epoch"] == 1 + accuracies.index(max(accuracies))
    seconds = sorted(float(row["seconds"]) for row in found)
    assert result["train_seconds_per_epoch"] == pytest.approx((seconds[3] + seconds[4]) / 2)
    assert result["seconds"] >= sum(seconds)
    fixed = {"model": "toy", "data": "digits", "epochs": 8, "seed": 3, "skipped_images": 0, "device": "cpu"}
    assert fixed.items() <= result.items()
    assert result["params"] == 3 * 4 * 9 + 2 * 4 + 4 * 2 + 4 * CLASSES + CLASSES
    assert result["torch"] == torch.__version__
    assert {"attnconv", "commit"} <= result.keys()


def test_the_last_checkpoint_is_the_trained_model(finished):
    out, result, model = finished
    state = load_checkpoint(out / "last.pt")
    assert state["meta"] == {"classes": ["a"]}
    assert state["config"] == toy_config(epochs=8, lr=0.3, model="toy", seed=3).to_dict()
    other = toy_net(seed=5)
    load_weights(other, state, out / "last.pt")
    assert evaluate(other, val_loader()).loss == result["loss"]
    assert torch.equal(other.conv.weight, model.conv.weight)


def test_the_best_checkpoint_gives_the_best_accuracy(finished):
    out, result, _ = finished
    state = load_checkpoint(out / "best.pt")
    assert state["epoch"] == result["best_epoch"]
    model = toy_net(seed=5)
    load_weights(model, state, out / "best.pt")
    assert evaluate(model, val_loader()).top1 == result["best_top1"]


def state_of(out, *epochs):
    """A run of which these rows of metrics.csv, but for what they leave out, are done."""
    config = toy_config(epochs=len(epochs))
    engine = make_engine(toy_net(), config, make_fabric("cpu"))
    state = RunState(engine, config=config, batches=4, folder=RunFolder(out), meta={})
    known = {"val_loss": 1.0, "val_top1": 50.0, "val_top5": 90.0, "seconds": 1.0}
    bests = [state.epoch_done({"epoch": number, **known, **row}) for number, row in enumerate(epochs, 1)]
    return state, bests


def test_the_first_of_equally_good_epochs_is_the_best(tmp_path):
    state, bests = state_of(tmp_path, *({"val_top1": top1} for top1 in (40.0, 60.0, 60.0, 55.0)))
    assert bests == [True, True, False, False]
    assert state.best == {"top1": 60.0, "epoch": 2}


def test_the_result_is_of_the_last_epoch_and_its_seconds_are_those_of_most(tmp_path):
    rows = [{"val_top1": 60.0, "val_loss": 0.5}, {"seconds": 2.0}, {"val_top1": 55.0, "val_loss": 0.7, "seconds": 90.0}]
    state, _ = state_of(tmp_path, *rows)
    result = state.summary()
    assert (result["top1"], result["loss"], result["best_top1"], result["best_epoch"]) == (55.0, 0.7, 60.0, 1)
    assert result["train_seconds_per_epoch"] == 2.0  # not their mean, 31


def test_each_step_has_its_own_learning_rate(tmp_path, monkeypatch):
    seen = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD, "step", lambda self, *a: (seen.append([g["lr"] for g in self.param_groups]), step(self, *a))[1]
    )
    run(tmp_path, config=toy_config(epochs=2, schedule="cosine", warmup=0.5, lr=1.0))
    assert seen[:5] == [[0.0] * 2, [0.25] * 2, [0.5] * 2, [0.75] * 2, [1.0] * 2]
    assert len(seen) == 8


@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 0.3), ("adam", 0.03), ("adamw", 0.03), ("rmsprop", 0.003)])
def test_every_optimizer_trains(tmp_path, optimizer, lr):
    result = run(tmp_path, config=toy_config(epochs=5, optimizer=optimizer, lr=lr))
    assert float(rows(tmp_path)[-1]["train_loss"]) < float(rows(tmp_path)[0]["train_loss"])
    assert result["top1"] > 60


def test_bfloat16_trains_and_differs(tmp_path):
    losses = [
        run(tmp_path / precision, config=toy_config(epochs=1, precision=precision))["loss"]
        for precision in ("fp32", "bf16")
    ]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_training_loss_is_smoothed_and_validation_loss_is_not(tmp_path):
    for smoothing in (0.0, 0.6):  # a rate too small to move the weights: the losses are those of the same network
        run(tmp_path / str(smoothing), config=toy_config(epochs=1, lr=1e-12, label_smoothing=smoothing))
    plain, smoothed = rows(tmp_path / "0.0")[0], rows(tmp_path / "0.6")[0]
    assert float(plain["val_loss"]) == pytest.approx(float(smoothed["val_loss"]), rel=1e-6)
    assert abs(float(plain["train_loss"]) - float(smoothed["train_loss"])) > 1e-3


def test_skipped_images_are_counted_once(tmp_path):
    train, val = MemoryLoader(), val_loader()
    train.skipped, val.skipped = ["a.png", "b.png", "a.png"], ["c.png"]
    assert run(tmp_path, train=train, val=val, config=toy_config(epochs=2))["skipped_images"] == 3


@pytest.mark.parametrize("name", ["config.yaml", "last.pt"])
def test_a_folder_with_a_run_is_refused(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=f"^{re.escape(str(tmp_path))} already holds a run: give --resume .* --out$"):
        run(tmp_path)
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_folder_with_other_files_is_used(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    run(tmp_path, config=toy_config(epochs=1))
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_file_for_a_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(InputError, match=r"run is a file; --out must name a folder"):
        run(tmp_path / "run")
    with pytest.raises(InputError, match=r"^cannot make the folder .*below: Not a directory$"):
        run(tmp_path / "run" / "below")
    assert (tmp_path / "run").read_text() == "mine"


EMPTY = MemoryLoader(count=0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"train": EMPTY}, InputError, r"the training images do not fill one batch: lower batch_size \(8\)"),
        ({"val": EMPTY}, InputError, "the validation images do not fill one batch"),
        ({"config": toy_config(precision="fp16")}, InputError, "precision 'fp16' needs device 'cuda'"),
        ({"meta": {"path": object()}}, InputTypeError, r"meta\['path'\] must hold plain values"),
        ({"resume": True}, InputError, "holds no run to resume: leave --resume out"),
    ],
)
def test_nothing_is_written_before_the_checks_passed(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        run(tmp_path / "run", **options)
    assert os.listdir(tmp_path) == []


def test_a_training_set_of_which_nothing_comes(tmp_path):
    train = MemoryLoader()
    train.epoch = lambda epoch, start=0: iter([])
    with pytest.raises(InputError, match="epoch 1 brought none of 30 training images"):
        run(tmp_path, train=train)
    assert not (tmp_path / "last.pt").exists()
