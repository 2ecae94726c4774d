"""Draw the diagrams of the three layers, for light and dark pages: ``python pictures/diagrams.py``.

Each drawing is narrow and flows downwards, so that it can be read on a phone. Its colours follow the page.
"""

# ruff: noqa: RUF001  (the drawings have mathematical signs)

import re
from html import escape
from pathlib import Path

IMAGES = Path(__file__).parents[1] / "docs" / "images" / "diagrams"
STYLE = """
  text { font: 15px "Helvetica Neue", Arial, sans-serif; text-anchor: middle; fill: #1f2933; }
  .math { font: italic 17px "STIX Two Text", Georgia, "Times New Roman", serif; }
  .code { font: 12px Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #52606d; }
  .small { font-size: 12.5px; fill: #52606d; }
  .box { fill: #fff; stroke: #7b8794; stroke-width: 1.5; }
  .conv { fill: #dbe7f6; stroke: #3b6fb6; }
  .attention { fill: #fde3cf; stroke: #c65a11; }
  .line { fill: none; stroke: #52606d; stroke-width: 1.5; }
  .head { fill: #52606d; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e8ebee; }
    .code, .small { fill: #b3bcc5; }
    .box { fill: #262b33; stroke: #8d98a5; }
    .conv { fill: #1f3a5f; stroke: #7fb0ee; }
    .attention { fill: #5a3215; stroke: #f0a468; }
    .line { stroke: #b3bcc5; }
    .head { fill: #b3bcc5; }
  }"""


def letters(text: str) -> str:
    """Return ``text`` with what follows ``_`` or ``^`` in braces lowered or raised."""
    shift = {"_": "sub", "^": "super"}
    return re.sub(
        r"([_^])\{(.*?)\}",
        lambda found: f'<tspan baseline-shift="{shift[found[1]]}" font-size="70%">{found[2]}</tspan>',
        escape(text),
    )


def text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text x="{x}" y="{y}" class="{kind}">{letters(words)}</text>'


def box(x: float, y: float, width: float, words: str, below: str = "", kind: str = "", math: bool = False) -> str:
    """Return a box 34 high, or 48 with a second line, whose top is at ``y`` and whose middle is at ``x``."""
    height = 48 if below else 34
    lines = [text(x, y + 22, words, "math" if math else "")]
    lines += [text(x, y + 40, below, "code")] if below else []
    drawn = f'<rect x="{x - width / 2}" y="{y}" width="{width}" height="{height}" rx="5" class="box {kind}"/>'
    return drawn + "".join(lines)


def arrow(*points: tuple[float, float]) -> str:
    """Return a line through ``points`` that ends in a head."""
    path = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline points="{path}" class="line" marker-end="url(#head)"/>'


def drawing(width: int, height: int, title: str, *parts: str) -> str:
    head = '<path d="M0,0 L8,4 L0,8 z" class="head"/>'
    marker = f'<marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">{head}</marker>'
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">', f"<title>{escape(title)}</title>"]
    return "\n".join([*lines, f"<style>{STYLE}\n</style>", f"<defs>{marker}</defs>", *parts, "</svg>", ""])


def augmented_conv() -> str:
    return drawing(
        480,
        476,
        "AugmentedConv2d: a convolution and attention read the same map; their channels are concatenated",
        box(240, 8, 220, "x (B, F_{in}, H_{in}, W_{in})", math=True),
        arrow((200, 42), (100, 84)),
        arrow((280, 42), (345, 84)),
        box(100, 84, 150, "convolution", "conv_out", "conv"),
        box(345, 84, 150, "1×1 convolution", "qkv_conv", "attention"),
        arrow((300, 132), (265, 164)),
        arrow((345, 132), (345, 164)),
        arrow((390, 132), (425, 164)),
        box(265, 164, 60, "q", math=True),
        box(345, 164, 60, "k", math=True),
        box(425, 164, 60, "v", math=True),
        text(345, 218, "N heads, each D or E wide", "small"),
        arrow((265, 198), (265, 232)),
        arrow((425, 198), (425, 232)),
        box(345, 232, 250, "softmax( q·(k + r^{H} + r^{W}) / √D ) v", "key_rel_h, key_rel_w", "attention", math=True),
        arrow((345, 280), (345, 308)),
        box(345, 308, 150, "1×1 convolution", "attn_out", "attention"),
        arrow((100, 132), (100, 402)),
        arrow((345, 356), (345, 402)),
        text(222, 394, "concatenate channels", "small"),
        f'<rect x="40" y="404" width="260" height="34" class="box conv"/>{text(170, 426, "F_{out} − N·E", "math")}',
        f'<rect x="300" y="404" width="90" height="34" class="box attention"/>{text(345, 426, "N·E", "math")}',
        text(215, 464, "y (B, F_{out}, H, W)", "math"),
    )


def gated(title: str, height: int, *parts: str) -> str:
    """Return the drawing of a layer y = x + gamma * o; ``parts`` lead from x down to o, both at x = 250."""
    end = height - 128
    return drawing(
        480,
        height,
        title,
        box(250, 8, 180, "x (B, C, L)", math=True),
        *parts,
        box(250, end + 26, 150, "multiply by γ", "gamma, starts at 0", "attention"),
        arrow((250, end), (250, end + 26)),
        arrow((250, end + 74), (250, end + 92)),
        arrow((160, 25), (40, 25), (40, end + 109), (128, end + 109)),
        text(84, 18, "residual", "small"),
        box(250, end + 92, 240, "y = x + γ o (B, C, L)", math=True),
    )


def self_attention() -> str:
    return gated(
        "SelfAttention: f, g and h from 1×1 convolutions, softmax over positions, a gated residual",
        400,
        arrow((210, 42), (130, 72)),
        arrow((250, 42), (250, 72)),
        arrow((290, 42), (390, 72)),
        box(130, 72, 100, "f (D, L)", "query", "attention", math=True),
        box(250, 72, 100, "g (D, L)", "key", "attention", math=True),
        box(390, 72, 100, "h (C, L)", "value", "attention", math=True),
        arrow((130, 120), (165, 150)),
        arrow((250, 120), (215, 150)),
        box(190, 150, 210, "a_{ij} = softmax_{i}( f_{i} · g_{j} )", "weights (L, L)", "attention", math=True),
        arrow((190, 198), (220, 238)),
        arrow((390, 120), (390, 255), (352, 255)),
        box(250, 238, 204, "o_{j} = Σ_{i} a_{ij} h_{i}", "", "attention", math=True),
    )


def simple_self_attention() -> str:
    return gated(
        "SimpleSelfAttention: one weight W makes scores of x, which mix x, without a softmax",
        376,
        arrow((250, 42), (250, 72)),
        box(250, 72, 150, "W x (C, L)", "conv", "attention", math=True),
        arrow((250, 120), (250, 150)),
        arrow((325, 42), (430, 80), (430, 167), (372, 167)),
        box(250, 150, 240, "S = x^{T} W x (L, L)", "", "attention", math=True),
        arrow((250, 184), (250, 214)),
        arrow((430, 167), (430, 231), (352, 231)),
        box(250, 214, 200, "o = x S (C, L)", "", "attention", math=True),
    )


if __name__ == "__main__":
    for draw in (augmented_conv, self_attention, simple_self_attention):
        (IMAGES / f"{draw.__name__.replace('_', '-')}.svg").write_text(draw(), encoding="utf-8")
