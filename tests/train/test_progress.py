import io
import re

import pytest
from train.toy import MemoryLoader, toy_config, toy_net, val_loader

from attnconv.train.evaluate import TrainSums
from attnconv.train.fit import fit
from attnconv.train.progress import Display


class Terminal(io.StringIO):
    def isatty(self):
        return True


META = {"classes": list("abcdef"), "image_size": [6, 8], "images": {"validation": {"count": 1234}}}


def run(out, progress, meta=META):
    train = MemoryLoader(count=120)
    fit(toy_net(), train, val_loader(), config=toy_config(epochs=2), out=out, meta=meta, progress=progress)


HEADER = r"""network  aa_convnet3, [\d,]+ parameters
data     digits, 6 classes
images   120 training, 1,234 validation, 6x8 pixels
steps    30, 15 per epoch
device   cpu, fp32, \d+ threads?
out      {}
"""
COLUMNS = "epoch         loss  top-1 %  val loss  val top-1 %  val top-5 %  images/s\n"
LINE = r"epoch {}/2 +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+ +100.00 +[\d,]+"


def test_a_header_and_a_line_an_epoch_where_there_is_no_terminal(tmp_path, capfd):
    run(tmp_path, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(rf"{HEADER.format(re.escape(str(tmp_path)))}{COLUMNS}{LINE.format(1)}\n{LINE.format(2)}\n", err)
    assert len({len(line) for line in err.splitlines()[6:]}) == 1  # numbers stand below their names
    assert max(map(len, err.splitlines()[6:])) <= 80


def test_an_interrupted_run_says_what_is_kept_and_the_header_counts_its_steps(tmp_path, capfd):
    train = MemoryLoader(count=120, faults={(1, 2): KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        fit(toy_net(), train, val_loader(), config=toy_config(epochs=2), out=tmp_path, meta={})
    assert capfd.readouterr().err.endswith("\nnote: saved after step 17; --resume goes on from there\n")
    fit(
        toy_net(),
        MemoryLoader(count=120),
        val_loader(),
        config=toy_config(epochs=2),
        out=tmp_path,
        meta={},
        resume=True,
    )
    assert "data     digits\nimages   120 training, 21 validation\n" in (err := capfd.readouterr().err)
    assert "\nsteps    30, 15 per epoch, 17 done\n" in err


@pytest.mark.parametrize(("classes", "shown"), [(5, False), (6, True)])
def test_top_5_is_shown_from_six_classes_on(tmp_path, capfd, classes, shown):
    run(tmp_path, progress=True, meta={"classes": list("abcdef")[:classes]})
    assert ("val top-5 %" in capfd.readouterr().err) == shown
    assert "val_top5" in (tmp_path / "metrics.csv").read_text()


ROW = {
    "epoch": 3,
    "train_loss": 0.5,
    "train_top1": 90.0,
    "val_loss": 0.25,
    "val_top1": 95.0,
    "val_top5": 100.0,
    "val_miou": 60.0,
    "images_per_second": 1234.5,
}


@pytest.mark.parametrize(
    ("width", "last"),
    [(160, "images/s"), (100, "images/s"), (80, "val top-5 %"), (70, "val IoU %"), (50, "val loss")],
)
def test_a_narrow_terminal_loses_columns_from_the_last_on(monkeypatch, width, last):
    terminal = terminal_of(monkeypatch, width)
    with Display(True, epochs=12, batches=10, top5=True) as display:
        display.epoch_done(ROW)
    lines = re.findall(r"epoch(?!s)[^\n]*", clean(terminal.getvalue()))
    assert lines[0].endswith(last)
    assert max(map(len, lines)) <= width
    assert len(lines[0]) == len(lines[1])


def test_silence_on_request(tmp_path, capfd, monkeypatch):
    run(tmp_path, progress=False)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    run(tmp_path / "terminal", progress=False)
    assert terminal.getvalue() == ""


def terminal_of(monkeypatch, width=160):
    for name, value in (("TERM", "xterm"), ("COLUMNS", str(width))):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    return terminal


def clean(text):
    """``text`` without colours and bars."""
    return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]|[━╸╺]|\r", "", text)


def plain(terminal):
    return re.sub(r" +", " ", clean(terminal.getvalue()))


def test_bars_on_a_terminal(tmp_path, monkeypatch):
    """Drawn at the end: all epochs, and the last batch of validation."""
    terminal = terminal_of(monkeypatch)
    run(tmp_path, progress=True)
    shown = plain(terminal)
    assert re.search(LINE.format(1), shown)
    assert shown.count("epoch 1/2") == 1
    assert re.search(r"epochs 2/2 [\d:]+ *\n *validation 3/3 [\d:]+", shown)


def test_the_bars_of_a_training_epoch(monkeypatch):
    terminal = terminal_of(monkeypatch)
    with Display(True, epochs=4, batches=10) as display:
        display.training(2, 4)  # as after a resume
        display.batch_done()
        display.sums_known(TrainSums(loss=3.0, hits=1, images=2, seconds=0.5), 0.0123)
        display.bars.refresh()
        numbers = r"loss 1\.500 top-1 50\.0% lr 0\.012 4 images/s"
        assert re.search(rf"epochs 2/4 .*\n *steps 5/10 .* {numbers}", plain(terminal))
        assert display.bars.tasks[0].completed == 2.5
        display.validating(7)
        display.batch_done()
        display.bars.refresh()
        assert re.search(r"validation 1/7 [-\d:]+ *\r?\n?", plain(terminal))
        assert display.bars.tasks[0].completed == 2.5
        display.training(1, 0)  # back to a checkpoint
        display.bars.refresh()
        assert "steps 0/10" in plain(terminal)
        assert display.bars.tasks[0].completed == 1


def test_time_left_is_shown_once_the_pace_is_known(monkeypatch):
    terminal, now = terminal_of(monkeypatch), [0.0]
    with Display(True, epochs=3, batches=10) as display:
        display.bars.get_time = lambda: now[0]
        for task in display.bars.tasks:
            task._get_time = display.bars.get_time
        display.training(0, 0)
        for _ in range(5):
            now[0] += 2.0
            display.batch_done()
        display.bars.refresh()
        rows = plain(terminal)
        assert re.search(r"epochs 0/3 00:50", rows)  # 25 batches
        assert re.search(r"steps 5/10 00:10", rows)
