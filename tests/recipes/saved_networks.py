"""One small trained network in every kind of file that holds one, and files like them with something else inside."""

import dataclasses
import json
import shutil

import torch

from attnconv import export
from attnconv.export.facts import CHECKSUM
from attnconv.recipes import RunConfig, load_trained, run
from attnconv.train.checksum import BLANK, sealed

CONFIG = RunConfig(model="aa_convnet3", data="digits", epochs=1, train_subset=64, batch_size=32, device="cpu")


def make_all(folder):
    """RUN, hub (a folder), and model.onnx, model.pt2 and model.safetensors in ``folder``."""
    run(CONFIG, folder / "run", progress=False)
    trained = load_trained(folder / "run")
    trained.model.save_pretrained(folder / "hub")
    for name, suffix in export.SUFFIXES.items():
        write = export.FORMATS[name]
        write(trained.model, folder / f"model{suffix}", config=trained.config.to_dict(), meta=trained.meta)


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


def spoilt_safetensors(folder, out, *, config=None, meta=None, weights=None):
    from safetensors.torch import save

    state, facts = export.load_weights(folder / "model.safetensors")
    if weights is not None:
        weights(state)
    texts = facts.to_texts()
    for name, changes in (("config", config), ("preprocessing", meta), ("data", meta)):
        texts[name] = json.dumps({**json.loads(texts[name]), **(changes or {})})
    if meta and "classes" in meta:
        texts["classes"] = json.dumps(meta["classes"])
    (out / "spoilt.safetensors").write_bytes(sealed(save(state, {**texts, CHECKSUM: BLANK})))
    return out / "spoilt.safetensors"


def spoilt_onnx(folder, out, *, meta=None, weights=None):
    import numpy as np
    import onnx

    from attnconv.export.onnx_file import file_of, load_onnx

    proto = onnx.load(folder / "model.onnx")
    if weights is not None:
        (first,) = [one for one in proto.graph.initializer if one.name == "fc.weight"]
        array = onnx.numpy_helper.to_array(first).copy()
        array[0, 0] = np.nan
        first.CopyFrom(onnx.numpy_helper.from_array(array, first.name))
    facts = load_onnx(folder / "model.onnx").facts
    (out / "spoilt.onnx").write_bytes(
        file_of(proto, dataclasses.replace(facts, meta={**facts.meta, **(meta or {})}).to_texts())
    )
    return out / "spoilt.onnx"


def spoilt_program(folder, out, *, meta=None, weights=None):
    from attnconv.export.program_file import TEXTS, load_program

    texts = dict.fromkeys(TEXTS, "")
    program = torch.export.load(folder / "model.pt2", extra_files=texts)
    if weights is not None:
        with torch.no_grad():
            program.state_dict["fc.weight"][0, 0] = torch.nan
    facts = load_program(folder / "model.pt2", trust=True).facts
    texts = dataclasses.replace(facts, meta={**facts.meta, **(meta or {})}).to_texts()
    torch.export.save(program, out / "spoilt.pt2", extra_files=texts)
    with open(out / "spoilt.pt2", "r+b") as file:
        from attnconv.train.checksum import append_checksum

        append_checksum(file)
    return out / "spoilt.pt2"
