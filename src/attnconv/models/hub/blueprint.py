"""What remakes a network: the arguments of `create_model`, as plain values that config.json holds."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attnconv import checks

FORMAT = 1


@dataclass(frozen=True)
class Blueprint:
    """The arguments of `create_model`, and what was changed since.

    Args:
        options: the network's own, those left at their defaults too, so that a later version remakes the same network.
        global_pool: "avg", or "" for a network that was told to give its map.
        folded: whether constrained weights (spectral norm) have become plain ones, as an export makes them.
        feat_sizes: of augmented convolutions whose tables were resized, by dotted name: one integer an axis.
    """

    name: str
    num_classes: int
    in_channels: int
    image_size: tuple[int, int]
    options: Mapping[str, Any]
    global_pool: str = "avg"
    folded: bool = False
    feat_sizes: Mapping[str, tuple[int, ...]] | None = None

    def to_config(self) -> dict[str, Any]:
        """The keys of config.json that say what the network is; InputError if an option is no plain value."""
        try:
            options = json.loads(json.dumps(dict(self.options), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise checks.InputError(f"{self.name} cannot be saved: its options must be plain values, {error}") from None
        config: dict[str, Any] = {
            "library": "attnconv",
            "format": FORMAT,
            "model": self.name,
            "num_classes": self.num_classes,
            "in_channels": self.in_channels,
            "image_size": list(self.image_size),
            "options": options,
        }
        if self.global_pool != "avg":
            config["global_pool"] = self.global_pool
        if self.folded:
            config["folded"] = True
        if self.feat_sizes:
            config["feat_sizes"] = {layer: list(size) for layer, size in self.feat_sizes.items()}
        return config

    @classmethod
    def from_config(cls, config: Any, *, source: str) -> "Blueprint":
        """The network that ``config``, read from the file ``source``, describes; whether it can be made is not asked.

        Raises:
            InputError: another library's file, a newer format, or a key that is missing or of the wrong kind.
        """
        if not isinstance(config, dict) or config.get("library") != "attnconv":
            raise checks.InputError(f"{source} describes no network of attnconv: it has no 'library': 'attnconv'")
        if config.get("format") != FORMAT:
            raise checks.InputError(f"{source} is of format {config.get('format')!r}, this version reads {FORMAT}")
        kinds = {"model": str, "num_classes": int, "in_channels": int, "image_size": list, "options": dict}
        for key, kind in kinds.items():
            if not isinstance(config.get(key), kind):
                raise checks.InputError(f"{source}: {key!r} must be {kind.__name__}, got {config.get(key)!r}")
        return cls(
            name=config["model"],
            num_classes=config["num_classes"],
            in_channels=config["in_channels"],
            image_size=tuple(config["image_size"]),
            options=config["options"],
            global_pool=checks.one_of(f"global_pool in {source}:", config.get("global_pool", "avg"), ("avg", "")),
            folded=checks.one_of(f"folded in {source}:", config.get("folded", False), (True, False)),
            feat_sizes=feat_sizes_of(config.get("feat_sizes"), source=source),
        )


def feat_sizes_of(values: Any, *, source: str) -> dict[str, tuple[int, ...]] | None:
    """``Blueprint.feat_sizes`` as read from the JSON of the file ``source``; InputError if they are of another kind."""
    try:
        return {layer: tuple(size) for layer, size in dict(values or {}).items()} or None
    except (TypeError, ValueError):
        raise checks.InputError(f"{source}: 'feat_sizes' must give each layer a list of integers") from None
