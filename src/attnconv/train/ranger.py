"""Ranger: RAdam whose weights are drawn back, every few steps, towards slow ones that follow them.

Sources: Liu et al. 2019, arXiv:1908.03265 (RAdam, torch's own); Zhang et al. 2019, arXiv:1907.08610 (Lookahead); the
two together as fastai has them. timm's Lookahead is not used: its slow weights begin at the first look ahead and not
where training does, and the state of the optimiser that it wraps is hidden from torch's functions for sharded states.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import RAdam

EVERY = 6  # steps from one look ahead to the next
SHARE = 0.5  # of the way from the slow weights to the fast ones


class Ranger(RAdam):
    """RAdam with Lookahead over 6 steps, half of the way. Arguments: RAdam's.

    Memory: a copy of the weights more than RAdam. The slow weights are part of its state, so that a state dict holds
    all that it goes on from.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        parameters = [p for group in self.param_groups for p in group["params"]]
        starts = [(p, p.detach().clone()) for p in parameters if p not in self.state]
        loss = super().step(closure)
        for p, start in starts:
            if p in self.state:  # it has a gradient
                self.state[p]["slow"] = start
        for p in parameters:
            state = self.state.get(p)
            if state and int(state["step"]) % EVERY == 0:
                p.copy_(state["slow"].lerp_(p, SHARE))
        return loss
