"""A training step of each network with attention compared with that of its plain twin."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnconv import checks, extensions, ops
from attnconv.bench.benchmark import STEP, Benchmark, Settings, counted_flops
from attnconv.bench.layers import with_impl
from attnconv.bench.machine import Call
from attnconv.models import create_model, list_models
from attnconv.models.registry import find
from attnconv.surgery.steps import Step

NAMED = ("aa_convnet3", "aa_wide_resnet28_10", "aa_resnet50", "sa_xresnet50", "ssa_xresnet50")

# Prefixes of names with attention or squeeze-excitation, before the plain twin's name.
PREFIXES = ("seed_aa_", "aa_", "ssa_", "sa_", "se_")

BATCHES = {"convnet3": 32, "wide_resnet": 4, "xresnet": 4, "": 2}  # part of a name -> images of a step


@dataclass(frozen=True)
class Case:
    """A network, and the images of a step."""

    name: str
    batch: int
    image_size: int
    num_classes: int
    attention: Sequence[Step] = ()

    @property
    def twin(self) -> str:
        """The name of the plain network; the same name if steps of surgery add the attention."""
        return self.name if self.attention else self.name.removeprefix(_prefix(self.name))

    @property
    def label(self) -> str:
        """The name of the network with attention in records and tables."""
        return f"{self.name} with attention" if self.attention else self.name


def case_of(
    name: str, *, batch: int | None = None, image_size: int | None = None, attention: Sequence[Step] = ()
) -> Case:
    """Return the case of a network, by default with its family's usual size.

    Raises:
        InputError: no such network, or one without plain twin and ``attention``.
    """
    if extensions.is_factory(name):
        extensions.import_factory(name)
    usual = find(name).images  # it refuses an unknown name
    if not attention and not _prefix(name):
        relatives = [known for known in list_models() if known in {prefix + name for prefix in PREFIXES}]
        hint = f"; {relatives[0]!r} is compared with it" if relatives else ""
        raise checks.InputError(f"model {name!r} is plain and has no twin to be compared with{hint}")
    return Case(
        name,
        next(usual for part, usual in BATCHES.items() if part in name)
        if batch is None
        else checks.integer("batch size", batch, at_least=1),
        usual.image_size if image_size is None else checks.integer("image size", image_size, at_least=1),
        usual.num_classes,
        attention,
    )


def _prefix(name: str) -> str:
    return next((prefix for prefix in PREFIXES if name.startswith(prefix)), "")


def twinned_models() -> list[str]:
    """Return the names of all listed networks that have a plain twin."""
    return [name for name in list_models() if name.startswith(PREFIXES)]


def model_benchmark(
    case: Case,
    settings: Settings,
    *,
    impls: Sequence[str] = ("auto",),
    channels_last: bool = False,
    compiled: bool = False,
) -> Benchmark:
    """Return training steps of the twin and of the network on the same images.

    Args:
        impls: of relative attention; the network takes part once with each.
        compiled: use torch.compile on both networks.
    """
    for impl in impls:
        checks.one_of("impl", impl, ops.IMPLS)
    labels = {case.label if len(impls) == 1 else f"{case.label}-{impl}": impl for impl in impls}

    def build(label: str, images: tuple[Tensor, Tensor]) -> Call:
        model = _create(case, settings, plain=label == case.twin)
        model = with_impl(model, labels.get(label, "auto")).train().to(settings.device)
        if channels_last:
            model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return step_of(model, torch.compile(model) if compiled else model, *images, settings.dtype)

    return Benchmark(
        study="models",
        case=case.label,
        shape={"B": case.batch, "image": case.image_size, "classes": case.num_classes},
        what=STEP,
        baseline=case.twin,
        names=[case.twin, *labels],
        inputs=lambda: draw(case, settings, channels_last),
        build=build,
        flops=lambda label: flops(case, settings, plain=label == case.twin),
    )


def draw(case: Case, settings: Settings, channels_last: bool) -> tuple[Tensor, Tensor]:
    """Return images (B, 3, side, side) and labels (B,)."""
    torch.manual_seed(settings.seed)
    images = torch.randn(case.batch, 3, case.image_size, case.image_size)
    labels = torch.randint(case.num_classes, (case.batch,))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return images.to(settings.device).contiguous(memory_format=layout), labels.to(settings.device)


def step_of(
    model: nn.Module, forward: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, dtype: torch.dtype
) -> Call:
    """Return forward, loss, backward and a step of SGD with momentum as one call; under autocast for half precision."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> Tensor:
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def flops(case: Case, settings: Settings, *, plain: bool) -> int:
    """Return the FLOPs of a step's forward and backward, counted on the meta device in the plain form."""
    with torch.device("meta"):
        model = with_impl(_create(case, settings, plain=plain), "eager").train()
        image = torch.empty(1, 3, case.image_size, case.image_size)
    # Batch norm cannot train on one value a channel, which is all that one image may leave.
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return case.batch * counted_flops(lambda: model(image).sum().backward())


def _create(case: Case, settings: Settings, *, plain: bool) -> nn.Module:
    torch.manual_seed(settings.seed)
    return create_model(
        case.twin if plain else case.name,
        num_classes=case.num_classes,
        image_size=case.image_size,
        attention=() if plain else case.attention,
    )
