"""Train a small SAGAN on scikit-learn's digits and draw its samples: minutes on two CPU cores.

    python examples/sagan_digits.py --out digits.png
    python examples/sagan_digits.py --loss wgan-gp --out digits-gp.png

The generator and the discriminator are under spectral norm, and each has one self-attention layer as the code of Zhang
et al. 2018 (arXiv:1805.08318) has it: keys and values pooled, half as many values as channels, an output convolution.
The loss is the paper's hinge loss or, with ``--loss wgan-gp``, that of Gulrajani et al. 2017 (arXiv:1704.00028). The
gradient penalty differentiates a gradient, so it needs second derivatives of the attention layer.
"""

import argparse
import time

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from attnconv import SelfAttention

NOISE = 64  # numbers from which the generator makes an image


def conv(in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> nn.Module:
    """Return a convolution under spectral norm that keeps the map, or halves it with stride 2."""
    return spectral_norm(nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=(kernel_size - 1) // 2))


def attention(channels: int) -> nn.Module:
    """Return the self-attention layer of the paper's code."""
    return SelfAttention(channels, value_ratio=1 / 2, pool=2)


def make_generator() -> nn.Module:
    """Return a network of noise (B, NOISE) to images (B, 1, 16, 16) from -1 to 1."""
    return nn.Sequential(
        spectral_norm(nn.Linear(NOISE, 64 * 4 * 4)),
        nn.Unflatten(1, (64, 4, 4)),
        nn.Upsample(scale_factor=2),
        conv(64, 64),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        attention(64),  # on 8x8 cells
        nn.Upsample(scale_factor=2),
        conv(64, 16),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        conv(16, 1),
        nn.Tanh(),
    )


def make_discriminator() -> nn.Module:
    """Return a network of images (B, 1, 16, 16) to scores (B, 1), high where they look real."""
    return nn.Sequential(
        conv(1, 32, kernel_size=4, stride=2),
        nn.LeakyReLU(0.1),
        conv(32, 32),
        nn.LeakyReLU(0.1),
        attention(32),  # on 8x8 cells
        conv(32, 64, kernel_size=4, stride=2),
        nn.LeakyReLU(0.1),
        nn.Flatten(),
        spectral_norm(nn.Linear(64 * 4 * 4, 1)),
    )


def load_images() -> Tensor:
    """Return the 1,797 digits at 16x16 pixels, (images, 1, 16, 16) from -1 to 1."""
    pixels = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1  # (images, 1, 8, 8)
    return F.interpolate(pixels, size=16, mode="bilinear")


def gradient_penalty(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """Return how far the slope of the scores is from 1, between real and generated images."""
    share = torch.rand(len(real), 1, 1, 1)
    between = (share * real + (1 - share) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(between).sum(), between, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


def discriminator_loss(discriminator: nn.Module, real: Tensor, fake: Tensor, loss: str) -> Tensor:
    """Return what the discriminator makes small."""
    on_real, on_fake = discriminator(real), discriminator(fake)
    if loss == "hinge":
        return F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
    return on_fake.mean() - on_real.mean() + 10 * gradient_penalty(discriminator, real, fake)


def train(steps: int, loss: str = "hinge", *, seed: int = 0, batch_size: int = 64) -> nn.Module:
    """Return a generator after so many steps, each of one update of both networks."""
    torch.manual_seed(seed)
    images, generator, discriminator = load_images(), make_generator(), make_discriminator()
    for_generator = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.0, 0.9))
    for_discriminator = torch.optim.Adam(discriminator.parameters(), lr=8e-4, betas=(0.0, 0.9))
    start = time.perf_counter()
    for step in range(1, steps + 1):
        real = images[torch.randint(len(images), (batch_size,))]
        with torch.no_grad():
            fake = generator(torch.randn(batch_size, NOISE))
        judged = discriminator_loss(discriminator, real, fake, loss)
        for_discriminator.zero_grad()
        judged.backward()
        for_discriminator.step()

        made = -discriminator(generator(torch.randn(batch_size, NOISE))).mean()
        for_generator.zero_grad()
        made.backward()
        for_generator.step()
        if step % 250 == 0 or step == steps:
            gammas = [m.gamma.item() for net in (generator, discriminator) for m in net if isinstance(m, SelfAttention)]
            print(
                f"step {step}, {time.perf_counter() - start:.0f} s: loss of the discriminator {judged.item():.2f}, "
                f"of the generator {made.item():.2f}, gammas {gammas[0]:.2f} and {gammas[1]:.2f}"
            )
    return generator


@torch.no_grad()
def draw(generator: nn.Module, path: str, *, rows: int = 8, columns: int = 8) -> None:
    """Write a grid of samples, dark on white, as the suffix of ``path`` says (.png, .svg)."""
    from matplotlib import image

    samples = generator.eval()(torch.randn(rows * columns, NOISE))
    tiles = F.pad(samples, (1, 1, 1, 1), value=-1.0)  # (rows * columns, 1, 18, 18)
    grid = tiles.reshape(rows, columns, 18, 18).transpose(1, 2).reshape(rows * 18, columns * 18)
    image.imsave(path, (-grid.repeat_interleave(2, 0).repeat_interleave(2, 1)).numpy(), cmap="gray", vmin=-1, vmax=1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a small SAGAN on handwritten digits.")
    parser.add_argument("--loss", choices=("hinge", "wgan-gp"), default="hinge")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="digits.png", help="picture of the samples")
    options = parser.parse_args()
    draw(train(options.steps, options.loss, seed=options.seed), options.out)
