"""attnconv explain: what a position of an image attends to, as a picture or on a page."""

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attnconv import checks
from attnconv.cli.flags import load_network, named_factory
from attnconv.cli.terminal import print_json, say
from attnconv.shown import shown
from attnconv.train.config import Device

if TYPE_CHECKING:
    import gradio as gr

    from attnconv.explain import AttentionMap, Row
    from attnconv.explain.web_session import Look, WebImage, WebNetwork
    from attnconv.recipes import Trained

Point = tuple[int, int]

SUFFIXES = (".png", ".svg", ".pdf")
LAST_PORT = 65535


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
    example: bool = False,
    web: bool = False,
    compare: Path | None = None,
    host: str | None = None,
    port: int | None = None,
    checkpoint: Literal["best", "last"] = "best",
    model: str | None = None,
    device: Device = "auto",
    json: bool = False,
) -> None:
    """Draw what a position of an image attends to, in each attention layer and head of a trained network.

    The weights are computed for that position alone, so that memory stays linear in the number of positions. Those of
    augmented convolutions and of SelfAttention are shares, which sum to 1; those of SimpleSelfAttention are signed.

    Parameters
    ----------
    run:
        Folder of a run or of `attnconv hub save`, or a checkpoint.
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
    web:
        Serve a page instead, until Ctrl-C: drop an image, see the prediction, click on it, choose layer and head. IMAGE
        may be left out.
    compare:
        With --web: another one, given as RUN is, beside the first.
    host:
        With --web: where to listen; 127.0.0.1, which only this machine reaches, if not given.
    port:
        With --web: the first free one from 7860 on if not given.
    checkpoint:
        Which checkpoint of the folder.
    model:
        package.module:function, if the network is one that code of your own makes.
    device:
        Where to run.
    json:
        Print one JSON object, all weights in it.
    """
    drawn = {"--point": point, "--points": points, "--layer": layer, "--head": head, "--out": out, "--json": json}
    if web:
        _refuse(drawn, "--web opens a page on which one chooses what to see: leave out {}")
        if example == (run is not None):
            raise checks.InputError("explain --web needs a RUN, or --example and no RUN")
        if port is not None and checks.integer("--port", port, at_least=1) > LAST_PORT:
            raise checks.InputError(f"--port must be at most {LAST_PORT}, got {port}")
        runs = [run] if compare is None else [run, compare]
        if model is not None and compare is not None:
            named_factory(model)  # one of the two may have another network: the one that is made by it finds it
            model = None
        options: Any = {"checkpoint": checkpoint, "model": model, "device": device}
        serve_page(runs, image, host=host, port=port, **options)
        return
    _refuse({"--compare": compare, "--host": host, "--port": port}, "{} needs --web")
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

    trained = _trained(run, checkpoint=checkpoint, model=model, device=device)
    draw_picture(trained, image, path, point=given, many=points is not None, layer=layer, head=head, json=json)


def _trained(run: Path | None, *, device: str, **options: Any) -> "Trained":
    """Load the network of ``run``, the example if None, which has attention; options and errors as `load_network`."""
    from attnconv.recipes import load_example

    trained = load_example(device) if run is None else load_network(run, device=device, **options)
    trained.require_layers("explain")
    return trained


def _refuse(options: dict[str, Any], message: str) -> None:
    """One sentence about the first of ``options`` that is given."""
    for name, value in options.items():
        if value is not None and value is not False:
            raise checks.InputError(message.format(name))


def _point(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"\s*(-?\d{1,9})\s*,\s*(-?\d{1,9})\s*", text)
    if found is None:
        raise checks.InputError(f"--point must be Y,X, a row and a column in pixels such as 40,60; got {text!r}")
    return int(found[1]), int(found[2])


@dataclass(frozen=True, eq=False)
class Subject:
    """An image, the points asked about, and what was found there."""

    name: str
    label: str | None  # what is on it, where that is known
    look: "Look"
    points: list[Point]  # of what the network sees
    maps: list[list["AttentionMap"]]  # for each point

    @property
    def likely(self) -> str | None:
        """The prediction in words; None if the network names pixels."""
        likely = self.look.likely
        return None if likely is None else f"{likely[0][0]} {100 * likely[0][1]:.1f}%"


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
        many: about nine points instead, in the last layer if none is named.
        layer, head: these alone.
        json: print one JSON object.
    """
    from attnconv.data import decode_image
    from attnconv.explain.attention import without_map_text
    from attnconv.recipes import example_images

    options: dict[str, Any] = {"many": many, "layer": layer, "head": head}
    if image is None:  # both images, or the first for many points
        subjects = [
            _subject(trained, f"far-pairs, {one.label}", one.image, one.label, point or one.point, **options)
            for one in example_images()[: 1 if many else None]
        ]
    else:
        decoded = decode_image(image, trained.meta["channels"])
        subjects = [_subject(trained, str(image), decoded, None, point, **options)]
    _draw(path, subjects, trained, many=many)
    if json:
        images = [_record(subject) for subject in subjects]
        print_json({"checkpoint": str(trained.checkpoint), "picture": str(path), "images": images})
        return
    for subject in subjects:
        say(_sentence(subject))
        for found in subject.maps[0]:  # all points have the same inactive layers
            if found.inactive_text:
                say(f"- {found.layer} is {found.inactive_text}")
        if subject.look.attention.without_map:
            say(f"- {without_map_text(subject.look.attention.without_map)}")
    say(f"drawn in {path}")


def _subject(
    trained: "Trained",
    name: str,
    image: Any,
    label: str | None,
    point: Point | None,
    *,
    many: bool,
    layer: str | None,
    head: int | None,
) -> Subject:
    from attnconv.explain import choose_maps, grid_points, see_image
    from attnconv.explain.web_session import look_at

    seen = see_image(image, trained.meta)
    rows, columns = seen.view.size
    points = [(rows // 2, columns // 2) if point is None else seen.point(point)]
    if many:
        points = grid_points(seen.view.size)
    look = look_at(trained.model, trained.meta, trained.device, seen)
    maps = [look.attention.maps(point) for point in points]
    layer = maps[0][-1].layer if many and layer is None else layer
    return Subject(name, label, look, points, [choose_maps(found, layer=layer, head=head) for found in maps])


def _draw(path: Path, subjects: Sequence[Subject], trained: "Trained", *, many: bool) -> None:
    from attnconv.explain import rows_figure
    from attnconv.files import replacing

    first = subjects[0]
    title = shown(Path(first.name).name + (f": {first.likely}" if first.likely else ""))
    if first.label is not None:
        title = f"far-pairs: are the two glyphs the same? The example network: {trained.scores['top1']:.1f}% right"
    if many:
        drawn = first.maps[0][0]
        title += f"\n{drawn.layer}, {drawn.weights.shape[1]} x {drawn.weights.shape[2]}"
    figure = rows_figure([row for subject in subjects for row in _rows(subject, many=many)], title=title)
    with replacing(path) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a letter of a file's name that the font lacks
        figure.savefig(file, format=path.suffix[1:].lower(), dpi=150)


def _rows(subject: Subject, *, many: bool) -> "list[Row]":
    from attnconv.explain import Row, row_title

    found = []
    for point, maps in zip(subject.points, subject.maps, strict=True):
        first = None
        if many:
            first = "row {}, column {}".format(*subject.look.seen.view.unseen(point))
        elif subject.label is not None:
            first = f"{subject.label}; network: {shown(subject.likely)}"
        found += [Row(subject.look.seen.pixels, point, one, row_title(one, first)) for one in maps]
    return found


def _sentence(subject: Subject) -> str:
    asked = f"{len(subject.points)} points attend"
    if len(subject.points) == 1:
        asked = "row {}, column {} attends".format(*subject.look.seen.view.unseen(subject.points[0]))
    layers = ", ".join(dict.fromkeys(found.layer for maps in subject.maps for found in maps))
    return f"{subject.name}: {f'{subject.likely}; ' if subject.likely else ''}what {asked} to in {layers}"


def _record(subject: Subject) -> dict[str, Any]:
    """For --json; points are those of the file, cells those of the layer's map, weights to six digits."""
    seen, likely = subject.look.seen, subject.look.likely
    return {
        "image": subject.name,
        "size": list(seen.size),
        "network_size": list(seen.view.size),
        "prediction": likely and {"class": likely[0][0], "probability": likely[0][1]},
        **({"without_map": list(found)} if (found := subject.look.attention.without_map) else {}),
        "queries": [
            {
                "point": list(seen.view.unseen(point)),
                "network_point": list(point),
                "layers": [_layer_record(found) for found in maps],
            }
            for point, maps in zip(subject.points, subject.maps, strict=True)
        ],
    }


def _layer_record(found: "AttentionMap") -> dict[str, Any]:
    weights = [[[float(f"{w:.6g}") for w in row] for row in head] for head in found.weights.tolist()]
    return {
        "layer": found.layer,
        "cell": list(found.query),
        "map_size": list(found.weights.shape[1:]),
        "signed": found.signed,
        "gamma": found.gamma,
        "active": found.active,
        "logits_moved": found.logits_moved,
        "heads": [{"head": head, "weights": rows} for head, rows in zip(found.heads, weights, strict=True)],
    }


def serve_page(
    runs: Sequence[Path | None], image: Path | None, *, host: str | None, port: int | None, **options: Any
) -> None:
    """Print the page's address and serve it until Ctrl-C, which is how one ends it: no failure.

    Args:
        runs: of one network or of two; None for the example, whose images come with it.
        image: what a tab begins with.
        host, port: as web_server's.
        options: as `load_network`'s.
    """
    from attnconv.data.decode import read_bytes
    from attnconv.explain.web_page import web_page
    from attnconv.explain.web_server import HOST, web_server
    from attnconv.explain.web_session import WebImage, open_image
    from attnconv.signals import Terminated, termination_raised

    def make_page() -> "gr.Blocks":
        networks = [web_network(run, **options) for run in runs]
        images = example_images() if runs[0] is None else []
        if image is not None:
            images = [WebImage(str(image), read_bytes(image))]
            open_image(images[0], networks)  # a file that is no image is refused here, before there is a page
        return web_page(networks, images, first=images[0] if images else None)

    with termination_raised(), web_server(make_page, host=host or HOST, port=port) as (address, server):
        try:
            print(f"{address} (Ctrl-C ends it)", flush=True)
            server.run()
        except Terminated:
            raise
        except KeyboardInterrupt:
            print()  # below the terminal's ^C


def web_network(run: Path | None, *, device: str, **options: Any) -> "WebNetwork":
    """Return the network of ``run``, or the one that the package brings, as the page takes it."""
    from attnconv.explain.web_session import WebNetwork

    trained = _trained(run, device=device, **options)
    title = f"The example network, {trained.scores['top1']:.1f}% right" if run is None else str(run)
    return WebNetwork(title, trained.model, trained.meta, trained.device)


def example_images() -> "list[WebImage]":
    """Return its images, with the left glyph as the query."""
    import numpy as np

    from attnconv import recipes
    from attnconv.explain.web_session import WebImage

    found = []
    for one in recipes.example_images():
        file = io.BytesIO()
        one.image.save(file, "PNG")
        content = np.frombuffer(file.getvalue(), dtype=np.uint8)
        found.append(WebImage(f"far-pairs, {one.label}", content, one.point))
    return found
