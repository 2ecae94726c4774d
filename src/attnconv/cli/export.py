"""attnconv export and hub: write a trained network as a checked program or as a folder, or upload it to the Hub."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from cyclopts import App

from attnconv import checks
from attnconv.cli.flags import Checkpoint, ImageSize, load_network, require_run
from attnconv.cli.terminal import print_json, say, tell

SAVED_FILES = "config.json, model.safetensors, README.md"

hub = App(name="hub", help_format="markdown")


def export(
    run: Path,
    /,
    *,
    format: Literal["onnx", "torch", "safetensors"] = "onnx",
    out: Path | None = None,
    image_size: ImageSize = None,
    checkpoint: Checkpoint = "best",
    model: str | None = None,
    json: bool = False,
) -> None:
    """Write a trained network for other programs. ONNX and torch.export files are compared with PyTorch.

    Parameters
    ----------
    run:
        Folder of a run or of `attnconv hub save`, or a checkpoint.
    format:
        onnx, torch (a program of torch.export, .pt2) or safetensors (a folder in the form of `attnconv hub save`).
    out:
        File or folder to write; by default RUN/model.onnx, RUN/model.pt2 or RUN/saved.
    image_size:
        Side of prepared images in pixels, or rows x columns such as 128x192; by default the run's.
    checkpoint:
        Checkpoint of the folder.
    model:
        package.module:function of your own network.
    json:
        Print one JSON object.
    """
    require_run(run)
    from attnconv.export import FORMATS, SUFFIXES
    from attnconv.export.capture import described
    from attnconv.models import save_pretrained

    suffix = SUFFIXES.get(format, "")
    if suffix and out is not None and out.suffix != suffix:
        raise checks.InputError(f"--out must end in {suffix} for --format {format}, got {out}")
    trained = load_network(run, checkpoint=checkpoint, device="cpu", model=model, layers_for="export")
    network = trained.model
    out = out or (run if run.is_dir() else run.parent) / (f"model{suffix}" if suffix else "saved")
    report: dict[str, Any] = {"checkpoint": str(trained.checkpoint), "format": format, "file": str(out)}
    if not suffix:
        if out.resolve() == trained.checkpoint.parent.resolve():
            raise checks.InputError(
                f"{out} is the network itself, and would be overwritten; --out names another folder"
            )
        config = described(network, None, None, image_size)
        network.meta, network.provenance = config["meta"], config["provenance"]  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
        save_pretrained(network, out)
        lines = [f"{out}: {SAVED_FILES}"]
    else:
        written = FORMATS[format](network, out, image_size=image_size, tell=tell)
        report |= {
            "bytes": out.stat().st_size,
            "image_sizes": written.sizes.to_dict(),
            "notes": list(written.notes),
            "differences": [dataclasses.asdict(difference) for difference in written.differences],
        }
        lines = [f"{out}: {out.stat().st_size / 1e6:.2f} MB; any batch, {written.sizes}", *written.notes]
        lines += [f"largest difference from PyTorch in {len(written.differences)} cases: {written.largest}"]
    if json:
        print_json(report)
    else:
        for line in lines:
            say(line)


@hub.command
def save(
    run: Path,
    folder: Path,
    *,
    checkpoint: Checkpoint = "best",
    model: str | None = None,
    license: str | None = None,
) -> None:
    """Write config.json, model.safetensors and a card with scores, licence and the training command.

    `attnconv.models.from_pretrained`, predict and evaluate read the folder.

    Parameters
    ----------
    run:
        Folder of a run or of `attnconv hub save`, or a checkpoint.
    folder:
        Folder to write.
    checkpoint:
        Checkpoint of the run.
    model:
        package.module:function of your own network.
    license:
        Licence of the weights, as the Hub names it; by default none is stated.
    """
    require_run(run)
    from attnconv.models import save_pretrained

    trained = load_network(run, checkpoint=checkpoint, device="cpu", model=model, layers_for="hub")
    save_pretrained(trained.model, folder, license=license)
    say(f"{folder}: {SAVED_FILES}")


@hub.command
def push(
    run: Path,
    repo_id: str,
    *,
    checkpoint: Checkpoint = "best",
    model: str | None = None,
    license: str | None = None,
    private: bool = False,
    branch: str | None = None,
) -> None:
    """Upload the same files to the Hugging Face Hub, with the token of `hf auth login` or HF_TOKEN.

    Parameters
    ----------
    run:
        Folder of a run or of `attnconv hub save`, or a checkpoint.
    repo_id:
        USER/NAME of the repository, which is created if it does not exist.
    checkpoint:
        Checkpoint of the run.
    model:
        package.module:function of your own network.
    license:
        Licence of the weights, as the Hub names it; by default none is stated.
    private:
        Create the repository as a private one.
    branch:
        Branch of the repository; by default its main branch.
    """
    checks.require("huggingface_hub", extra="hub")  # before the network is read
    require_run(run)
    from attnconv.models import push_to_hub

    trained = load_network(run, checkpoint=checkpoint, device="cpu", model=model, layers_for="hub")
    say(push_to_hub(trained.model, repo_id, license=license, private=private or None, branch=branch))
