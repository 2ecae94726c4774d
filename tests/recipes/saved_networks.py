"""One small trained network in every kind of file that holds one, and files like them with something else inside."""

import json
import shutil

import torch

from attnconv import export
from attnconv.files import append_checksum
from attnconv.models import create_model
from attnconv.recipes import RunConfig, load_trained, run

CONFIG = RunConfig(model="aa_convnet3", data="digits", epochs=1, train_subset=64, batch_size=32, device="cpu")


def make_run(folder):
    """A run, and hub, a folder of its network, in ``folder``."""
    run(CONFIG, folder / "run", progress=False)
    load_trained(folder / "run").model.save_pretrained(folder / "hub")


def make_programs(folder):
    """model.onnx and model.pt2 in ``folder``: the plain twin of the run's network, which exports in half the time."""
    meta = load_trained(folder / "run").meta
    model = create_model("convnet3", num_classes=10, in_channels=1, image_size=8)
    for name, suffix in export.SUFFIXES.items():
        export.FORMATS[name](model, folder / f"model{suffix}", meta=meta)


def spoilt_run(folder, out, *, config=None, meta=None, weights=None):
    """best.pt with other values; ``weights`` changes the dict of tensors."""
    state = torch.load(folder / "run" / "best.pt", weights_only=True)
    state["config"] |= config or {}
    state["meta"] |= meta or {}
    if weights is not None:
        weights(state["model"])
    torch.save(state, out / "spoilt.pt")
    return out / "spoilt.pt"


def spoilt_hub(folder, out, *, config=None, meta=None, weights=None):
    from safetensors.torch import load_file, save_file

    out = shutil.copytree(folder / "hub", out / "spoilt")
    told = json.loads((out / "config.json").read_text())
    config = dict(config or {})
    if (options := config.pop("model_options", None)) is not None:
        told["options"] = options and {**told["options"], **options}
    told |= {"sha256": None, "model": config.pop("model", told["model"]), **config}
    told["meta"] |= meta or {}
    if meta and "image_size" in meta:
        told["image_size"] = meta["image_size"]
    if meta and "channels" in meta:
        told["in_channels"] = meta["channels"]
    if meta and "classes" in meta and len(meta["classes"]) > 10:
        told["num_classes"] = len(meta["classes"])
    if weights is not None:
        state = load_file(out / "model.safetensors")
        weights(state)
        save_file(state, out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(told))
    return out


def spoilt_onnx(folder, out, *, meta=None, weights=None):
    import numpy as np
    import onnx

    from attnconv.export.onnx_file import file_of

    proto = onnx.load(folder / "model.onnx")
    if weights is not None:
        (first,) = [one for one in proto.graph.initializer if one.name == "fc.weight"]
        array = onnx.numpy_helper.to_array(first).copy()
        array[0, 0] = np.nan
        first.CopyFrom(onnx.numpy_helper.from_array(array, first.name))
    (text,) = [one.value for one in proto.metadata_props if one.key == "attnconv"]
    (out / "spoilt.onnx").write_bytes(file_of(proto, changed(text, meta)))
    return out / "spoilt.onnx"


def spoilt_program(folder, out, *, meta=None, weights=None):
    texts = {"attnconv": ""}
    program = torch.export.load(folder / "model.pt2", extra_files=texts)
    if weights is not None:
        with torch.no_grad():
            program.state_dict["fc.weight"][0, 0] = torch.nan
    torch.export.save(program, out / "spoilt.pt2", extra_files={"attnconv": changed(texts["attnconv"], meta)})
    with open(out / "spoilt.pt2", "r+b") as file:
        append_checksum(file)
    return out / "spoilt.pt2"


def changed(text, meta):
    """The config of an exported file with other facts of images, as many classes as they say."""
    config = json.loads(text)
    config["meta"] |= meta or {}
    config["num_classes"] = len(config["meta"]["classes"])
    return json.dumps(config)
