"""huggingface_hub's PyTorchModelHubMixin around one of our networks.

The mixin remakes a network from the arguments of its class; ours are made by functions, by name. So it wraps a network
here rather than being a base of it, writes and reads through `folder`, and `import attnconv` needs no huggingface_hub.
"""

import os
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, PyTorchModelHubMixin, constants, get_session, get_token, hf_hub_download

from attnconv import checks, files
from attnconv.files import replacing
from attnconv.models.hub import folder
from attnconv.models.hub.card import MARK, card
from attnconv.models.hub.errors import explained
from attnconv.models.hub.methods import HubNetwork
from attnconv.models.hub.remake import current
from attnconv.models.hub.said import require_provenance

SECONDS = 10  # to wait for the Hub's first answer


class Wrapped(PyTorchModelHubMixin, library_name="attnconv"):
    """A network on its way to the Hub or from it."""

    def __init__(self, network: HubNetwork, license: str | None, repo_id: str | None = None) -> None:
        self.network, self.license, self.repo_id = network, license, repo_id

    def _save_pretrained(self, save_directory: Path) -> None:
        folder.write(self.network, save_directory)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        blueprint = current(self.network)
        require_provenance(self.network.provenance, source=f"this {blueprint.name}")
        return ModelCard(card(self.network, blueprint, license=self.license, repo_id=self.repo_id))

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **_: Any,
    ) -> "Wrapped":
        config, weights = (
            Path(
                hf_hub_download(
                    model_id,
                    name,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                )
            )
            for name in (folder.CONFIG, folder.WEIGHTS)
        )
        return cls(folder.read(config, weights), license="")


def save(network: HubNetwork, path: Path, *, license: str | None) -> None:
    """`HubNetwork.save_pretrained`, without the mixin's own, which begins with removing config.json."""
    text = str(Wrapped(network, license).generate_model_card())  # what is refused, before anything is written
    try:
        path.mkdir(parents=True, exist_ok=True)
        folder.write(network, path)
        readme = path / "README.md"
        if not readme.exists() or MARK.encode() in files.read_bytes(readme, at_most=files.TEXT):
            with replacing(readme) as file:
                file.write(text.encode())
    except OSError as error:
        raise checks.InputError(f"cannot write a network to {path}: {error.strerror or error}") from error


def push(network: HubNetwork, repo_id: str, *, license: str | None, token: str | None, **settings: Any) -> str:
    """`HubNetwork.push_to_hub`."""
    Wrapped(network, license, repo_id).generate_model_card()  # what is refused, before anything is sent
    if not (token or get_token()):
        raise checks.InputError(
            f"cannot push to {repo_id}: the Hugging Face Hub needs a token; "
            "run `hf auth login`, set HF_TOKEN or give token="
        )
    with explained(f"push to {repo_id}"):
        return str(Wrapped(network, license, repo_id).push_to_hub(repo_id, token=token, **settings))


def load(name_or_path: str | Path, **settings: Any) -> HubNetwork:
    """The network of `HubNetwork.from_pretrained`."""
    path = Path(os.path.expanduser(name_or_path))
    if path.is_dir():
        return folder.read(path / folder.CONFIG, path / folder.WEIGHTS)
    name = str(name_or_path)
    if path.exists():
        raise checks.InputError(f"{path} is a file; from_pretrained takes the folder that save_pretrained wrote")
    if isinstance(name_or_path, Path) or name.startswith((".", "~", "/")) or name.count("/") > 1:
        raise checks.InputError(f"there is no folder {path}")
    with explained(f"get {name!r}, which is no folder here, from the Hugging Face Hub"):
        settings["local_files_only"] = settings["local_files_only"] or not _reachable()
        return Wrapped.from_pretrained(name, **settings).network


def _reachable() -> bool:
    """Whether the Hub answers anything: without a network, each file would be tried again for half a minute."""
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception:  # of the HTTP library, whichever it is; what was downloaded before can still be had
        return False
    return True
