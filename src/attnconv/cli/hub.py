"""attnconv hub: a trained network as a folder that others can load, here or on the Hugging Face Hub."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cyclopts import App

from attnconv import checks
from attnconv.cli.output import say

if TYPE_CHECKING:
    from attnconv.models import HubNetwork

Checkpoint = Literal["best", "last"]

hub = App(name="hub", help_format="plaintext")


@hub.command
def save(run: Path, folder: Path, *, checkpoint: Checkpoint = "best", license: str | None = None) -> None:
    """Write config.json, model.safetensors and a card with scores, licence and the command that trained it.

    `attnconv.models.from_pretrained`, predict and evaluate take the folder.

    Parameters
    ----------
    run:
        Folder of a run or of `attnconv hub save`, or a checkpoint.
    folder:
        Where to; made if need be.
    checkpoint:
        Which checkpoint of the run.
    license:
        Of the weights, as the Hub names it; not stated if not given.
    """
    network = _network(run, checkpoint)
    network.save_pretrained(folder, license=license)
    say(f"{folder}: config.json, model.safetensors, README.md")


@hub.command
def push(
    run: Path,
    repo_id: str,
    *,
    checkpoint: Checkpoint = "best",
    license: str | None = None,
    private: bool = False,
    branch: str | None = None,
) -> None:
    """Upload the same to the Hugging Face Hub, with the token of `hf auth login` or HF_TOKEN.

    Parameters
    ----------
    run:
        Folder of a run or of `attnconv hub save`, or a checkpoint.
    repo_id:
        USER/NAME of the repository; made if it is not there.
    checkpoint:
        Which checkpoint of the run.
    license:
        Of the weights, as the Hub names it; not stated if not given.
    private:
        Make the repository private, if it is made.
    branch:
        Of the repository; its main one if not given.
    """
    checks.require("huggingface_hub", extra="hub")  # rather now than after the network is read
    network = _network(run, checkpoint)
    say(network.push_to_hub(repo_id, license=license, private=private or None, branch=branch))


def _network(run: Path, checkpoint: Checkpoint) -> "HubNetwork":
    from attnconv.models import HubNetwork
    from attnconv.recipes import load_trained

    trained = load_trained(run, checkpoint=checkpoint, device="cpu")
    trained.require_layers("hub")
    assert isinstance(trained.model, HubNetwork)
    return trained.model
