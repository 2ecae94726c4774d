"""A matplotlib figure as SVG text, the same for the same numbers."""

import hashlib
import io
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def svg_file(figure: "Figure") -> str:
    """What a file of its own holds."""
    import matplotlib as mpl

    text = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "attnconv"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def svg_element(text: str) -> str:
    """The element of a file alone, its ids unlike those of others, so that several can stand in one page."""
    text = text[text.index("<svg") :]
    mark = "f" + hashlib.sha256(text.encode()).hexdigest()[:8]
    text = re.sub(r'\bid="', f'id="{mark}-', text)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{mark}-", text)
