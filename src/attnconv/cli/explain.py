"""attnconv explain: what a position of an image attends to, as a picture or on a page."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from attnconv import checks
from attnconv.train.config import Device

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
    example: Annotated[bool, Parameter(negative=())] = False,
    web: Annotated[bool, Parameter(negative=())] = False,
    compare: Path | None = None,
    host: str | None = None,
    port: int | None = None,
    checkpoint: Literal["best", "last"] = "best",
    device: Device = "auto",
    trust: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
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
    device:
        Where to run.
    trust:
        As of `attnconv predict`; a .pt2 file has no layers left to explain, and is refused with it, too.
    json:
        Print one JSON object, all weights in it.
    """
    drawn: dict[str, Any] = {
        "--point": point,
        "--points": points,
        "--layer": layer,
        "--head": head,
        "--out": out,
        "--json": json,
    }
    served: dict[str, Any] = {"--compare": compare, "--host": host, "--port": port}
    if web:
        _refuse(drawn, "--web opens a page on which one chooses what to see: leave out {}")
        if example == (run is not None):
            raise checks.InputError("explain --web needs a RUN, or --example and no RUN")
        if port is not None and checks.integer("--port", port, at_least=1) > LAST_PORT:
            raise checks.InputError(f"--port must be at most {LAST_PORT}, got {port}")
        from attnconv.cli.explain_web import serve_page

        serve_page(run, image, compare=compare, host=host, port=port, checkpoint=checkpoint, device=device, trust=trust)
        return
    _refuse(served, "{} needs --web")
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

    from attnconv.cli.explain_picture import draw_picture
    from attnconv.recipes import load_trained
    from attnconv.recipes.example import load_example

    if run is None:
        trained = load_example(device)
    else:
        trained = load_trained(run, checkpoint=checkpoint, device=device, trust=trust)
    trained.require_layers("explain")
    draw_picture(trained, image, path, point=given, many=points is not None, layer=layer, head=head, json=json)


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
