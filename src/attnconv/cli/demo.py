"""attnconv demo: what attention adds, shown in a minute: a task that needs it, and a photo."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnconv import files
from attnconv.cli.terminal import print_table, say
from attnconv.train.config import Device, RunConfig

if TYPE_CHECKING:
    from attnconv.explain import Row

NETWORKS = {
    "plain": {"model": "convnet3"},
    "attention": {"model": "aa_convnet3", "model_options": {"augment": [3]}},
}
CHANCE = 50.0  # percent: two classes, equally many images


def demo(
    *,
    out: Path = Path("demo"),
    epochs: int = 5,
    seed: int = 0,
    device: Device = "auto",
) -> None:
    """Train a plain and an attending network on a task that needs far context, and write a page about both.

    Takes about a minute on two CPU cores. A second call finds the trained networks and only writes the page.

    Parameters
    ----------
    out:
        Folder of the two runs and of report.html.
    epochs:
        Passes over the 2,112 training images.
    seed:
        Of weights, order and augmentation; the same for both.
    device:
        Where to run.
    """
    from attnconv.explain.far_pairs import far_pairs_rows, far_pairs_text
    from attnconv.recipes import load_trained, run
    from attnconv.report.page import read_metrics, render, svg_file
    from attnconv.report.plots import Curves, curves_figure
    from attnconv.train.run_folder import RunFolder

    results: dict[str, dict[str, Any]] = {}
    for name, network in NETWORKS.items():
        options: Any = {"batch_size": 32, "optimizer": "adamw", "lr": 3e-3, "weight_decay": 0.01, "workers": 0}
        config = RunConfig(data="far-pairs", epochs=epochs, seed=seed, device=device, **network, **options)
        known = RunFolder(out / name).holds_run()
        say(f"{name}: {'found in' if known else 'training into'} {out / name}")
        results[name] = run(config, out / name, resume=known)
    rows = [
        (name, f"{one['top1']:.1f}", f"{one['params']:,}", f"{one['seconds']:.0f}") for name, one in results.items()
    ]
    header = ("network", "top-1 %", "parameters", "seconds")
    print_table(header, rows)
    verdict = (
        f"Asked if two glyphs far apart are the same, the network with attention is right on "
        f"{results['attention']['top1']:.1f} % of the validation images; its plain twin, which sees one window at a "
        f"time, is right on {results['plain']['top1']:.1f} %, and guessing gives {CHANCE:.0f} %."
    )
    curves = [
        Curves(name, [{int(row["epoch"]): row["val_top1"] for row in read_metrics(out / name)}], [None])
        for name in NETWORKS
    ]
    accuracy = curves_figure(curves, arms=list(NETWORKS), label="top-1 accuracy on validation (%)")
    accuracy.axes[0].axhline(CHANCE, color="#808890", linestyle=":", linewidth=1.2)
    accuracy.axes[0].set_ylim(40, 102)
    result = results["attention"]
    glyphs = far_pairs_rows(load_trained(out / "attention", checkpoint="last", device="cpu"))
    cells = glyphs[0].found.weights[0].numel()
    photo, caption = photo_row()
    text = render(
        "demo.html",
        title="A task that needs attention",
        verdict=verdict,
        header=header,
        rows=rows,
        curves=svg_file(accuracy),
        glyphs=[pictures(row) for row in glyphs],
        compared=far_pairs_text(glyphs),
        uniform=f"{1 / cells:.2g}",
        cells=cells,
        photo=pictures(photo),
        caption=caption,
        footer=f"attnconv {result['attnconv']}, torch {result['torch']}, on {result['device']}, seed {result['seed']}.",
    )
    files.write(out / "report.html", text)
    say(verdict)
    say(f"Curves, and what a point of a photo attends to: {out / 'report.html'}")


def pictures(row: "Row") -> dict[str, Any]:
    """Return the titles of a row and of its heads, and its panels as a page takes them."""
    from attnconv.explain.figure import data_uri, heads_title, panels

    drawn = panels(row.image, row.found, row.point, photo_point=row.photo_point)
    shown = [{"title": one.title, "picture": data_uri(one.pixels), "small": one.is_head} for one in drawn]
    return {"title": row.title, "heads": heads_title(row.found), "panels": shown}


def photo_row() -> "tuple[Row, str]":
    """Return the attention of the packaged network on its photo, in its last layer, and a caption."""
    from attnconv.data import decode_image
    from attnconv.explain import Row, look_at, see_image
    from attnconv.explain.figure import row_title
    from attnconv.recipes import example_images, load_example

    trained, example = load_example("cpu"), example_images()[0]
    seen = see_image(decode_image(example.path, 3), trained.meta)
    look = look_at(trained.model, trained.meta, trained.device, seen)
    assert look.likely is not None
    name, chance = look.likely[0]
    found = look.maps(example.point)[-1]
    caption = (
        f"The packaged network, {trained.scores['top1']:.1f} % right on CIFAR-100, calls this a {name} "
        f"({100 * chance:.1f} %). The dot is the query, the frame the part that the network sees."
    )
    return Row(seen, seen.point(example.point), found, row_title(found), photo_point=example.point), caption
