"""A study of seconds on digits, and an executor without processes."""

from attnconv.study.one_run import train
from attnconv.study.plan import Study

BASE = {"data": "digits", "epochs": 2, "train_subset": 64, "batch_size": 32, "device": "cpu"}
ARMS = {"plain": {"model": "convnet3"}, "augmented": {"model": "aa_convnet3", "model_options": {"augment": [3]}}}
TIMES = ("seconds", "train_seconds_per_epoch", "images_per_second")


def tiny(**more):
    settings = {"name": "tiny", "text": "?", "base": BASE, "arms": ARMS, "baseline": "plain", "seeds": (0,)}
    return Study(**{**settings, **more})


class Here:
    """The executor that does the runs in this process, one after the other."""

    threads = 1

    def __init__(self):
        self.names = []

    def execute(self, folder, runs, *, threads, memory_gb, ended, tick):
        for planned in runs:
            self.names.append(planned.name)
            folder.forget_note(planned, "failed")
            train(folder, planned, threads=threads)
            tick()
            ended(planned)


def without_times(value):
    """Records without what differs between two runs of the same thing."""
    if isinstance(value, dict):
        return {key: without_times(one) for key, one in value.items() if key not in TIMES}
    return [without_times(one) for one in value] if isinstance(value, list) else value
