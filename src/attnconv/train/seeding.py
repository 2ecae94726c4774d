"""Random numbers of a step, from the seed, the step and the process alone: then no generator's state need be saved."""

import numpy as np
import torch


def reseed(seed: int, step: int, rank: int = 0) -> None:
    """Set torch's generators, of every device, to where ``step`` of a run with ``seed`` starts in process ``rank``."""
    # SeedSequence mixes: seed + step would give run 1 at step 0 the numbers of run 0 at step 1.
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0]))
