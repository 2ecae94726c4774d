"""The picture of `attnconv explain`, and what is printed with it."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnconv.cli.output import print_json, say
from attnconv.shown import shown

if TYPE_CHECKING:
    from attnconv.explain import AttentionMap, Row, SeenImage
    from attnconv.recipes import Trained

Point = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Subject:
    """An image, the points asked about, and what was found there."""

    name: str
    seen: "SeenImage"
    label: str | None  # what is on it, where that is known
    # What the network takes it for: a class and its probability; None if it names pixels.
    prediction: tuple[str, float] | None
    points: list[Point]  # of what the network sees
    maps: list[list["AttentionMap"]]  # for each point

    @property
    def likely(self) -> str | None:
        """The prediction in words."""
        return None if self.prediction is None else f"{self.prediction[0]} {100 * self.prediction[1]:.1f}%"


def draw_picture(
    trained: "Trained",
    image: Path | None,
    path: Path,
    *,
    point: Point | None,
    many: bool,
    layer: str | None,
    head: int | None,
    json: bool,
) -> None:
    """Draw ``path`` and print what is on it.

    Args:
        trained: the network.
        image: the file, or None for the example's own images.
        point: row and column of the query in it; the middle of what the network sees, or of a glyph, if None.
        many: about nine points instead.
        layer, head: these alone.
        json: print one JSON object.
    """
    if image is None:
        subjects = _examples(trained, point, many=many)
    else:
        subjects = [_subject(trained, image, point, many=many)]
    subjects = [_chosen(subject, layer, head, last=many) for subject in subjects]
    _draw(path, subjects, trained, many=many)
    if json:
        print_json(
            {"checkpoint": str(trained.checkpoint), "picture": str(path), "images": [_record(s) for s in subjects]}
        )
        return
    for subject in subjects:
        say(_sentence(subject))
        for text in _inactive(subject):
            say(f"- {text}")
    say(f"drawn in {path}")


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
    for example in example_images()[: 1 if many else None]:
        seen = see_image(example.image, trained.meta)
        at = seen.point(given or example.point)
        found.append(_looked_at(trained, f"far-pairs, {example.label}", seen, example.label, at, many=many))
    return found


def _looked_at(
    trained: "Trained", name: str, seen: "SeenImage", label: str | None, at: Point | None, *, many: bool
) -> Subject:
    from attnconv.data.image_data import topk
    from attnconv.explain import ImageAttention, grid_points

    rows, columns = seen.view.size
    points = grid_points(seen.view.size) if many else [at or (rows // 2, columns // 2)]
    attention = ImageAttention(trained.model, seen.prepared.to(trained.device))
    maps = [attention.maps(point) for point in points]
    dense = trained.meta.get("dense")
    prediction = None if dense else topk(attention.output[0], trained.meta["classes"], 1)[0]
    return Subject(name, seen, label, prediction, points, maps)


def _chosen(subject: Subject, layer: str | None, head: int | None, *, last: bool) -> Subject:
    """With the maps of ``layer`` and ``head`` alone; ``last``: of the last layer if none is named."""
    from attnconv.explain import choose_maps

    layer = subject.maps[0][-1].layer if last and layer is None else layer
    return replace(subject, maps=[choose_maps(maps, layer=layer, head=head) for maps in subject.maps])


def _draw(path: Path, subjects: Sequence[Subject], trained: "Trained", *, many: bool) -> None:
    from attnconv.explain import rows_figure
    from attnconv.files import replacing

    rows = [row for subject in subjects for row in _rows(subject, many=many)]
    first = subjects[0]
    title = shown(Path(first.name).name + (f": {first.likely}" if first.likely else ""))
    if first.label is not None:
        title = f"far-pairs: are the two glyphs the same? The example network: {trained.scores['top1']:.1f}% right"
    if many:
        drawn = first.maps[0][0]
        title += f"\n{drawn.layer}, {drawn.weights.shape[1]} x {drawn.weights.shape[2]}"
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
                first = f"{subject.label}; network: {shown(subject.likely)}"
            found.append(Row(subject.seen.pixels, point, attention, row_title(attention, first)))
    return found


def _sentence(subject: Subject) -> str:
    likely = "" if subject.likely is None else f"{subject.likely}; "
    layers = ", ".join(dict.fromkeys(attention.layer for maps in subject.maps for attention in maps))
    if len(subject.points) > 1:
        return f"{subject.name}: {likely}what {len(subject.points)} points attend to in {layers}"
    row, column = subject.seen.view.unseen(subject.points[0])
    return f"{subject.name}: {likely}what row {row}, column {column} attends to in {layers}"


def _inactive(subject: Subject) -> list[str]:
    """A line about each layer that does nothing for the image; all points have the same ones."""
    return [f"{found.layer} is {found.inactive_text}" for found in subject.maps[0] if found.inactive_text]


def _record(subject: Subject) -> dict[str, Any]:
    """For --json; points are those of the file, cells those of the layer's map, weights to six digits."""
    prediction = subject.prediction
    return {
        "image": subject.name,
        "size": list(subject.seen.size),
        "network_size": list(subject.seen.view.size),
        "prediction": prediction and {"class": prediction[0], "probability": prediction[1]},
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
                        "active": found.active,
                        "logits_moved": found.logits_moved,
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
