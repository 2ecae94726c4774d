"""Contests held one after the other, their records written as each ends."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from attnconv.bench.contest import Contest, Settings
from attnconv.bench.machine import rates
from attnconv.bench.records import append, record
from attnconv.bench.timing import Clock, Tell, hold


def run(
    contests: Sequence[Contest],
    settings: Settings,
    origin: Mapping[str, Any],
    *,
    file: Path | None = None,
    clock: Clock | None = None,
    tell: Tell = lambda _: None,
) -> Iterator[list[dict[str, Any]]]:
    """Yield the records of each contest once they are in ``file``, a list a contest.

    ``tell`` hears what is going on.
    """
    for number, contest in enumerate(contests, start=1):
        title = f"{number}/{len(contests)} {contest.case} {contest.what}"
        tell(title)
        torch.manual_seed(settings.seed)
        entered = [c for c in contest.enter() if settings.takes_part(c.name)]
        outcomes = hold(entered, settings, clock=clock, tell=lambda text, title=title: tell(f"{title}: {text}"))
        fastest = rates(settings.device, settings.dtype)
        found = [
            record(contest, contestant, outcome, settings, fastest, origin)
            for contestant, outcome in zip(entered, outcomes, strict=True)
        ]
        del entered  # and with it the inputs, before the next ones are made
        if file is not None:
            append(file, found)
        yield found
