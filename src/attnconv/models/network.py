"""The base of all networks, which are saved and shared, and that of classifiers with the methods that timm asks of one.

A classifier has features, mean pooling and a linear layer.

Letters: B batch, C channels of the last stage, H rows, W columns of its map.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnconv import checks
from attnconv.layers.attention import no_weight_decay
from attnconv.models.registry import Blueprint


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
    """A subclass has ``forward_features``, stages named layer1, layer2, ..., and the classifier ``fc``.

    Shapes: (B, in_channels, rows, columns) -> (B, num_classes), or (B, C) after ``reset_classifier(0)``.
    """

    fc: nn.Module
    num_features: int  # C
    drop_rate: float = 0.0  # of the pooled features, in training
    feature_info: list[dict[str, Any]]  # set by `attnconv.timm`
    no_weight_decay = no_weight_decay

    def __init__(self) -> None:
        super().__init__()
        self.global_pool = "avg"

    def add_classifier(self, num_features: int, num_classes: int) -> None:
        """Make ``fc``, the last step of a subclass's constructor."""
        self.num_features = self.head_hidden_size = num_features
        self.reset_classifier(num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, rows, columns) -> (B, C, H, W)."""
        raise NotImplementedError(f"{type(self).__name__} has to define forward_features")

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, C, H, W) -> (B, num_classes); what ``fc`` would take if ``pre_logits``."""
        if self.global_pool:
            x = x.mean((2, 3))
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def stage_names(self) -> list[str]:
        """Return the names of the modules whose outputs are the stages' features, in their order: layer1, ..."""
        return [name for name, _ in self.named_children() if name.startswith("layer")]

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Make a new ``fc`` of so many outputs; 0 leaves pooled features, or unpooled ones if the pool is ""."""
        checks.integer("num_classes", num_classes, at_least=0)
        pool = self.global_pool if global_pool is None else checks.one_of("global_pool", global_pool, ("avg", ""))
        if not pool and num_classes:
            raise checks.InputError(f"global_pool='' leaves a map, for which num_classes must be 0, got {num_classes}")
        self.num_classes, self.global_pool = num_classes, pool
        like = next(self.parameters(), torch.empty(0))
        self.fc = nn.Identity()
        if num_classes:
            self.fc = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return regular expressions that sort parameters by depth, for learning rates that decay towards the input."""
        return {"stem": r"^(?:conv1|bn1|stem)\b", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        if enable:
            raise checks.InputError(f"{type(self).__name__} has no gradient checkpointing")
