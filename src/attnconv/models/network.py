"""Base classes of networks: one that is saved and shared, and a classifier with the methods that timm expects.

A classifier has features, mean pooling and a linear layer.

Letters: B batch, C channels of the last stage, H rows, W columns of its map.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnconv import checks
from attnconv.layers.attention import Attention, no_weight_decay
from attnconv.layers.attention_input import resized_table
from attnconv.models.blocks import ResidualBlock, Stage
from attnconv.models.registry import Blueprint
from attnconv.surgery import resize_feat_size


class HubNetwork(nn.Module):
    """A network that can be made again, saved and shared.

    Attributes:
        blueprint: the arguments of `create_model`; None if it was built in another way and cannot be saved.
        meta: facts about the images it was trained on, as `attnconv.data.prepare_image` takes them, or None.
        provenance: training options, command, recipe and results, or None.
    """

    blueprint: Blueprint | None = None
    meta: dict[str, Any] | None = None
    provenance: dict[str, Any] | None = None

    @staticmethod
    def initialise(module: nn.Module) -> None:
        """Initialise one convolution or linear layer; by default it stays as torch initialises it."""

    def save_pretrained(self, save_directory: str | Path, *, license: str | None = None) -> None:
        """Save the network in a folder; see `attnconv.models.save_pretrained`."""
        from attnconv.models import hub  # here: training does not need it

        hub.save_pretrained(self, save_directory, license=license)

    def push_to_hub(self, repo_id: str, **settings: Any) -> str:
        """Upload the network; arguments as in `attnconv.models.push_to_hub`."""
        from attnconv.models import hub

        return hub.push_to_hub(self, repo_id, **settings)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **settings: Any) -> Self:
        """Return a saved network; arguments as in `attnconv.models.from_pretrained`.

        Raises:
            InputError: as there, or the network is of another class.
        """
        from attnconv.models import hub

        model = hub.from_pretrained(pretrained_model_name_or_path, **settings)
        if not isinstance(model, cls):
            raise checks.InputError(
                f"{pretrained_model_name_or_path} holds a {type(model).__name__}, not a {cls.__name__}; "
                "attnconv.models.from_pretrained takes any"
            )
        return model


class Network(HubNetwork):
    """Base of classifiers, whose modules are registered in the order in which they run, with stages layer1, layer2, ...

    The classifier ``fc`` comes last. A checkpoint for another image size loads: its position tables are interpolated.

    Shapes: (B, in_channels, rows, columns) -> (B, num_classes), or (B, C) after ``reset_classifier(0)``.

    Attributes:
        feature_info: channels ("num_chs"), side of the image over side of the map ("reduction") and name of the module
            ("module") of each stage.
        drop_rate: dropout of the pooled features in training.
    """

    num_features: int  # C
    steps: list[str]  # the modules of `forward_features`, in order
    no_weight_decay = no_weight_decay

    def __init__(self) -> None:
        super().__init__()
        self.global_pool, self.drop_rate = "avg", 0.0
        self.register_load_state_dict_pre_hook(_fit_tables)

    def add_classifier(self, stages: Sequence[tuple[int, int]], num_classes: int) -> None:
        """Make ``fc`` at the end of a subclass's constructor; ``stages`` has the channels and the reduction of each."""
        self.feature_info = [
            {"num_chs": channels, "reduction": reduction, "module": name}
            for (channels, reduction), name in zip(stages, self.stage_names(), strict=True)
        ]
        self.num_features = self.head_hidden_size = stages[-1][0]
        self.steps = [name for name, _ in self.named_children()]
        self.reset_classifier(num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last map (B, C, H, W) of images (B, in_channels, rows, columns)."""
        for name, module in self.named_children():
            if name in self.steps:
                x = module(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits (B, num_classes) of a map (B, C, H, W), or the input of ``fc`` if ``pre_logits``."""
        if self.global_pool != "":
            x = x.mean((2, 3))
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the last map and a list of the maps of stages.

        Args:
            x: images.
            indices: stages, from 0; an integer n means the last n; None means all.
            norm: has no effect.
            stop_early: stop after the last of these stages, whose map is then the last map.
            output_fmt: "NCHW", the only choice.
            intermediates_only: return only the list.
        """
        checks.one_of("output_fmt", output_fmt, ("NCHW",))
        wanted = {self.stage_names()[i] for i in self._stages(indices)}
        found: dict[str, Tensor] = {}
        for name, module in self.named_children():
            if stop_early and found.keys() >= wanted:
                break
            if name in self.steps:
                x = module(x)
            if name in wanted:
                found[name] = x
        maps = list(found.values())
        return maps if intermediates_only else (x, maps)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what runs after the last of these stages; return the stages.

        Args:
            indices: as in `forward_intermediates`.
            prune_norm: has no effect.
            prune_head: remove the classifier even if no stage is removed.
        """
        taken = self._stages(indices)
        if not taken:
            raise checks.InputError("indices must name at least one stage, got none")
        last = self.feature_info[max(taken)]
        for name in (behind := self.steps[self.steps.index(last["module"]) + 1 :]):
            setattr(self, name, nn.Identity())
        self.num_features = self.head_hidden_size = last["num_chs"]
        if prune_head or behind:
            self.reset_classifier(0, "")
        return taken

    def _stages(self, indices: int | Sequence[int] | None) -> list[int]:
        count = len(self.feature_info)
        if indices is None or isinstance(indices, int):
            last = count if indices is None else checks.integer("indices", indices, at_least=1)
            indices = range(-last, 0)
        for i in indices:
            if not isinstance(i, int) or not -count <= i < count:
                raise checks.InputError(f"indices must be of the {count} stages of {type(self).__name__}, got {i}")
        return [i % count for i in indices]

    def stage_names(self) -> list[str]:
        """Return the names of the modules that give the features of each stage, in order."""
        return [name for name, _ in self.named_children() if name.startswith("layer")]

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace ``fc`` by one of ``num_classes`` outputs; 0 leaves pooled features, or a map if the pool is "".

        With ``global_pool`` None the pool stays, except that a classifier brings "avg" back.
        """
        checks.integer("num_classes", num_classes, at_least=0)
        if global_pool is None:
            global_pool = "avg" if num_classes else self.global_pool
        pool = checks.one_of("global_pool", global_pool, ("avg", ""))
        if not pool and num_classes:
            raise checks.InputError(f"global_pool='' leaves a map, for which num_classes must be 0, got {num_classes}")
        self.num_classes, self.global_pool = num_classes, pool
        like = next(self.parameters(), torch.empty(0))
        self.fc = nn.Identity()
        if num_classes:
            self.fc = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)
        self.fc.train(self.training)

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Resize the position tables for images of a side, or of rows and columns; see `surgery.resize_feat_size`.

        Resized tables are new parameters, so build the optimiser afterwards. Networks without tables take any size.
        """
        size = checks.rows_columns("img_size", img_size)
        if any(layer.largest_map is not None for layer in self.modules() if isinstance(layer, Attention)):
            resize_feat_size(self, size)

    def set_drop_path(self, rate: float) -> None:
        """Drop residual paths of single images in training: stochastic depth, arXiv:1603.09382.

        Args:
            rate: probability in the last block, growing linearly from 0 in the first.
        """
        if not 0 <= checks.number("drop_path_rate", rate) < 1:
            raise checks.InputError(f"drop_path_rate must be at least 0 and below 1, got {rate}")
        blocks = [module for module in self.modules() if isinstance(module, ResidualBlock)]
        if rate and not blocks:
            raise checks.InputError(f"{type(self).__name__} has no residual blocks, got drop_path_rate={rate}")
        for i, block in enumerate(blocks):
            block.drop_path_rate = rate * i / max(len(blocks) - 1, 1)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass, so that it keeps only its input.

        Results stay the same, except for the buffers of a compiled network with spectral norm.
        """
        stages = [module for module in self.modules() if isinstance(module, Stage)]
        if enable and not stages:
            raise checks.InputError(f"{type(self).__name__} has no blocks for gradient checkpointing")
        for stage in stages:
            stage.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return regular expressions that group parameters by depth, for layer-wise learning rates."""
        return {"stem": r"^(?:conv1|bn1|stem)\b", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}


def _fit_tables(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Interpolate the position tables of a state dict to the number of rows in the network."""
    for path, layer in model.named_modules(prefix=prefix.removesuffix(".")):
        if isinstance(layer, Attention) and layer.largest_map is not None:
            for name, table in layer.named_parameters(prefix=path, recurse=False):
                old = state.get(name)
                if not isinstance(old, Tensor) or old.shape[1:] != table.shape[1:] or not len(old) % 2:
                    continue  # not a position table; torch raises
                if len(old) != len(table):
                    state[name] = resized_table(old, len(table))
