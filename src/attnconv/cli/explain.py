"""attnconv explain: the attention of a position of an image, as a picture or on a page."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attnconv import checks
from attnconv.cli.flags import load_network, named_factory, require_run
from attnconv.cli.terminal import print_json, say
from attnconv.shown import shown
from attnconv.train.config import Device

if TYPE_CHECKING:
    from attnconv.explain import AttentionMap, Look
    from attnconv.explain.web_page import WebImage, WebNetwork, WebPage
    from attnconv.recipes import Trained

SUFFIXES = (".png", ".svg", ".pdf")
LAST_PORT = 65535


def explain(
    run: Path | None = None,
    image: Path | None = None,
    /,
    *,
    point: str | None = None,
    layer: str | None = None,
    head: int | None = None,
    grad_cam: bool = False,
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
    """Draw the attention of one position of an image over the image, for each attention layer of a trained network.

    Parameters
    ----------
    run:
        Folder of a run or of `attnconv hub save`, or a checkpoint.
    image:
        Image file.
    point:
        Y,X: row and column of the position, from 0, in pixels of the upright image file; default: its middle.
    layer:
        Draw this attention layer only.
    head:
        Draw this head only, from 1; default: the mean of all heads, and each of them, smaller.
    grad_cam:
        Add Grad-CAM of the predicted class; needs pip install 'attnconv[cam]'.
    out:
        The picture, .png, .svg or .pdf; default: IMAGE-attention.png in the current folder.
    example:
        Use the packaged network instead of RUN, and the packaged photo if no IMAGE is given.
    web:
        Serve a page until Ctrl-C, on which you drop an image, click on it and choose a layer. IMAGE is optional.
    compare:
        With --web: a second RUN, shown beside the first.
    host:
        With --web: address to listen on; default: 127.0.0.1, which only this machine reaches.
    port:
        With --web: default: the first free one from 7860 on.
    checkpoint:
        Which checkpoint of the folder.
    model:
        package.module:function that makes the network, if it is your own.
    device:
        Where to run.
    json:
        Print one JSON object with all weights.
    """
    _refuse({"--compare": compare, "--host": host, "--port": port} if not web else {}, "{} needs --web")
    drawn = {"--point": point, "--layer": layer, "--head": head, "--out": out, "--json": json}
    _refuse(drawn if web else {}, "--web serves an interactive page: leave out {}")
    run, image = _run_and_image(run, image, example=example, web=web)
    if port is not None and checks.integer("--port", port, at_least=1) > LAST_PORT:
        raise checks.InputError(f"--port must be at most {LAST_PORT}, got {port}")
    if model is not None and compare is not None:
        named_factory(model)  # the import registers it, and whichever of the two runs is of it finds it
        model = None
    options: dict[str, Any] = {"checkpoint": checkpoint, "model": model, "device": device}
    if web:
        runs = [run] if compare is None else [run, compare]
        serve_page(runs, image, grad_cam=grad_cam, host=host, port=port, **options)
        return
    at = None if point is None else _point(point)
    if out is not None and out.suffix.lower() not in SUFFIXES:
        raise checks.InputError(f"--out must end in {', '.join(SUFFIXES)}, got {out}")
    if out is not None and image is not None and out.exists() and image.exists() and out.samefile(image):
        raise checks.InputError(f"--out must be another file than IMAGE, got {out} for both")
    if run is not None:
        require_run(run)

    from attnconv.data import decode_image
    from attnconv.explain import attention_figure, choose_maps, look_at, see_image
    from attnconv.explain.attention import drawable, without_map_text
    from attnconv.files import replacing
    from attnconv.recipes import example_images

    trained = _trained(run, **options)
    if image is None:
        photo = example_images()[0]
        file, name, at = photo.path, photo.path.name, at or photo.point
    else:
        file, name = image, str(image)
    path = out or Path(f"{file.stem}-attention.png")
    seen = see_image(decode_image(file, trained.meta["channels"]), trained.meta)
    asked = seen.middle if at is None else at
    query = seen.point(asked)
    look = look_at(trained.model, trained.meta, trained.device, seen)
    maps = choose_maps(look.attention.maps(query), layer=layer, head=head)
    prediction = f"{look.likely[0][0]} {100 * look.likely[0][1]:.1f}%" if look.likely else ""
    title = "\n".join(filter(None, (shown(file.name + (f": {prediction}" if prediction else "")), seen.remark)))
    draws = not json or not all(found.is_coarse for found in maps)
    if draws:
        cams = {found.layer: look.grad_cam(found.layer) for found in drawable(maps) if grad_cam}
        figure = attention_figure(seen, maps, query, title=title, cams=cams, photo_point=asked)
        with replacing(path) as opened, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")  # a letter of a file's name that the font lacks
            figure.savefig(opened, format=path.suffix[1:].lower(), dpi="figure")
    if json:
        images = [{"image": name, **_record(look, asked, maps)}]
        picture = str(path) if draws else None
        print_json({"checkpoint": str(trained.checkpoint), "picture": picture, "images": images})
        return
    layers = ", ".join(found.layer for found in maps)
    say(
        "{}: {}attention of row {}, column {} in {}".format(
            name, f"{prediction}; " if prediction else "", *asked, layers
        )
    )
    if seen.remark:
        say(f"- {seen.remark}")
    for found in maps:
        if found.remark:
            say(f"- {found.layer} is {found.remark}")
    if look.attention.without_map:
        say(f"- {without_map_text(look.attention.without_map)}")
    say(f"drawn in {path}")


def _trained(run: Path | None, *, device: str, **options: Any) -> "Trained":
    """Load the network of ``run``, the example if None; options and errors as `load_network`."""
    from attnconv.recipes import load_example

    trained = load_example(device) if run is None else load_network(run, device=device, **options)
    trained.require_layers("explain")
    return trained


def _run_and_image(
    run: Path | None, image: Path | None, *, example: bool, web: bool
) -> tuple[Path | None, Path | None]:
    """Return RUN, None for the example, and IMAGE, None for the example's or a page's first.

    Args:
        run: the first word of the command line: an image behind --example.
        image: the second one.
    Raises:
        InputError: one is missing, or there is one too many.
    """
    if example and image is not None:
        raise checks.InputError(f"--example takes the packaged network: leave out the RUN, {run}")
    if example:
        return None, run
    if run is None:
        raise checks.InputError("explain needs a RUN and an IMAGE (optional with --web), or --example")
    if image is None:
        from attnconv.data.folder import SUFFIXES as IMAGES

        if str(run).lower().endswith(IMAGES):
            raise checks.InputError("explain needs a RUN before the image; --example takes the packaged network")
        if not web:
            raise checks.InputError(f"explain needs an IMAGE after the RUN {run}, or --web")
    return run, image


def _refuse(options: dict[str, Any], message: str) -> None:
    """Raise InputError about the first of ``options`` that is given."""
    for name, value in options.items():
        if value is not None and value is not False:
            raise checks.InputError(message.format(name))


def _point(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"\s*(-?\d{1,9})\s*,\s*(-?\d{1,9})\s*", text)
    if found is None:
        raise checks.InputError(f"--point must be Y,X, a row and a column in pixels such as 40,60; got {text!r}")
    return int(found[1]), int(found[2])


def _record(look: "Look", point: tuple[int, int], maps: "Sequence[AttentionMap]") -> dict[str, Any]:
    """Return plain values for --json; the point is that of the file, cells are those of the layer's map."""
    seen, without = look.seen, look.attention.without_map
    return {
        "size": list(seen.size),
        "network_size": list(seen.view.size),
        "prediction": look.likely and {"class": look.likely[0][0], "probability": look.likely[0][1]},
        **({"without_map": list(without)} if without else {}),
        "queries": [
            {
                "point": list(point),
                "network_point": list(seen.point(point)),
                "layers": [_layer_record(found) for found in maps],
            }
        ],
    }


def _layer_record(found: "AttentionMap") -> dict[str, Any]:
    """Return plain values; weights to six digits."""
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
    runs: Sequence[Path | None],
    image: Path | None,
    *,
    grad_cam: bool,
    host: str | None,
    port: int | None,
    **options: Any,
) -> None:
    """Print the page's address and serve it until Ctrl-C, which is no failure.

    Args:
        runs: of one network or of two; None for the example, whose photos come with it.
        image: shown first.
        host, port: as `web_server`.
        options: as `load_network`.
    """
    from attnconv.data.decode import read_bytes
    from attnconv.explain.web_page import WebImage, WebPage
    from attnconv.explain.web_server import HOST, web_server
    from attnconv.signals import Terminated, termination_raised

    def make_page() -> "WebPage":
        samples = [WebImage(str(image), read_bytes(image))] if image is not None else []
        if runs[0] is None:
            samples += example_photos()
        page = WebPage([web_network(run, **options) for run in runs], samples, grad_cam=grad_cam)
        if image is not None:
            page.open(samples[0])  # refuses a file that is no image before there is a page
        return page

    with termination_raised(), web_server(make_page, host=host or HOST, port=port) as (address, server):
        try:
            print(f"{address} (Ctrl-C ends it)", flush=True)
            server.run()
        except Terminated:
            raise
        except KeyboardInterrupt:
            print()  # below the terminal's ^C


def web_network(run: Path | None, *, device: str, **options: Any) -> "WebNetwork":
    """Return the network of ``run``, or the packaged one, for the page."""
    from attnconv.explain.web_page import WebNetwork

    trained = _trained(run, device=device, **options)
    title = f"The packaged network, {trained.scores['top1']:.1f}% right" if run is None else str(run)
    return WebNetwork(title, trained.model, trained.meta, trained.device)


def example_photos() -> "list[WebImage]":
    """Return the packaged photos for the page."""
    from attnconv.data.decode import read_bytes
    from attnconv.explain.web_page import WebImage
    from attnconv.recipes import example_images

    return [WebImage(one.path.name, read_bytes(one.path), one.point) for one in example_images()]
