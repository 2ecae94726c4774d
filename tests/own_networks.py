"""Networks of a user's own, for tests: what --model own_networks:small, register_model and --import name."""

from torch import nn

from attnconv import register_model


def small(num_classes: int, in_channels: int = 3, width: int = 8) -> nn.Module:
    """A convolutional network of two stages, with names that attention is put at."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(in_channels, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU()),
        nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, num_classes),
    )


def same(num_classes: int, in_channels: int = 3, width: int = 8) -> nn.Module:
    """The same network of another function."""
    return small(num_classes, in_channels, width)


def three_channels(num_classes: int) -> nn.Module:
    """The same for images of red, green and blue alone."""
    return small(num_classes)


def too_many(num_classes: int) -> nn.Module:
    """A network with another number of outputs than it was asked for."""
    return small(num_classes + 1)


def pair(num_classes: int) -> nn.Module:
    """A network that gives two tensors."""

    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    return Pair()


def no_module(num_classes: int) -> int:
    """No network at all."""
    return num_classes


def broken(num_classes: int) -> nn.Module:
    """A factory that fails."""
    raise RuntimeError("weights of the moon\nsecond line")


number = 3

register_model("own_small", small, image_size=32, num_classes=10)
