"""Pages from templates: HTML that loads nothing from anywhere, Markdown, LaTeX and plain text.

The templates are the files of templates/, in Jinja's language. Whatever a template is given is text: names from files
are shown as `attnconv.shown` shows them, and nothing in them can become markup. Filters of the templates:

- ``{{ text|line }}``: sentences, as one line
- ``{{ text|code }}``: a command or a file, line by line; in Markdown with its fence
- ``{{ text|span }}``: code within a line of Markdown
- ``{{ svg|inline }}``: the text of an SVG file, as an element of an HTML page
"""

import csv
import functools
import hashlib
import html
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnconv import checks, files
from attnconv.report.plots import COLOURS, DARK, SOFT
from attnconv.shown import code_span, fenced, shown, shown_html, shown_lines, shown_markdown

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.figure import Figure

TEMPLATES = Path(__file__).with_name("templates")
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}


def render(name: str, **values: Any) -> str:
    """Return the template of that name, filled in; its ending (html, md, tex, txt) says how text is escaped."""
    return _environment(name.rpartition(".")[2]).get_template(name).render(values)


@functools.cache
def _environment(kind: str) -> "Environment":
    checks.require("jinja2", extra="train")
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    escape = {"html": shown_html, "md": shown_markdown, "tex": shown_latex, "txt": str}[kind]
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=kind != "txt",
        finalize=lambda value: value if hasattr(value, "__html__") or kind == "txt" else Markup(escape(value)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "line": lambda text: Markup(_one_line(escape(" ".join(text.split())), kind)),
        "code": lambda text: Markup(fenced(text) if kind == "md" else html.escape(shown_lines(text))),
        "span": lambda text: Markup(code_span(text)),
        "inline": lambda svg: Markup(svg_element(svg)),
    }
    return environment


def _one_line(text: str, kind: str) -> str:
    """Return ``text``, which in Markdown begins neither an item nor a heading."""
    if kind != "md":
        return text
    return re.sub(r"^([-+#]+|\d+[.)])(?= |$)", lambda found: f"{found[0][:-1]}\\{found[0][-1]}", text)


def shown_latex(text: object) -> str:
    """Return ``shown`` as LaTeX within a line; the sign of a number is a minus, not a hyphen."""
    escaped = re.sub(r"[\\{}%$&#_~^±]", lambda found: LATEX.get(found[0], f"\\{found[0]}"), shown(text))
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", escaped)


def svg_file(figure: "Figure") -> str:
    """Return a matplotlib figure as the text of an SVG file, the same for the same numbers.

    On a dark screen its background, its text, its black lines and the colours of `attnconv.report.plots` change.
    """
    import matplotlib as mpl

    text = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "attnconv"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    drawn = text.getvalue()
    pairs = {"#000000": "#e6e8eb", SOFT: "#a2abb6", **dict(zip(COLOURS, DARK, strict=True))}
    rules = [
        '[id*="patch_"] > [style*="fill: #ffffff"] { fill: #16181c !important }',
        '[id*="text_"] { fill: #e6e8eb }',
    ]
    for light, dark in pairs.items():
        rules += [f'[style*="{part}: {light}"] {{ {part}: {dark} !important }}' for part in ("fill", "stroke")]
    style = f"<style>@media (prefers-color-scheme: dark) {{ {' '.join(rules)} }}</style>"
    return re.sub(r"(<svg[^>]*>)", lambda found: f"{found[0]}\n {style}", drawn, count=1)


def svg_element(text: str) -> str:
    """Return the element of an SVG file, its ids unlike those of others, so that several can stand in one page."""
    text = text[text.index("<svg") :]
    mark = "f" + hashlib.sha256(text.encode()).hexdigest()[:8]
    text = re.sub(r'\bid="', f'id="{mark}-', text)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{mark}-", text)


def read_metrics(run: Path) -> list[dict[str, float]]:
    """Return the rows of RUN/metrics.csv, one an epoch."""
    with checks.explained(f"cannot read {run / 'metrics.csv'}", OSError, ValueError, TypeError):
        lines = files.read_text(run / "metrics.csv", at_most=files.TABLE).splitlines()
        return [{name: float(value) for name, value in row.items() if value != ""} for row in csv.DictReader(lines)]


def short_commit(value: str) -> str:
    """Return each hash by its first nine digits; what stands beside them stays."""
    return re.sub(r"\b([0-9a-f]{9})[0-9a-f]+\b", r"\1", value)
