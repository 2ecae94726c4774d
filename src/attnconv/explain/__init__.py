"""What a network's attention looks at."""

from attnconv.explain.attention import (
    AttentionMap,
    ImageAttention,
    attention_layers,
    attention_maps,
    attention_maps_of,
    choose_maps,
)
from attnconv.explain.figure import Row, attention_figure, row_title, rows_figure
from attnconv.explain.seen import SeenImage, grid_points, see_image

__all__ = [
    "AttentionMap",
    "ImageAttention",
    "Row",
    "SeenImage",
    "attention_figure",
    "attention_layers",
    "attention_maps",
    "attention_maps_of",
    "choose_maps",
    "grid_points",
    "row_title",
    "rows_figure",
    "see_image",
]
