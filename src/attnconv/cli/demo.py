"""attnconv demo: a plain and an augmented network on real scanned digits, same seed and budget, side by side."""

from pathlib import Path
from typing import Any

from attnconv import files
from attnconv.cli.terminal import print_table, say
from attnconv.train.config import Device, RunConfig

NETWORKS = ("convnet3", "aa_convnet3")
IMAGE_SIZE = 16  # the scans are 8 x 8; enlarged, the augmented layers see maps of 8 x 8 and 4 x 4
DIGIT = 3  # whose picture shows what attention looks at


def demo(
    *,
    out: Path = Path("demo"),
    epochs: int = 15,
    seed: int = 0,
    device: Device = "auto",
) -> None:
    """Train a plain and an augmented network on digits, side by side, and write a page about it.

    Takes under two minutes on two CPU cores. A second call finds the trained networks and only writes the page.

    Parameters
    ----------
    out:
        Folder of the two runs and of report.html.
    epochs:
        Passes over the 1,437 training images.
    seed:
        Of weights, order and augmentation; the same for both.
    device:
        Where to run.
    """
    from attnconv.recipes import run
    from attnconv.report.page import read_metrics, render, svg_file
    from attnconv.report.plots import history_figure
    from attnconv.train.run_folder import RunFolder

    rows, result = [], {}
    for name in NETWORKS:
        config = RunConfig(
            model=name,
            data="digits",
            image_size=IMAGE_SIZE,
            epochs=epochs,
            seed=seed,
            device=device,
            batch_size=64,
            lr=0.05,
        )
        known = RunFolder(out / name).holds_run()
        say(f"{name}: {'found in' if known else 'training into'} {out / name}")
        result = run(config, out / name, resume=known)
        scores = f"{result['top1']:.2f}", f"{result['best_top1']:.2f}", f"{result['params']:,}"
        rows.append((name, *scores, f"{result['seconds']:.0f}", f"{result['train_seconds_per_epoch']:.2f}"))
    header = ("network", "top-1 %", "best epoch's %", "parameters", "seconds", "s per epoch")
    print_table(header, rows)
    figure, caption = attention_picture(out / "aa_convnet3")
    text = render(
        "demo.html",
        title="A plain and an augmented network on scanned digits",
        header=header,
        rows=rows,
        curves=svg_file(history_figure({name: read_metrics(out / name) for name in NETWORKS})),
        attention=svg_file(figure),
        caption=caption,
        footer=f"attnconv {result['attnconv']}, torch {result['torch']}, on {result['device']}, seed {result['seed']}.",
    )
    files.write(out / "report.html", text)
    say(f"Curves and what one position attends to: {out / 'report.html'}")


def attention_picture(run: Path) -> tuple[Any, str]:
    """The attention of the brightest pixel of a validation image, and a sentence that says what is shown."""
    import torch

    from attnconv.data import load_data
    from attnconv.explain import attention_figure, attention_maps
    from attnconv.recipes import load_trained

    trained = load_trained(run, device="cpu")
    data = load_data("digits", image_size=IMAGE_SIZE)
    _, loader = data.loaders(batch_size=1, seed=0, device=torch.device("cpu"), workers=0)
    image = next(images[0] for images, labels in loader.epoch(0) if labels.item() == DIGIT)  # (1, H, W), normalised
    pixels = image * torch.tensor(data.std)[:, None, None] + torch.tensor(data.mean)[:, None, None]
    brightest = int(pixels[0].argmax())
    point = (brightest // IMAGE_SIZE, brightest % IMAGE_SIZE)
    likely = data.classes[int(trained.model(image[None]).argmax())]
    figure = attention_figure(pixels, attention_maps(trained.model, image, point), point)
    where = "row {}, column {}".format(*point)
    return figure, f"A {DIGIT}, read as a {likely}. The query is its brightest pixel, {where}."
