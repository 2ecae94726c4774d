"""Make the pictures of docs/images again: ``python pictures/screenshots.py [NAME ...]``, in a checkout with Chromium.

Without names it makes all, in some minutes: the demo trains two networks.
"""

import argparse
import contextlib
import fcntl
import io
import os
import pty
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pyte
from markdown_it import MarkdownIt
from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import MONOKAI
from rich.text import Text

from attnconv.explain.far_pairs import far_pairs_figure
from attnconv.recipes import load_trained
from attnconv.report.page import svg_file

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
DESK, PHONE = (1280, 900), (390, 844)  # pixels
WIDE = 1158  # pixels of the picture at the top of README.md
COLUMNS, LINES = 80, 200  # of the terminal
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
Scheme = Literal["light", "dark"]

# The look of a README on a Git host.
README_STYLE = """
  body { max-width: 830px; margin: 32px auto; font: 16px/1.5 "Helvetica Neue", Arial, sans-serif; color: #1f2328; }
  h1, h2 { border-bottom: 1px solid #d1d9e0; padding-bottom: .3em; }
  code { font: 85% Menlo, Consolas, "DejaVu Sans Mono", monospace; background: #818b981f; padding: .2em .4em; }
  pre { background: #f6f8fa; padding: 16px; border-radius: 6px; overflow: auto; }
  pre code { background: none; padding: 0; }
  table { border-collapse: collapse; } td, th { border: 1px solid #d1d9e0; padding: 6px 13px; }
  img { max-width: 100%; } a { color: #0969da; text-decoration: none; }
"""


def attnconv(*arguments: str | Path) -> None:
    """Run a command line of this checkout."""
    subprocess.run([sys.executable, "-m", "attnconv", *map(str, arguments)], check=True, cwd=ROOT)


def keep(shot: Path, name: str) -> None:
    """Write a screenshot to docs/images with 256 colours, which makes it a third as large."""
    picture = Image.open(shot).convert("RGB")
    colours = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=1)
    picture.quantize(palette=colours, dither=Image.Dither.FLOYDSTEINBERG).save(IMAGES / name, optimize=True)


def shoot(
    browser: Browser, page: Path, name: str, size: tuple[int, int] = DESK, scheme: Scheme = "light", whole: bool = False
) -> None:
    """Take a screenshot of a page, of its first screen or the whole."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    tab = context.new_page()
    tab.goto(page.as_uri())
    tab.wait_for_timeout(500)  # milliseconds, in which pages fade in
    with tempfile.TemporaryDirectory() as folder:
        tab.screenshot(path=Path(folder) / "shot.png", full_page=whole)
        keep(Path(folder) / "shot.png", name)
    context.close()


def readme(browser: Browser, folder: Path) -> None:
    text = MarkdownIt().enable("table").render((ROOT / "README.md").read_text(encoding="utf-8"))
    page = folder / "readme.html"
    page.write_text(f'<meta charset="utf-8"><base href="{ROOT.as_uri()}/"><style>{README_STYLE}</style>{text}')
    shoot(browser, page, "readme.png")


def docs(browser: Browser, folder: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder / "site")]
    subprocess.run(command, check=True, cwd=ROOT)
    shoot(browser, folder / "site" / "index.html", "docs-home.png")
    shoot(browser, folder / "site" / "layers" / "augmented-conv.html", "docs-layer.png", scheme="dark")


def report(browser: Browser, folder: Path) -> None:
    study = folder / "why-attention"
    shutil.copytree(ROOT / "benchmarks" / "results" / "studies" / "why-attention", study)
    attnconv("study", "report", study)
    page = next(study.rglob("*.html"))
    shoot(browser, page, "report-light.png")
    shoot(browser, page, "report-dark.png", scheme="dark")
    shoot(browser, page, "report-phone.png", PHONE)


def demo(browser: Browser, folder: Path) -> None:
    attnconv("demo", "--out", folder / "demo")
    shoot(browser, folder / "demo" / "report.html", "demo.png")
    shoot(browser, folder / "demo" / "report.html", "demo-phone.png", PHONE, "dark")
    figure = far_pairs_figure(load_trained(folder / "demo" / "attention", checkpoint="last", device="cpu"))
    (IMAGES / "far-pairs.svg").write_text(svg_file(figure), encoding="utf-8")


def explain(browser: Browser, folder: Path) -> None:
    attnconv("explain", "--example", "--layer", "layer3.1.conv1", "--out", folder / "photo.png")
    with Image.open(folder / "photo.png") as picture:
        picture.resize((WIDE, round(picture.height * WIDE / picture.width))).save(folder / "photo.png")
    keep(folder / "photo.png", "attention.png")
    shot = folder / "web.png"
    subprocess.run([sys.executable, ROOT / "tests" / "explain" / "served.py", shot], check=True, cwd=ROOT)
    keep(shot, "explain-web.png")


def in_terminal(command: list[str], folder: Path) -> Text:
    """Return what is on a terminal of 80 columns after a command, colours included."""
    main, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color", "ATTNCONV_DATA": str(folder)}
    process = subprocess.Popen(command, stdout=end, stderr=end, stdin=end, cwd=folder, env=environment)
    os.close(end)
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    with open(main, "rb", buffering=0) as written, contextlib.suppress(OSError):  # raised when the command ends
        while piece := written.read(65536):
            stream.feed(piece)
    process.wait()
    shown = Text()
    for line in range(screen.cursor.y + 1):
        for column in range(COLUMNS):
            cell = screen.buffer[line][column]
            colour = None if cell.fg == "default" else cell.fg.replace("brown", "yellow")
            shown.append(
                cell.data, Style(color=colour if colour is None or colour.isalpha() else f"#{colour}", bold=cell.bold)
            )
        shown.append("\n")
    return shown


def terminal(browser: Browser, folder: Path) -> None:
    train = ["train", "--model", "aa_convnet3", "--data", "digits", "--epochs", "3", "--out", "runs/digits"]
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    for arguments in (["models", "aa_*"], train, ["evaluate", "runs/digits"], ["runs"]):
        console.print(f"[bold green]$[/] attnconv {shlex.join(arguments)}", highlight=False)
        console.print(in_terminal([sys.executable, "-m", "attnconv", *arguments], folder))
    page = folder / "terminal.html"
    page.write_text(console.export_html(theme=MONOKAI, inline_styles=True), encoding="utf-8")
    shoot(browser, page, "terminal.png", (800, 500), whole=True)


SHOTS: dict[str, Callable[[Browser, Path], Any]] = {
    shot.__name__: shot for shot in (explain, readme, docs, report, demo, terminal)
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the pictures of docs/images again.")
    parser.add_argument("name", nargs="*", choices=[*SHOTS, []], help=f"default: all of {', '.join(SHOTS)}")
    chosen = parser.parse_args().name or SHOTS
    path = next(found for name in BROWSERS if (found := shutil.which(name)))
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for name in chosen:
            print(name, flush=True)
            SHOTS[name](browser, Path(folder))
        browser.close()


if __name__ == "__main__":
    main()
