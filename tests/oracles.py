"""The mathematics again, as loops over positions in float64 NumPy: slow, and sharing no code with the library."""

import itertools

import numpy as np

PAD_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def array(x):
    return x.detach().double().cpu().numpy()


def relative_attention(q, k, v, rel, scale=None, mask=None):
    """q (B, N, *map, D), k (B, N, *key map, D), v (B, N, *key map, E), rel None or tables (2R - 1, D), mask None or
    bool (B, *key map) -> (B, N, *map, E)."""
    q, k, v = array(q), array(k), array(v)
    tables = [None if t is None else array(t) for t in rel] if rel is not None else []
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out = np.zeros((*q.shape[:-1], v.shape[-1]))
    for b, n in itertools.product(range(q.shape[0]), range(q.shape[1])):
        keys = [j for j in np.ndindex(k.shape[2:-1]) if mask is None or mask[(b, *j)]]
        for i in np.ndindex(q.shape[2:-1]) if keys else ():
            logits = []
            for j in keys:
                key = k[(b, n, *j)].copy()
                for axis, table in enumerate(tables):
                    if table is not None:
                        middle = (len(table) - 1) // 2
                        key += table[middle + j[axis] - i[axis]]
                logits.append(scale * q[(b, n, *i)] @ key)
            weights = np.exp(np.array(logits) - max(logits))
            weights /= weights.sum()
            out[(b, n, *i)] = sum(w * v[(b, n, *j)] for w, j in zip(weights, keys, strict=True))
    return out


def bilinear_attention(x, weight, gamma, symmetric=False, normalize=False):
    """x (B, C, *map), weight (C, C): y_i = gamma * sum_j x_j s(j, i) + x_i with s(j, i) = x_j . W x_i."""
    x, weight = array(x), array(weight).reshape(x.shape[1], x.shape[1])
    if symmetric:
        weight = 0.5 * (weight + weight.T)
    flat = x.reshape(*x.shape[:2], -1)
    out = flat.copy()
    count = flat.shape[2]
    for b, i, j in itertools.product(range(len(x)), range(count), range(count)):
        influence = flat[b, :, j] @ weight @ flat[b, :, i]
        out[b, :, i] += float(gamma) * influence * flat[b, :, j] / (count if normalize else 1)
    return out.reshape(x.shape)


def sagan(x, query, key, value, gamma):
    """x (B, C, *map); beta(i, j) = softmax over i of f_i . g_j; y_j = gamma * sum_i h_i beta(i, j) + x_j."""
    x = array(x)
    flat = x.reshape(*x.shape[:2], -1)
    out = flat.copy()
    for b in range(len(x)):
        f, g, h = (array(w)[:, :, 0] @ flat[b] for w in (query, key, value))
        for j in range(flat.shape[2]):
            logits = np.array([f[:, i] @ g[:, j] for i in range(flat.shape[2])])
            beta = np.exp(logits - logits.max())
            beta /= beta.sum()
            out[b, :, j] += float(gamma) * sum(beta[i] * h[:, i] for i in range(flat.shape[2]))
    return out.reshape(x.shape)


def sagan_layer(layer, x, mask=None):
    """A SelfAttention with any of its options: every pooled cell looks for its own cells, those of the mask alone."""
    x, pool = array(x), layer.pool

    def through(conv, cell):
        bias = 0 if conv.bias is None else array(conv.bias)
        return array(conv.weight)[:, :, 0] @ cell + bias

    out = x.copy()
    for b in range(len(x)):
        keys, values = [], []
        for pooled in np.ndindex(*(max(n // pool, 1) for n in x.shape[2:])):
            window = [range(p * pool, min((p + 1) * pool, n)) for p, n in zip(pooled, x.shape[2:], strict=True)]
            cells = [cell for cell in itertools.product(*window) if mask is None or mask[(b, *cell)]]
            if cells:
                here = [x[(b, slice(None), *cell)] for cell in cells]
                keys.append(np.max([through(layer.query, cell) for cell in here], axis=0))
                values.append(np.max([through(layer.value, cell) for cell in here], axis=0))
        for j in np.ndindex(x.shape[2:]):
            at = (b, slice(None), *j)
            o = np.zeros(len(layer.value.weight))
            if keys:
                beta = np.exp([key @ through(layer.key, x[at]) for key in keys])
                o = sum(share * value for share, value in zip(beta / beta.sum(), values, strict=True))
            out[at] += layer.gamma.item() * (o if layer.out is None else through(layer.out, o))
    return out


def convolution(x, weight, bias, stride, padding, dilation, groups, mode):
    """x (B, C, *map), weight (O, C / groups, *kernel), one (left, right) padding an axis."""
    x, weight = array(x), array(weight)
    x = np.pad(x, [(0, 0), (0, 0), *padding], PAD_MODES[mode])
    kernel = weight.shape[2:]
    sizes = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(x.shape[2:], kernel, stride, dilation, strict=True)]
    out = np.zeros((len(x), len(weight), *sizes))
    share_in, share_out = weight.shape[1], len(weight) // groups
    for place in itertools.product(*map(range, sizes)):
        for tap in itertools.product(*map(range, kernel)):
            at = tuple(p * s + t * d for p, s, t, d in zip(place, stride, tap, dilation, strict=True))
            for group in range(groups):
                rows = slice(group * share_out, (group + 1) * share_out)
                taken = x[(slice(None), slice(group * share_in, (group + 1) * share_in), *at)]  # (B, C / groups)
                out[(slice(None), rows, *place)] += taken @ weight[(rows, slice(None), *tap)].T
    return out if bias is None else out + array(bias).reshape(1, -1, *[1] * len(sizes))


def window_centres(n, kernel, stride, padding, dilation):
    """Coordinates, in the unpadded input, of the centres of the convolution's windows along one axis."""
    left, right = padding
    count = (n + left + right - dilation * (kernel - 1) - 1) // stride + 1
    return [o * stride - left + (dilation * (kernel - 1)) // 2 for o in range(count)]


def source_of(coordinate, n, mode):
    """The input cell that a coordinate beside the map shows under a padding mode; None is a zero."""
    if 0 <= coordinate < n:
        return coordinate
    if mode == "zeros":
        return None
    if mode == "replicate":
        return min(max(coordinate, 0), n - 1)
    if mode == "circular":
        return coordinate % n
    return -coordinate if coordinate < 0 else 2 * (n - 1) - coordinate


def features(layer, channels, place, sizes):
    """What sine adds to a cell of the map that qkv_conv reads, or what coordconv appends; nothing otherwise."""
    if layer.position == "coordconv":
        return [2 * p / (n - 1) - 1 if n > 1 else 0.0 for p, n in zip(place, sizes, strict=True)]
    waves = channels // (2 * len(sizes))
    added = []
    for p in place:
        angles = [p * 10_000 ** (-i / waves) for i in range(waves)]
        added += [np.sin(a) for a in angles] + [np.cos(a) for a in angles]
    return added + [0.0] * (channels - len(added))


def with_features(layer, x):
    """The map x (B, C, *map) as qkv_conv reads it."""
    if layer.position not in ("sine", "coordconv"):
        return x
    extra = np.zeros((*x.shape[2:], x.shape[1] if layer.position == "sine" else x.ndim - 2))
    for place in itertools.product(*map(range, x.shape[2:])):
        extra[place] = features(layer, x.shape[1], place, x.shape[2:])
    extra = np.moveaxis(extra, -1, 0)[None]
    if layer.position == "sine":
        return x + extra
    return np.concatenate([x, np.broadcast_to(extra, (len(x), *extra.shape[1:]))], axis=1)


def qkv_with_features(layer, x):
    """The projection where features ride along: pad or crop, add the features, convolve; pooled first or last."""
    x, axes = array(x), x.dim() - 2
    kernel, weight = layer.qkv_conv.kernel_size, layer.qkv_conv.weight
    dilation = [d if k > 1 else 1 for d, k in zip(layer.dilation, kernel, strict=True)]
    for a in range(axes):
        left, right = layer.padding[a]
        reach, own = layer.dilation[a] * (layer.kernel_size[a] - 1), dilation[a] * (kernel[a] - 1)
        before, after = left - reach // 2 + own // 2, right - (reach - reach // 2) + own - own // 2
        width = [(0, 0)] * x.ndim
        width[2 + a] = (max(before, 0), max(after, 0))
        x = x.take(range(max(-before, 0), x.shape[2 + a] - max(-after, 0)), 2 + a)
        x = np.pad(x, width, PAD_MODES[layer.padding_mode])
    pool_first = layer.attention_pool == 2 and max(kernel) == 1
    stride = layer.stride
    if pool_first:
        x = average_pool(x[(..., *(slice(None, None, s) for s in stride))])
        stride = (1,) * axes
    x = with_features(layer, x)
    import torch

    x = convolution(torch.from_numpy(x), weight, layer.qkv_conv.bias, stride, [(0, 0)] * axes, dilation, 1, "zeros")
    return average_pool(x) if layer.attention_pool == 2 and not pool_first else x


def qkv(layer, x):
    """The projection at each window centre: (B, 2 d_k + d_v, *map), every cell looked up on its own."""
    x = array(x)
    weight = array(layer.qkv_conv.weight)
    axes = x.ndim - 2
    centres = [
        window_centres(x.shape[2 + a], layer.kernel_size[a], layer.stride[a], layer.padding[a], layer.dilation[a])
        for a in range(axes)
    ]
    out = np.zeros((len(x), len(weight), *map(len, centres)))
    for place in itertools.product(*(range(len(c)) for c in centres)):
        for tap in itertools.product(*map(range, weight.shape[2:])):
            cell = []
            for a in range(axes):
                d, k = layer.dilation[a], weight.shape[2 + a]
                at = centres[a][place[a]] + d * tap[a] - (d * (k - 1)) // 2
                cell.append(source_of(at, x.shape[2 + a], layer.padding_mode))
            if None not in cell:
                out[(slice(None), slice(None), *place)] += (
                    x[(slice(None), slice(None), *cell)] @ weight[(slice(None), slice(None), *tap)].T
                )
    if layer.qkv_conv.bias is not None:
        out += array(layer.qkv_conv.bias).reshape(1, -1, *[1] * axes)
    return out


def average_pool(x):
    """3x3 mean of stride 2 over the cells that exist: (B, C, *map) -> (B, C, *ceil(map / 2))."""
    sizes = [-(-n // 2) for n in x.shape[2:]]
    out = np.zeros((*x.shape[:2], *sizes))
    for place in itertools.product(*map(range, sizes)):
        window = [range(max(0, 2 * p - 1), min(n, 2 * p + 2)) for p, n in zip(place, x.shape[2:], strict=True)]
        cells = [x[(slice(None), slice(None), *cell)] for cell in itertools.product(*window)]
        out[(slice(None), slice(None), *place)] = sum(cells) / len(cells)
    return out


def upsample(x, sizes):
    """Linear along each axis in turn, cell centres aligned, border values held."""
    for a, n in enumerate(sizes):
        old = x.shape[2 + a]
        at = [min(max((o + 0.5) * old / n - 0.5, 0), old - 1) for o in range(n)]
        low = [int(np.floor(t)) for t in at]
        part = np.array([t - l for t, l in zip(at, low, strict=True)]).reshape(-1, *[1] * (len(sizes) - 1 - a))
        high = [min(l + 1, old - 1) for l in low]
        x = x.take(low, 2 + a) * (1 - part) + x.take(high, 2 + a) * part
    return x


def augmented_conv(layer, x, scramble=False):
    """The whole layer: (B, C, *map_in) -> (B, out_channels, *map)."""
    import torch

    axes = x.dim() - 2
    if layer.position in ("sine", "coordconv"):
        projected = qkv_with_features(layer, x)
    else:
        projected = qkv(layer, x)
        projected = average_pool(projected) if layer.attention_pool == 2 else projected
    full_size = [
        len(window_centres(x.shape[2 + a], k, s, p, d))
        for a, (k, s, p, d) in enumerate(
            zip(layer.kernel_size, layer.stride, layer.padding, layer.dilation, strict=True)
        )
    ]
    size = projected.shape[2:]
    n, dk, dv = layer.num_heads, layer.key_channels, layer.value_channels
    parts = np.split(projected, [dk, 2 * dk], axis=1)
    q, k, v = (torch.from_numpy(np.moveaxis(p.reshape(len(p), n, -1, *size), 2, -1)) for p in parts)
    y = relative_attention(q, k, v, layer.tables)  # (B, N, *map, E)
    if scramble:
        y = y.reshape(len(y), n, dv // n, *size)
    else:
        y = np.moveaxis(y, -1, 2)
    y = y.reshape(len(y), dv, *size)
    mix = array(layer.attn_out.weight).reshape(dv, dv)
    y = np.einsum("oc,bc...->bo...", mix, y)
    if layer.attn_out.bias is not None:
        y = y + array(layer.attn_out.bias).reshape(1, -1, *[1] * axes)
    if layer.attention_pool == 2:
        y = upsample(y, full_size)
    if layer.conv_out is None:
        return y
    conv = layer.conv_out
    plain = convolution(
        x, conv.weight, conv.bias, layer.stride, layer.padding, layer.dilation, layer.groups, layer.padding_mode
    )
    return np.concatenate([plain, y], axis=1)
