"""A study of seconds on digits, and an executor without processes."""

import contextlib
import functools
import io

import pytest
import torch

from attnconv.cli import main
from attnconv.study import process
from attnconv.study.plan import Study

BASE = {"data": "digits", "epochs": 2, "train_subset": 64, "batch_size": 32, "device": "cpu"}
ARMS = {"plain": {"model": "convnet3"}, "augmented": {"model": "aa_convnet3", "model_options": {"augment": [3]}}}
TIMES = ("seconds", "train_seconds_per_epoch", "images_per_second")


def tiny(**more):
    settings = {"name": "tiny", "text": "?", "base": BASE, "arms": ARMS, "baseline": "plain", "seeds": (0,)}
    return Study(**{**settings, **more})


class Here:
    """The executor that does the runs in this process, by the command line, one after the other."""

    def __init__(self):
        self.names = []

    def __call__(self, folder, runs, study):
        for planned in runs:
            self.names.append(planned.name)
            process.begin_run(folder, planned)
            out = folder.run(planned).path
            printed, threads = io.StringIO(), torch.get_num_threads()
            with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(printed):
                patch.setattr(process, "await_study", lambda out: functools.partial(process.note_facts, out))
                torch.set_num_threads(study.threads)
                code = main([*process.COMMAND[2:], str(out)])
                torch.set_num_threads(threads)
            if process.killed(code):
                raise KeyboardInterrupt
            process.note_end(folder, planned, code, printed.getvalue())
            yield planned


def without_times(value):
    """Records without what differs between two runs of the same thing."""
    if isinstance(value, dict):
        return {key: without_times(one) for key, one in value.items() if key not in TIMES}
    return [without_times(one) for one in value] if isinstance(value, list) else value
