"""attnconv export: a trained network as a program (ONNX, torch.export), checked before it is kept; or safetensors."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from attnconv import checks
from attnconv.cli.options import ImageSize
from attnconv.cli.output import print_json, say

SAVED = "safetensors"


def export(
    run: Path,
    /,
    *,
    format: str = "onnx",
    out: Path | None = None,
    image_size: ImageSize = None,
    checkpoint: Literal["best", "last"] = "best",
    json: bool = False,
) -> None:
    """Write a trained network for other programs; ONNX and torch.export files are checked against PyTorch.

    Parameters
    ----------
    run:
        Folder of a run or of `attnconv hub save`, or a checkpoint.
    format:
        onnx, torch (a program of torch.export, .pt2) or safetensors (a folder, as that of `attnconv hub save`).
    out:
        The file or folder; RUN/model.onnx, RUN/model.pt2 or RUN/saved if not given.
    image_size:
        Side that images are prepared to, pixels, or rows x columns such as 128x192; the run's own if not given.
    checkpoint:
        Which checkpoint of the folder.
    json:
        Print one JSON object.
    """
    from attnconv.export import FORMATS, SUFFIXES
    from attnconv.export.capture import described
    from attnconv.models import HubNetwork
    from attnconv.recipes import load_trained

    checks.one_of("format", format, (*FORMATS, SAVED))
    suffix = SUFFIXES.get(format, "")
    if suffix and out is not None and out.suffix != suffix:
        raise checks.InputError(f"--out must end in {suffix} for --format {format}, got {out}")
    trained = load_trained(run, checkpoint=checkpoint, device="cpu")
    trained.require_layers("export")
    model = trained.model
    out = out or (run if run.is_dir() else run.parent) / (f"model{suffix}" if suffix else "saved")
    report: dict[str, Any] = {"checkpoint": str(trained.checkpoint), "format": format, "file": str(out)}
    if format == SAVED:
        if out.resolve() == trained.checkpoint.parent.resolve():
            raise checks.InputError(
                f"{out} is the network itself, and would be overwritten; --out names another folder"
            )
        assert isinstance(model, HubNetwork)
        config = described(model, None, None, image_size)
        model.meta, model.provenance = config["meta"], config["provenance"]
        model.save_pretrained(out)
        lines = [f"{out}: config.json, model.safetensors, README.md"]
    else:
        written = FORMATS[format](model, out, image_size=image_size)
        report |= {
            "bytes": out.stat().st_size,
            "image_sizes": written.sizes.to_dict(),
            "notes": list(written.notes),
            "differences": [dataclasses.asdict(difference) for difference in written.differences],
        }
        size = f"{out}: {out.stat().st_size / 1e6:.2f} MB; any batch, {written.sizes}"
        lines = ["; ".join((size, *written.notes))]
        lines += [f"largest difference from PyTorch in {len(written.differences)} cases: {written.largest}"]
    if json:
        print_json(report)
        return
    for line in lines:
        say(line)
