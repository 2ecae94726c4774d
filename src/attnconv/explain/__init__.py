"""Attention maps of one image, figures of them, and a page to click on."""

from attnconv.explain.attention import (
    AttentionMap,
    ImageAttention,
    attention_layers,
    attention_maps,
    attention_maps_of,
    choose_maps,
)
from attnconv.explain.figure import Row, attention_figure, row_title, rows_figure
from attnconv.explain.preprocessed_image import SeenImage, grid_points, see_image

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
