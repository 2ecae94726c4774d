"""attnconv explain: what a position of an image attends to, as a picture."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from attnconv import checks
from attnconv.cli.output import print_json
from attnconv.train.config import Device

if TYPE_CHECKING:
    from attnconv.explain import AttentionMap, Row, SeenImage
    from attnconv.recipes import Trained

SUFFIXES = (".png", ".svg", ".pdf")
Point = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Subject:
    """An image, the points asked about, and what was found there."""

    name: str
    seen: "SeenImage"
    label: str | None  # what is on it, where that is known
    likely: str | None  # what the network takes it for, None if it names pixels
    points: list[Point]  # of what the network sees
    maps: list[list["AttentionMap"]]  # for each point


def explain(
    run: Path | None = None,
    image: Path | None = None,
    /,
    *,
    point: str | None = None,
    points: Literal["grid"] | None = None,
    layer: str | None = None,
    head: int | None = None,
    out: Path | None = None,
    example: Annotated[bool, Parameter(negative=())] = False,
    checkpoint: Literal["best", "last"] = "best",
    device: Device = "auto",
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Draw what a position of an image attends to, in each attention layer and head of a trained network.

    The weights are computed for that position alone, so that memory stays linear in the number of positions. Those of
    augmented convolutions and of SelfAttention are shares, which sum to 1; those of SimpleSelfAttention are signed.

    Parameters
    ----------
    run:
        Folder of a run, a checkpoint, or a safetensors file of `attnconv export`.
    image:
        Image file.
    point:
        Y,X: row and column of the position, from 0, in pixels of the image file held upright; the middle of what the
        network sees if not given. The network sees the file resized and cropped: a point that is cut away is refused.
    points:
        grid: about nine positions over the image, one row each, in the last attention layer or in --layer.
    layer:
        This attention layer alone.
    head:
        This head alone, from 1.
    out:
        The picture, .png, .svg or .pdf; IMAGE-attention.png in the current folder if not given.
    example:
        A small trained network that is part of attnconv, and images of its own, instead of RUN and IMAGE.
    checkpoint:
        Which checkpoint of the folder.
    device:
        Where to run.
    json:
        Print one JSON object, all weights in it.
    """
    given = None if point is None else _point(point)
    if example == (run is not None) or (run is None) != (image is None):
        raise checks.InputError("explain needs a RUN and an IMAGE, or --example and neither of them")
    if given is not None and points is not None:
        raise checks.InputError("--point asks about one position and --points about many: leave one of them out")
    path = out or Path(f"{'example' if image is None else image.stem}-attention.png")
    if path.suffix.lower() not in SUFFIXES:
        raise checks.InputError(f"--out must end in {', '.join(SUFFIXES)}, got {path}")
    if image is not None and path.exists() and image.exists() and path.samefile(image):
        raise checks.InputError(f"--out must be another file than IMAGE, got {path} for both")

    from attnconv.recipes import load_trained
    from attnconv.recipes.example import load_example

    if run is None or image is None:
        trained = load_example(device)
        subjects = _examples(trained, given, many=points is not None)
    else:
        trained = load_trained(run, checkpoint=checkpoint, device=device)
        trained.require_layers("explain")
        subjects = [_subject(trained, image, given, many=points is not None)]
    subjects = [_chosen(subject, layer, head, last=points is not None) for subject in subjects]
    _draw(path, subjects, trained, many=points is not None)
    if json:
        print_json(
            {"checkpoint": str(trained.checkpoint), "picture": str(path), "images": [_record(s) for s in subjects]}
        )
        return
    for subject in subjects:
        print(_sentence(subject))
    print(f"drawn in {path}")


def _point(text: str) -> Point:
    found = re.fullmatch(r"\s*(-?\d{1,9})\s*,\s*(-?\d{1,9})\s*", text)
    if found is None:
        raise checks.InputError(f"--point must be Y,X, a row and a column in pixels such as 40,60; got {text!r}")
    return int(found[1]), int(found[2])


def _subject(trained: "Trained", file: Path, given: Point | None, *, many: bool) -> Subject:
    from attnconv.data import decode_image
    from attnconv.explain import see_image

    seen = see_image(decode_image(file, trained.meta["channels"]), trained.meta)
    return _looked_at(trained, str(file), seen, None, None if given is None else seen.point(given), many=many)


def _examples(trained: "Trained", given: Point | None, *, many: bool) -> list[Subject]:
    """Both images of the example, or the first for many points."""
    from attnconv.explain import see_image
    from attnconv.recipes.example import example_images

    found = []
    for shown in example_images()[: 1 if many else None]:
        seen = see_image(shown.image, trained.meta)
        at = seen.point(given or shown.point)
        found.append(_looked_at(trained, f"far-pairs, {shown.label}", seen, shown.label, at, many=many))
    return found


def _looked_at(
    trained: "Trained", name: str, seen: "SeenImage", label: str | None, at: Point | None, *, many: bool
) -> Subject:
    import torch

    from attnconv.explain import attention_maps_of, grid_points

    rows, columns = seen.view.size
    points = grid_points(seen.view.size) if many else [at or (rows // 2, columns // 2)]
    image = seen.prepared.to(trained.device)
    maps = attention_maps_of(trained.model, image, points)
    likely = None
    if not trained.meta.get("dense"):
        with torch.no_grad():
            chances = trained.model(image[None])[0].softmax(-1)
        best = int(chances.argmax())
        likely = f"{trained.meta['classes'][best]} {100 * float(chances[best]):.1f}%"
    return Subject(name, seen, label, likely, points, maps)


def _chosen(subject: Subject, layer: str | None, head: int | None, *, last: bool) -> Subject:
    """With the maps of ``layer`` and ``head`` alone; ``last``: of the last layer if none is named."""
    from dataclasses import replace

    from attnconv.explain import choose_maps

    layer = subject.maps[0][-1].layer if last and layer is None else layer
    return replace(subject, maps=[choose_maps(maps, layer=layer, head=head) for maps in subject.maps])


def _draw(path: Path, subjects: Sequence[Subject], trained: "Trained", *, many: bool) -> None:
    from attnconv.explain import rows_figure
    from attnconv.train.atomic import replacing

    rows = [row for subject in subjects for row in _rows(subject, many=many)]
    first = subjects[0]
    title = f"{Path(first.name).name}" + (f": {first.likely}" if first.likely else "")
    if first.label is not None:
        title = f"far-pairs: are the two glyphs the same? The example network: {trained.scores['top1']:.1f}% right"
    if many:
        shown = first.maps[0][0]
        title += f"\n{shown.layer}, {shown.weights.shape[1]} x {shown.weights.shape[2]}"
    figure = rows_figure(rows, title=title)
    with replacing(path) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a letter of a file's name that the font lacks
        figure.savefig(file, format=path.suffix[1:].lower(), dpi=150)


def _rows(subject: Subject, *, many: bool) -> "list[Row]":
    from attnconv.explain import Row, row_title

    found = []
    for point, maps in zip(subject.points, subject.maps, strict=True):
        for attention in maps:
            first = None
            if many:
                first = "row {}, column {}".format(*subject.seen.view.unseen(point))
            elif subject.label is not None:
                first = f"{subject.label}; network: {subject.likely}"
            found.append(Row(subject.seen.pixels, point, attention, row_title(attention, first)))
    return found


def _sentence(subject: Subject) -> str:
    likely = "" if subject.likely is None else f"{subject.likely}; "
    layers = ", ".join(dict.fromkeys(attention.layer for maps in subject.maps for attention in maps))
    if len(subject.points) > 1:
        return f"{subject.name}: {likely}what {len(subject.points)} points attend to in {layers}"
    row, column = subject.seen.view.unseen(subject.points[0])
    return f"{subject.name}: {likely}what row {row}, column {column} attends to in {layers}"


def _record(subject: Subject) -> dict[str, Any]:
    """For --json; points are those of the file, cells those of the layer's map, weights to six digits."""
    return {
        "image": subject.name,
        "size": list(subject.seen.size),
        "network_size": list(subject.seen.view.size),
        "prediction": subject.likely,
        "queries": [
            {
                "point": list(subject.seen.view.unseen(point)),
                "network_point": list(point),
                "layers": [
                    {
                        "layer": found.layer,
                        "cell": list(found.query),
                        "map_size": list(found.weights.shape[1:]),
                        "signed": found.signed,
                        "gamma": found.gamma,
                        "heads": [
                            {"head": head, "weights": [[float(f"{w:.6g}") for w in row] for row in weights.tolist()]}
                            for head, weights in zip(found.heads, found.weights, strict=True)
                        ],
                    }
                    for found in maps
                ],
            }
            for point, maps in zip(subject.points, subject.maps, strict=True)
        ],
    }
