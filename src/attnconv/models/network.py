"""The base of all networks, which are saved and shared, and that of classifiers with the methods that timm asks of one.

A classifier has features, mean pooling and a linear layer.

Letters: B batch, C channels of the last stage, H rows, W columns of its map.
"""

from collections.abc import Callable, Sequence
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


def save_pretrained(model: nn.Module, save_directory: str | Path, *, license: str | None = None) -> None:
    """Write config.json, model.safetensors and the card README.md into a folder, made if need be.

    Args:
        model: any network that `create_model` made, surgery by `attnconv.surgery` included.
        save_directory: the folder; a README.md there that this library did not generate is kept.
        license: of the weights, an identifier of the Hub's such as "mit" or "cc-by-4.0"; None: not stated.
    Raises:
        InputError: the network is not what its blueprint makes, or the folder cannot be written.
        MissingExtraError: safetensors is not installed.
    """
    from attnconv.models import hub  # when a network is saved: training needs none of it

    hub.save(model, Path(save_directory), license=license)


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    license: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    branch: str | None = None,
    create_pr: bool | None = None,
    commit_message: str = "Push a network of attnconv",
) -> str:
    """Upload what `save_pretrained` writes to the Hugging Face Hub: the address of the commit.

    Of the other arguments huggingface_hub's `create_repo` and `upload_folder` say what they do.

    Args:
        model: as `save_pretrained`'s.
        repo_id: USER/NAME; made if it is not there.
        license: as `save_pretrained`'s.
        token: that of `hf auth login` or of HF_TOKEN if None.
    Raises:
        InputError: as `save_pretrained`; no token, no network, or the Hub refuses.
        MissingExtraError: huggingface_hub or safetensors is not installed.
    """
    from attnconv.models import hub

    return hub.push(
        model,
        repo_id,
        license=license,
        token=token,
        private=private,
        revision=branch,
        create_pr=create_pr,
        commit_message=commit_message,
    )


def from_pretrained(
    pretrained_model_name_or_path: str | Path,
    *,
    model: Callable[..., nn.Module] | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> "HubNetwork":
    """The network of a folder of `save_pretrained`, or of a repository on the Hub, in eval mode on the CPU.

    Nothing in the files is run or imported, and files of pickle are not looked at. The arguments from revision on are
    those of huggingface_hub's `hf_hub_download`.

    Args:
        pretrained_model_name_or_path: a folder, or USER/NAME.
        model: of a network that code of somebody's own makes, that function.
    Raises:
        InputError: there is none, it cannot be had, or its files are damaged or do not fit each other.
        MissingExtraError: huggingface_hub or safetensors is not installed.
    """
    from attnconv.models import hub

    return hub.load(
        pretrained_model_name_or_path,
        model=model,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        force_download=force_download,
    )


class HubNetwork(nn.Module):
    """A network of this library: it knows how to be made again, saved and shared.

    Attributes:
        blueprint: the arguments of `create_model`; None of one that was built in another way, which cannot be saved.
        meta: facts of the images it was trained on, as `attnconv.data.prepare_image` takes them, or None.
        provenance: how it was trained (options, command, recipe, results), or None.
    """

    blueprint: Blueprint | None = None
    meta: dict[str, Any] | None = None
    provenance: dict[str, Any] | None = None

    save_pretrained = save_pretrained
    push_to_hub = push_to_hub

    @staticmethod
    def initialise(module: nn.Module) -> None:
        """Draw the weights of one convolution or linear layer, where this network does not draw them as torch does."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **settings: Any) -> Self:
        """The network of the function `from_pretrained`, whose arguments these are.

        Raises:
            InputError: as there, or it is another class of network than the one asked.
        """
        model = from_pretrained(pretrained_model_name_or_path, **settings)
        if not isinstance(model, cls):
            raise checks.InputError(
                f"{pretrained_model_name_or_path} holds a {type(model).__name__}, not a {cls.__name__}; "
                "attnconv.models.from_pretrained takes any"
            )
        return model


class Network(HubNetwork):
    """A subclass registers its modules in the order in which they run, stages named layer1, layer2, ... among them.

    The classifier ``fc`` is the last. A checkpoint made for another image size loads: its position tables are
    interpolated.

    Shapes: (B, in_channels, rows, columns) -> (B, num_classes), or (B, C) after ``reset_classifier(0)``.

    Attributes:
        feature_info: of each stage its channels ("num_chs"), the side of the image over that of its map ("reduction")
            and the name of the module that gives it ("module").
        drop_rate: dropout of the pooled features, in training.
    """

    num_features: int  # C
    steps: list[str]  # the modules that `forward_features` runs, in their order
    no_weight_decay = no_weight_decay

    def __init__(self) -> None:
        super().__init__()
        self.global_pool, self.drop_rate = "avg", 0.0
        self.register_load_state_dict_pre_hook(_fit_tables)

    def add_classifier(self, stages: Sequence[tuple[int, int]], num_classes: int) -> None:
        """Make ``fc``, the last step of a subclass's constructor; ``stages`` are channels and reduction of each."""
        self.feature_info = [
            {"num_chs": channels, "reduction": reduction, "module": name}
            for (channels, reduction), name in zip(stages, self.stage_names(), strict=True)
        ]
        self.num_features = self.head_hidden_size = stages[-1][0]
        self.steps = [name for name, _ in self.named_children()]
        self.reset_classifier(num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, rows, columns) -> (B, C, H, W)."""
        for name, module in self.named_children():
            if name in self.steps:
                x = module(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, C, H, W) -> (B, num_classes); what ``fc`` would take if ``pre_logits``."""
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
        """Return the last map and a list of stages' maps.

        Args:
            x: images.
            indices: of stages, from 0; an integer n: the last n; all if None.
            norm: no difference: a stage that ends with a norm always does.
            stop_early: run no further than the last of the stages; its map is then the last one.
            output_fmt: "NCHW", the only one.
            intermediates_only: return the list alone.
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
        """Take out what runs behind the last of the stages, ``indices`` as in `forward_intermediates`; return them.

        Args:
            indices: of stages.
            prune_norm: no difference: a stage that ends with a norm keeps it.
            prune_head: take the classifier out even if no stage goes.
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
        """Return the names of the modules whose outputs are the stages' features, in their order: layer1, ..."""
        return [name for name, _ in self.named_children() if name.startswith("layer")]

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Make a new ``fc`` of so many outputs; 0 leaves pooled features, or unpooled ones if the pool is "".

        The pool stays if it is None, but a classifier brings "avg" back.
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
        """Fit the position tables to images of that side, or of these rows and columns, as `surgery.resize_feat_size`.

        Resized tables are new parameters: build the optimiser afterwards. A network without tables takes any size.
        """
        rows, columns = checks.per_axis("img_size", img_size, 2, at_least=1)
        if any(layer.largest_map is not None for layer in self.modules() if isinstance(layer, Attention)):
            resize_feat_size(self, (rows, columns))

    def set_drop_path(self, rate: float) -> None:
        """Leave out residual paths in training, each image's by itself: stochastic depth, arXiv:1603.09382.

        Args:
            rate: probability in the last block; it grows linearly from 0 in the first one.
        """
        if not 0 <= checks.number("drop_path_rate", rate) < 1:
            raise checks.InputError(f"drop_path_rate must be at least 0 and below 1, got {rate}")
        blocks = [module for module in self.modules() if isinstance(module, ResidualBlock)]
        if rate and not blocks:
            raise checks.InputError(f"{type(self).__name__} has no residual blocks, got drop_path_rate={rate}")
        for i, block in enumerate(blocks):
            block.drop_path_rate = rate * i / max(len(blocks) - 1, 1)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Let the backward pass compute each block again, which then keeps its input alone.

        Numbers stay the same, but for the buffers of a compiled network with spectral norm.
        """
        stages = [module for module in self.modules() if isinstance(module, Stage)]
        if enable and not stages:
            raise checks.InputError(f"{type(self).__name__} has no gradient checkpointing: it has no blocks")
        for stage in stages:
            stage.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return regular expressions that sort parameters by depth, for learning rates that decay towards the input."""
        return {"stem": r"^(?:conv1|bn1|stem)\b", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}


def _fit_tables(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Interpolate the position tables in a state dict that have another number of rows than the network's."""
    for path, layer in model.named_modules(prefix=prefix.removesuffix(".")):
        if isinstance(layer, Attention) and layer.largest_map is not None:
            for name, table in layer.named_parameters(prefix=path, recurse=False):
                old = state.get(name)
                if not isinstance(old, Tensor) or old.shape[1:] != table.shape[1:] or not len(old) % 2:
                    continue  # no table of such a layer: torch refuses it
                if len(old) != len(table):
                    state[name] = resized_table(old, len(table))
