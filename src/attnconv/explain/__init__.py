"""What a network's attention looks at."""

from attnconv.explain.attention import AttentionMap, attention_layers, attention_maps
from attnconv.explain.figure import attention_figure

__all__ = ["AttentionMap", "attention_figure", "attention_layers", "attention_maps"]
