"""The average that pooled attention takes before it runs, on a map of 1, 2 or 3 axes.

Source: Bello et al. 2019, arXiv:1904.09925, section 4.2: 3x3, stride 2.
Letters: B batch, C channels, D depth, H rows, W columns.
"""

from torch import Tensor
from torch.nn import functional as F


def halve(x: Tensor) -> Tensor:
    """Average over 3 cells an axis, stride 2, of the cells that exist: (B, C, H, W) -> (B, C, ceil(H/2), ceil(W/2))."""
    axes = x.dim() - 2
    if axes == 1:
        return F.avg_pool1d(x, 3, stride=2, padding=1, count_include_pad=False)
    if axes == 2:
        return F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
    # F.avg_pool3d refuses maps of under 3 cells. The mean over a box is the mean of the means along its axes.
    depth = x.shape[2]
    x = F.avg_pool2d(x.flatten(1, 2), 3, stride=2, padding=1, count_include_pad=False)
    x = x.unflatten(1, (-1, depth))  # (B, C, D, H', W')
    rows = F.avg_pool2d(x.flatten(3), (3, 1), stride=(2, 1), padding=(1, 0), count_include_pad=False)
    return rows.unflatten(3, x.shape[3:])
