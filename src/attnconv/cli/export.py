"""attnconv export: a trained network as a file that other programs run, checked before it is kept."""

import dataclasses
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from attnconv import checks
from attnconv.cli.output import amount, print_json, print_table, say

if TYPE_CHECKING:
    from torch import Tensor

    from attnconv.data import ImageData
    from attnconv.export import Written
    from attnconv.export.measure import Measured
    from attnconv.recipes import Trained

CALIBRATION_IMAGES = 256
CALIBRATION_BATCH = 16


def export(
    run: Path | None = None,
    /,
    *,
    format: str = "onnx",
    out: Path | None = None,
    image_size: int | None = None,
    int8: Annotated[tuple[Path, ...] | None, Parameter(consume_multiple=(0, 1), negative=())] = None,
    data_dir: Path | None = None,
    checkpoint: Literal["best", "last"] = "best",
    measure: Annotated[bool, Parameter(negative=None)] = True,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Write a trained network for other programs, and prove that it answers as PyTorch does.

    Parameters
    ----------
    run:
        Folder of a run or of `attnconv hub save`, a checkpoint, or a safetensors file of this command.
    format:
        onnx, torch (a program of torch.export, .pt2) or safetensors (the weights).
    out:
        The file; RUN/model.onnx, .int8.onnx, .pt2 or .safetensors if not given.
    image_size:
        Side that images are prepared to, pixels; the run's own if not given.
    int8:
        ONNX in 8 bits, its ranges from the images of a folder or the run's own training images; RUN comes before it.
    data_dir:
        Folder of the named data sets, for --int8.
    checkpoint:
        Which checkpoint of the folder.
    measure:
        Print time and memory of one image beside PyTorch's.
    json:
        Print one JSON object.
    """
    from attnconv.export import FORMATS, SUFFIXES
    from attnconv.recipes import load_trained
    from attnconv.recipes.trained import told

    if run is None:
        taken = f"; write it before --int8, which takes {int8[0]} for the folder of its images" if int8 else ""
        raise checks.InputError(f"export needs a RUN{taken}")
    checks.one_of("format", format, FORMATS)
    if int8 is not None and format != "onnx":
        raise checks.InputError(f"--int8 is for --format onnx, got {format!r}")
    suffix = SUFFIXES[format]
    if out is not None and out.suffix != suffix:
        raise checks.InputError(f"--out must end in {suffix} for --format {format}, got {out}")
    trained = load_trained(run, checkpoint=checkpoint, device="cpu")
    trained.require_layers("export")
    if out is None:
        folder = run if run.is_dir() else run.parent
        out = folder / f"model{'' if int8 is None else '.int8'}{suffix}"
    if out.resolve() == trained.checkpoint.resolve():  # the weights of a folder of `attnconv import` or `hub save`
        raise checks.InputError(f"{out} is the network itself, and would be overwritten; --out names another file")
    report: dict[str, Any] = {"checkpoint": str(trained.checkpoint), "format": format, "file": str(out)}
    with tempfile.TemporaryDirectory() as temporary:
        # In int8 the file in float32 is a step on the way, checked as any.
        plain = out if int8 is None else Path(temporary) / "float32.onnx"
        written = FORMATS[format](
            trained.model,
            plain,
            config=trained.config.to_dict(),
            meta=told(trained.meta),
            image_size=image_size,
            # What was measured holds for these weights on images of the run's size.
            scores=trained.scores if int8 is None and image_size is None else {},
        )
        losses = None
        if int8 is not None:
            losses = _quantise(trained, plain, out, folders=int8, data_dir=data_dir, image_size=image_size)
        measured = _measured(trained, out, Path(temporary), format, image_size) if measure else []
    report |= {
        "bytes": out.stat().st_size,
        "image_sizes": None if written.sizes is None else written.sizes.to_dict(),
        "notes": list(written.notes),
        "differences": [dataclasses.asdict(d) for d in written.differences],
        **({} if losses is None else {"accuracy": losses}),
        "measured": [dataclasses.asdict(m) for m in measured],
    }
    if json:
        print_json(report)
    else:
        _print(out, written, losses, measured)


def _quantise(
    trained: "Trained", plain: Path, out: Path, *, folders: tuple[Path, ...], data_dir: Path | None, image_size: Any
) -> dict[str, Any]:
    """Write ``out`` from ``plain``, and score both on the run's validation images."""
    from attnconv.export import load_onnx
    from attnconv.export.int8 import quantise_onnx
    from attnconv.recipes.images import images_for
    from attnconv.train.evaluate import evaluate

    data = images_for(
        trained,
        data_dir=data_dir,
        image_size=image_size,
        skip_bad_images=trained.config.skip_bad_images,
        or_else="export the run itself",
    )
    meta = {**trained.meta, "image_size": list(data.image_size)}
    quantise_onnx(plain, out, _images_of(folders[0], meta) if folders else _training_images(data))
    losses: dict[str, Any] = {}
    for name, file in (("float32", plain), ("int8", out)):
        loader = data.val_loader(batch_size=64, device=trained.device, workers=trained.config.workers)
        scores = evaluate(load_onnx(file).model, loader, progress=True)
        losses[name] = {k: v for k, v in dataclasses.asdict(scores).items() if v is not None}
    return losses


def _images_of(folder: Path, meta: dict[str, Any]) -> "Iterator[Tensor]":
    """The first CALIBRATION_IMAGES of a folder, one by one, (1, C, H, W); spread over it, for folders are sorted."""
    from attnconv.cli.predict import image_files
    from attnconv.data import decode_image, prepare_image

    files = image_files((folder,))
    for file in files[:: -(-len(files) // CALIBRATION_IMAGES)]:
        yield prepare_image(decode_image(file, meta["channels"]), meta)[None]


def _training_images(data: "ImageData") -> "Iterator[Tensor]":
    """CALIBRATION_IMAGES of the training images as validation would show them, always the same ones."""
    import torch

    numbers = torch.randperm(data.num_train, generator=torch.Generator().manual_seed(0))[:CALIBRATION_IMAGES]
    shown = dataclasses.replace(data, val=data.train.subset(numbers.sort().values))
    loader = shown.val_loader(batch_size=CALIBRATION_BATCH, device=torch.device("cpu"), workers=0)
    yield from (batch.images for batch in loader.epoch(0))


def _measured(trained: "Trained", out: Path, folder: Path, format: str, image_size: int | None) -> "list[Measured]":
    import torch

    from attnconv.export import export_weights, folded
    from attnconv.export.measure import measure

    weights = folder / "weights.safetensors"
    export_weights(trained.model, weights, config=trained.config.to_dict(), meta=trained.meta)
    size = trained.meta["image_size"] if image_size is None else [image_size, image_size]
    files = {"onnx": {"onnxruntime": out}, "torch": {"torch.export": out}, "safetensors": {}}[format]
    image = torch.zeros(1, trained.meta["channels"], *size)
    return measure(folded(trained.model), weights, files, image=image, tell=_tell)


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _print(out: Path, written: "Written", losses: dict[str, Any] | None, measured: "list[Measured]") -> None:
    size = f"{out.stat().st_size / 1e6:.2f} MB"
    takes = "" if written.sizes is None else f"; any batch, {written.sizes}"
    say(f"{out}: {size}{takes}" + "".join(f"; {note}" for note in written.notes))
    count = len(written.differences)
    before = "" if losses is None else ", before quantisation"
    print(f"largest difference from PyTorch in {count} cases{before}: {written.largest}")
    if losses is not None:
        names = {"top1": "top-1", "top5": "top-5", "miou": "mean IoU"}
        print_table(
            ("", *(names[k] for k in names if k in losses["float32"]), "loss"),
            [(name, *(f"{s[k]:.2f}%" for k in names if k in s), f"{s['loss']:.4f}") for name, s in losses.items()],
        )
        loss = losses["float32"]["top1"] - losses["int8"]["top1"]
        print(f"int8 costs {loss:.2f} points of top-1 on {losses['int8']['count']} validation images")
    if measured:
        _tell("")
        print_table(
            ("one image", "ms", "fastest", "slowest", "peak of a process"),
            [
                (m.name, m.why_not, "", "", "")
                if m.milliseconds is None
                else (m.name, *(f"{t:.2f}" for t in (m.milliseconds, m.fastest, m.slowest)), _memory(m.peak_bytes))
                for m in measured
            ],
        )


def _memory(count: int | None) -> str:
    return "unknown" if count is None else amount(count, "B")
