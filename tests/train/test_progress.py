import io
import re

from train.toy import MemoryLoader, toy_config, toy_net, val_loader

from attnconv.train.fit import fit


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


def test_a_bar_on_a_terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    run(tmp_path, progress=True)
    shown = terminal.getvalue()
    assert "epoch 2/2 batch 15/15 loss " in shown
    assert "100%" in shown
    assert "epoch 1/2: train loss " in shown
