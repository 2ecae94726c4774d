"""Map-style Datasets of (image, label) as sources of images, and DataLoaders as loaders.

Letters: B batch, C channels, H rows, W columns, N images of the set.
"""

import contextlib
import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from attnconv import checks
from attnconv.data.augment import drawn_from
from attnconv.data.batches import fingerprint, seed_of
from attnconv.data.decode import image_pixels
from attnconv.data.files import PLAIN, BrokenPromiseError, FileOptions, ItemSource
from attnconv.data.folder import DEFAULT_SIZE, MEAN, RESIZE_RATIO, STD
from attnconv.data.image_data import ImageData, data_of_items

GREY_MEAN, GREY_STD = (0.449,), (0.226,)  # means of ImageNet's over its channels
LOOKED_AT = 8  # evenly spaced images of a Dataset, which tell channels and size
UNKNOWN = -1  # in place of a label that would have to be read
PROMISE = (
    "it must be (image, label): a PIL image, a uint8 tensor (C, H, W) or array (H, W, C) of 1 or 3 channels, or a "
    "float tensor (C, H, W), and a whole number"
)


@dataclass(frozen=True, eq=False, kw_only=True)
class DatasetSource(ItemSource):
    """The images of ``dataset`` at ``indices``; its own transforms are seeded by (seed, epoch, index), too."""

    dataset: Any = field(repr=False)
    indices: Sequence[int] = field(repr=False)
    title: str
    num_classes: int

    def subset(self, indices: Tensor) -> Self:
        indices_, labels = ([values[i] for i in indices.tolist()] for values in (self.indices, self.labels))
        return replace(self, indices=indices_, labels=labels)

    def name(self, index: int) -> str:
        return f"image {self.indices[index]} of {self.title}"

    def item(self, index: int, seed: int) -> tuple[Tensor, int]:
        name = self.name(index)
        found, label = _pair(self.dataset, int(self.indices[index]), name, seed)
        image = _pixels(found, self.channels, name)
        if image.is_floating_point() != self.prepared:
            raise BrokenPromiseError(f"{name} has {image.dtype} pixels, and the first image has others")
        if self.prepared and image.shape[0] == 1:
            image = image.expand(self.channels, -1, -1)
        if self.prepared and image.shape != (self.channels, *self.image_size):
            raise BrokenPromiseError(
                f"{name} is {tuple(image.shape)}, and the first image {(self.channels, *self.image_size)}: float "
                "tensors are taken as they are, and must be of one shape"
            )
        if not 0 <= label < self.num_classes:
            raise BrokenPromiseError(f"{name} has the label {label}: it must be 0 to {self.num_classes - 1}")
        return image, label

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """The ``batches.fingerprint`` of these images, by number; their bytes are unknown."""
        return fingerprint((str(number), label, 0) for number, label in zip(self.indices, self.labels, strict=True))


def data_of_datasets(
    name: str,
    train: Any,
    val: Any = None,
    *,
    classes: Sequence[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    options: FileOptions = PLAIN,
) -> ImageData:
    """Return map-style Datasets of (image, label) as data; float tensors count as preprocessed.

    Args:
        name: of the data set.
        train: training images, with a length and items.
        val: validation images; if None, ``options.val_split`` of ``train`` is held out.
        classes: names in the order of the labels. Default: the Dataset's ``classes``, else the numbers of its labels.
        image_size: side, or rows and columns. Default: the images' own if all have one size, else 128.
        options: as for files.
    Raises:
        InputError: a Dataset returns anything else, or cannot be divided.
    """
    parts = {f"the training images of {name!r}": train}
    if val is not None:
        parts[f"the validation images of {name!r}"] = val
    looked = [image for title, dataset in parts.items() for image in _some_of(dataset, title)]
    first = looked[0]
    prepared, own = first.is_floating_point(), (first.shape[1], first.shape[2])
    channels = first.shape[0] if prepared else max(image.shape[0] for image in looked)
    sizes = {tuple(image.shape[1:]) for image in looked}
    if image_size is None:
        image_size = own if prepared or len(sizes) == 1 else DEFAULT_SIZE
    rows, columns = checks.per_axis("image_size", image_size, 2, at_least=1)
    if prepared and (rows, columns) != own:
        raise checks.InputError(
            f"{name!r} gives float tensors of {own[0]} x {own[1]} pixels, which are taken as they are: leave "
            f"image_size out, got {rows} x {columns}"
        )
    ratio = 1.0 if prepared or sizes == {(rows, columns)} else RESIZE_RATIO
    names = _class_names(train) if classes is None else [str(word) for word in classes]
    sources = []
    for title, dataset in parts.items():
        labels = _labels(dataset, title, read=not sources and (names is None or options.val_split is not None))
        if names is None:
            names = [str(number) for number in range(max(labels) + 1)]
        if wrong := [n for n in labels if n != UNKNOWN and not 0 <= n < len(names)]:
            raise BrokenPromiseError(f"{title} have the label {wrong[0]}: it must be 0 to {len(names) - 1}")
        source = DatasetSource(
            dataset=dataset,
            indices=range(len(dataset)),
            labels=labels,
            title=title,
            num_classes=len(names),
            image_size=(rows, columns),
            resize_ratio=ratio,
            options=replace(options, cache_images=False),
            channels=channels,
            prepared=prepared,
        )
        sources.append(source)
    assert names is not None
    # These leave preprocessed tensors as they are.
    mean, std = ((0.0,) * channels, (1 / 255,) * channels) if prepared else (MEAN, STD)
    if channels == 1 and not prepared:
        mean, std = GREY_MEAN, GREY_STD
    note = f"{name!r} gives float tensors: they are taken as preprocessed, neither augmented nor normalised"
    return data_of_items(name, names, sources, mean=mean, std=std, notes=[note] * prepared)


def _some_of(dataset: Any, title: str) -> list[Tensor]:
    """Return a few images; InputError if this is no Dataset or has none."""
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise checks.InputTypeError(
            f"{title} must be a map-style Dataset, with a length and items, got {type(dataset).__name__}"
        )
    if not len(dataset):
        raise checks.InputError(f"there are none of {title}")
    numbers = sorted({k * (len(dataset) - 1) // (LOOKED_AT - 1) for k in range(LOOKED_AT)})
    return [_pixels(_pair(dataset, i, f"image {i} of {title}")[0], None, f"image {i} of {title}") for i in numbers]


class ForeignLoader:
    """Adapt a loader of (images, labels), such as a DataLoader, to the trainer.

    Each epoch has its own seed, from which a DataLoader draws order and worker seeds when its first batch is requested.
    Without workers, the random numbers of transforms depend on what ran before. A run that resumes inside an epoch
    reads the earlier batches and drops them.

    Args:
        loader: with a length; ``loader.sampler.set_epoch`` is called if it exists.
        device: of the batches.
        seed: of the epochs' seeds.
        training: False gives every epoch the first one's seed.
        num_classes: upper limit of whole labels, or None.
        at_least: smallest batch; 2 to train batch norm.
    Raises:
        InputError: it has no length; while iterating, a batch is anything else.
    """

    skipped: Sequence[str] = ()

    def __init__(
        self,
        loader: Any,
        *,
        device: torch.device,
        seed: int = 0,
        training: bool = True,
        num_classes: int | None = None,
        at_least: int = 1,
    ) -> None:
        if not (hasattr(loader, "__len__") and isinstance(loader, Iterable)):
            raise checks.InputTypeError(f"a loader must have a length and give batches, got {type(loader).__name__}")
        self._loader: Any = loader
        self._device, self._seed, self._training = device, seed, training
        self._num_classes, self._at_least = num_classes, at_least

    def __len__(self) -> int:
        return len(self._loader)

    @property
    def num_samples(self) -> int:
        """Images per epoch, or batches if the loader has no Dataset with a length."""
        dataset = getattr(self._loader, "dataset", None)
        return len(dataset) if hasattr(dataset, "__len__") else len(self)  # pyright: ignore[reportArgumentType]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of ``epoch`` from number ``start`` on."""
        epoch = epoch if self._training else 0
        if hasattr(sampler := getattr(self._loader, "sampler", None), "set_epoch"):
            sampler.set_epoch(epoch)  # pyright: ignore[reportOptionalMemberAccess]
        with _all_drawn_from(seed_of(self._seed, epoch, 0, 0, 0)):
            batches = iter(self._loader)
            first = list(itertools.islice(batches, 1))  # samplers draw their order for the first batch
        for number, batch in enumerate(itertools.islice(itertools.chain(first, batches), start, None), start):
            yield self._checked(batch, number)

    def _checked(self, batch: Any, number: int) -> tuple[Tensor, Tensor]:
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2 and all(isinstance(t, Tensor) for t in batch)):
            raise BrokenPromiseError(f"batch {number} must be two tensors, images and labels, got {_shape(batch)}")
        images, labels = batch
        if images.ndim != 4 or not images.is_floating_point() or len(labels) != len(images):
            raise BrokenPromiseError(
                f"batch {number} must be float images (B, C, H, W) and B labels, got {tuple(images.shape)} "
                f"{images.dtype} and {tuple(labels.shape)}"
            )
        if (count := len(images)) < self._at_least:
            raise BrokenPromiseError(
                f"batch {number} has {count} image{'s' * (count != 1)}, and batch norm needs {self._at_least} at "
                "least: a DataLoader with drop_last=True leaves the last, incomplete batch out"
            )
        if not labels.is_floating_point():
            labels, classes = labels.to(torch.int64), self._num_classes
            if classes is not None and (wrong := labels[(labels < 0) | (labels >= classes)]).numel():
                raise BrokenPromiseError(f"batch {number} has the label {wrong[0]}: it must be 0 to {classes - 1}")
        return images.to(self._device, torch.float32), labels.to(self._device)


@contextlib.contextmanager
def _all_drawn_from(seed: int) -> Iterator[None]:
    """Do as `drawn_from`, also for the generators of Python and numpy, from which users' transforms draw."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    with drawn_from(seed):
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def _pair(dataset: Any, index: int, name: str, seed: int = 0) -> tuple[Any, int]:
    """Return image and label; random numbers come from ``seed``.

    Raises:
        BrokenPromiseError: the Dataset returns anything else.
        InputError: the image cannot be read.
    """
    try:
        with _all_drawn_from(seed):
            found = dataset[index]
    except (checks.InputError, OSError, SyntaxError) as error:  # Pillow's of damaged files
        raise checks.InputError(f"cannot read {name}: {checks.first_line(error)}") from None
    except Exception as error:
        raise BrokenPromiseError(f"{name} raised {type(error).__name__}: {checks.first_line(error)}") from error
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        raise BrokenPromiseError(f"{name} is {_shape(found)}; {PROMISE}")
    return found[0], _label(found[1], name)


def _label(label: Any, name: str) -> int:
    if isinstance(label, (Tensor, np.ndarray)) and label.ndim == 0:
        label = label.item()
    if isinstance(label, bool) or not hasattr(label, "__index__") or isinstance(label, (Tensor, np.ndarray)):
        raise BrokenPromiseError(f"{name} has the label {_shape(label)}; {PROMISE}")
    return label.__index__()


def _pixels(image: Any, channels: int | None, name: str) -> Tensor:
    """Return (C, H, W) uint8 with ``channels``, or the image's own if None; floats as they are."""
    if hasattr(image, "getbands"):  # Pillow's
        own = 1 if image.mode in ("1", "L", "LA") or image.mode.startswith(("I", "F")) else 3
        return image_pixels(image, channels or own, name=name)
    pixels = image.as_subclass(Tensor) if isinstance(image, Tensor) else None
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3):
        pixels = torch.from_numpy(np.ascontiguousarray(image))
        pixels = pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels
    if pixels is not None and pixels.ndim == 2:
        pixels = pixels[None]
    if pixels is None or pixels.ndim != 3 or not (pixels.dtype == torch.uint8 or pixels.is_floating_point()):
        raise BrokenPromiseError(f"{name} is {_shape(image)}; {PROMISE}")
    if pixels.is_floating_point():
        return pixels.to(torch.float32)
    if pixels.shape[0] not in (1, 3) or channels == 1 != pixels.shape[0]:
        raise BrokenPromiseError(f"{name} has {pixels.shape[0]} channels, {channels or '1 or 3'} expected; {PROMISE}")
    return pixels.expand(channels or pixels.shape[0], -1, -1)


def _shape(value: Any) -> str:
    """Describe a value of a wrong kind."""
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {', '.join(type(part).__name__ for part in value) or 'nothing'}"
    shape = f" {tuple(value.shape)} {value.dtype}" if isinstance(value, (Tensor, np.ndarray)) else ""
    return f"{value!r}" if isinstance(value, (str, float, bool, type(None))) else f"a {type(value).__name__}{shape}"


def _class_names(dataset: Any) -> list[str] | None:
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    if isinstance(names := getattr(dataset, "classes", None), (list, tuple)) and names:
        return [" ".join(map(str, name)) if isinstance(name, (list, tuple)) else str(name) for name in names]
    count = getattr(dataset, "num_classes", None)
    return [str(number) for number in range(count)] if type(count) is int and count > 0 else None


def _labels(dataset: Any, title: str, *, read: bool) -> list[int]:
    """Return the labels that the Dataset lists; else those of all its images if ``read``, else UNKNOWN."""
    numbers = list(range(len(dataset)))
    inner = dataset
    while isinstance(inner, Subset):
        numbers = [inner.indices[i] for i in numbers]
        inner = inner.dataset
    for name in ("targets", "labels", "_labels"):
        listed = getattr(inner, name, None)
        if isinstance(listed, (list, tuple, np.ndarray, Tensor)) and len(listed) > max(numbers):
            with contextlib.suppress(BrokenPromiseError):  # these labels are no classes
                return [_label(listed[i], title) for i in numbers]
    if not read:
        return [UNKNOWN] * len(dataset)
    return [_pair(dataset, i, f"image {i} of {title}")[1] for i in range(len(dataset))]
