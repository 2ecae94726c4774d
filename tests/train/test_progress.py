import io
import re

from train.toy import MemoryLoader, toy_config, toy_net, val_loader

from attnconv.train.evaluate import TrainSums
from attnconv.train.fit import fit
from attnconv.train.progress import Display


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(out, progress):
    train = MemoryLoader(count=120)
    fit(toy_net(), train, val_loader(), config=toy_config(epochs=2), out=out, meta={}, progress=progress)


LINE = r"epoch {}/2: train loss [\d.]+, top-1 [\d.]+%; val loss [\d.]+, top-1 [\d.]+%, top-5 100.00%; \d+ images/s"


def test_a_line_an_epoch_where_there_is_no_terminal(tmp_path, capfd):
    run(tmp_path, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(rf"{LINE.format(1)}\n{LINE.format(2)}\n", err)


def test_silence_on_request(tmp_path, capfd, monkeypatch):
    run(tmp_path, progress=False)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    run(tmp_path / "terminal", progress=False)
    assert terminal.getvalue() == ""


def terminal_of(monkeypatch):
    for name, value in (("TERM", "xterm"), ("COLUMNS", "160")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    return terminal


def plain(terminal):
    """What has been shown, without colours and bars."""
    return re.sub(r" +", " ", re.sub(r"\x1b\[[\d;?]*[a-zA-Z]|[━╸╺]", "", terminal.getvalue()))


def test_bars_on_a_terminal(tmp_path, monkeypatch):
    """Drawn at the end: all epochs, and the last batch of validation."""
    terminal = terminal_of(monkeypatch)
    run(tmp_path, progress=True)
    shown = plain(terminal)
    assert re.search(LINE.format(1), shown)
    assert shown.count("epoch 1/2: train loss ") == 1
    assert re.search(r"epochs 2/2 [\d:]+ *\r?\n *validation 3/3 [\d:]+", shown)


def test_the_bars_of_a_training_epoch(monkeypatch):
    terminal = terminal_of(monkeypatch)
    with Display(True, epochs=4, batches=10) as display:
        display.training(2, 4)  # as after a resume
        display.batch_done()
        display.sums_known(TrainSums(loss=3.0, hits=1, images=2, seconds=0.5))
        display.bars.refresh()
        assert re.search(r"epochs 2/4 .*\n *training 5/10 .* loss 1\.500 top-1 50\.0% 4 images/s", plain(terminal))
        assert display.bars.tasks[0].completed == 2.5
        display.validating(7)
        display.batch_done()
        display.bars.refresh()
        assert re.search(r"validation 1/7 [-\d:]+ *\r?\n?", plain(terminal))
        assert display.bars.tasks[0].completed == 2.5
        display.training(1, 0)  # back to a checkpoint
        display.bars.refresh()
        assert "training 0/10" in plain(terminal)
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
        assert re.search(r"epochs 0/3 0:00:50", rows)  # 25 batches
        assert re.search(r"training 5/10 0:00:10", rows)
