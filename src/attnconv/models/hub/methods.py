"""The three methods by which networks come and go: `save_pretrained`, `from_pretrained`, `push_to_hub`.

They need `pip install 'attnconv[hub]'`; huggingface_hub and safetensors are imported when one is called.
"""

from pathlib import Path
from typing import Any, Self

from torch import nn

from attnconv import checks
from attnconv.models.hub.blueprint import Blueprint


class HubNetwork(nn.Module):
    """A network that `create_model` made: it knows how to be made again.

    Attributes:
        blueprint: the arguments of `create_model`; None of one that was built in another way, which cannot be saved.
        meta: facts of the images it was trained on, as `attnconv.data.prepare_image` takes them, or None.
        provenance: how it was trained (options, command, recipe, results), or None.
    """

    blueprint: Blueprint | None = None
    meta: dict[str, Any] | None = None
    provenance: dict[str, Any] | None = None

    @staticmethod
    def initialise(module: nn.Module) -> None:
        """Draw the weights of one convolution or linear layer, where this network does not draw them as torch does."""

    def save_pretrained(self, save_directory: str | Path, *, license: str | None = None) -> None:
        """Write config.json, model.safetensors and the card README.md into a folder, made if need be.

        Args:
            save_directory: the folder; a README.md there that this library did not generate is kept.
            license: of the weights, an identifier of the Hub's such as "mit" or "cc-by-4.0"; None: not stated.
        Raises:
            InputError: the network is not what its blueprint makes, or the folder cannot be written.
            MissingExtraError: huggingface_hub or safetensors is not installed.
        """
        _adapter().save(self, Path(save_directory), license=license)

    def push_to_hub(
        self,
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

        Of the other arguments huggingface_hub's `push_to_hub` says what they do.

        Args:
            repo_id: USER/NAME; made if it is not there.
            license: as `save_pretrained`'s.
            token: that of `hf auth login` or of HF_TOKEN if None.
        Raises:
            InputError: as `save_pretrained`; no token, no network, or the Hub refuses.
        """
        return _adapter().push(
            self,
            repo_id,
            license=license,
            private=private,
            token=token,
            branch=branch,
            create_pr=create_pr,
            commit_message=commit_message,
        )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> Self:
        """The network of a folder of `save_pretrained`, or of a repository on the Hub, in eval mode on the CPU.

        Nothing in the files is run, and files of pickle are not looked at. The arguments but the first are those of
        huggingface_hub's `from_pretrained`.

        Args:
            pretrained_model_name_or_path: a folder, or USER/NAME.
        Raises:
            InputError: there is none, it cannot be had, its files are damaged or do not fit each other, or it is
                another class of network than the one asked.
            MissingExtraError: huggingface_hub or safetensors is not installed.
        """
        model = _adapter().load(
            pretrained_model_name_or_path,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        if not isinstance(model, cls):
            raise checks.InputError(
                f"{pretrained_model_name_or_path} holds a {type(model).__name__}, not a {cls.__name__}; "
                "attnconv.models.from_pretrained takes any"
            )
        return model


def _adapter() -> Any:
    checks.require("huggingface_hub", extra="hub")
    checks.require("safetensors", extra="hub")
    from attnconv.models.hub import adapter

    return adapter
