"""Attention maps of one image, figures of them, and a page to click on."""

from attnconv.explain.attention import AttentionMap, ImageAttention, attention_layers, attention_maps, choose_maps
from attnconv.explain.far_pairs import FarPair, far_pairs_figure, far_pairs_images
from attnconv.explain.figure import Row, attention_figure, rows_figure
from attnconv.explain.look import Look, grad_cam, look_at
from attnconv.explain.preprocessed_image import SeenImage, see_image

__all__ = [
    "AttentionMap",
    "FarPair",
    "ImageAttention",
    "Look",
    "Row",
    "SeenImage",
    "attention_figure",
    "attention_layers",
    "attention_maps",
    "choose_maps",
    "far_pairs_figure",
    "far_pairs_images",
    "grad_cam",
    "look_at",
    "rows_figure",
    "see_image",
]
