"""Files of trained networks that ask for what they must not: they get a sentence, and neither memory nor files."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from recipes import saved_networks
from recipes.saved_networks import spoilt_hub, spoilt_onnx, spoilt_program, spoilt_run
from torch import nn

from attnconv import networks
from attnconv.checks import InputError
from attnconv.data import load as load_module
from attnconv.models import create_model, register_model
from attnconv.models import saved as saved_module
from attnconv.recipes import load_trained
from attnconv.recipes import trained as trained_module
from attnconv.recipes.trained import images_for

for package in ("huggingface_hub", "onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package)

DOORS = {"run": spoilt_run, "hub": spoilt_hub}
PROGRAMS = {"onnx": spoilt_onnx, "torch": spoilt_program}
NAMES = [f"class {number}" for number in range(10)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    saved_networks.make_run(folder)
    return folder


@pytest.fixture(scope="module")
def programs(saved):
    saved_networks.make_programs(saved)
    return saved


@pytest.fixture
def on_the_meta_device_alone(monkeypatch):
    """Fail at a network that is built with memory."""
    make = saved_module.make

    def make_without_memory(config):
        assert torch.get_default_device() == torch.device("meta")
        return make(config)

    monkeypatch.setattr(saved_module, "make", make_without_memory)


def refused(path, message):
    with pytest.raises(InputError, match=message) as caught:
        load_trained(path, device="cpu", trust=True)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 600
    assert str(path) in str(caught.value)


WATCH: list[object] = []
SEEN: list[tuple[str, object]] = []


def note(event, arguments):
    if WATCH and (event == "open" or event.startswith(("socket.", "urllib."))):
        SEEN.append((event, arguments[0]))


class Loads(Exception):
    """In place of loading images."""


def loads(name, **_):
    raise Loads(name)


def spoilt(door, saved, out, **images):
    config = images if door == "run" else {"provenance": {"config": images}}
    return DOORS[door](saved, out, config=config)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("data", ["/etc", "photos.csv", "hf:/etc", "hf:nobody/nothing", "torchvision:Food101"])
def test_a_file_chooses_neither_images_of_this_machine_nor_a_download(saved, tmp_path, monkeypatch, door, data):
    monkeypatch.setattr(trained_module, "load_data", lambda *_, **__: pytest.fail("it loads them"))
    trained = load_trained(spoilt(door, saved, tmp_path, data=data, data_dir="/etc"), device="cpu")
    folder = "does not say in which folder its images are"
    elsewhere = f"names {data!r}, which is (not loaded because a file says so|no data set here)"
    with pytest.raises(InputError, match=folder if data.endswith("/etc") else elsewhere):
        images_for(trained)


@pytest.mark.parametrize("door", DOORS)
def test_a_file_may_name_a_data_set_that_is_registered(saved, tmp_path, monkeypatch, door):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    trained = load_trained(spoilt(door, saved, tmp_path, data="photos"), device="cpu")
    with pytest.raises(InputError, match="names 'photos', which is no data set here; name it"):
        images_for(trained)
    monkeypatch.setattr(trained_module, "load_data", loads)
    monkeypatch.setitem(load_module._REGISTERED, "photos", print)
    with pytest.raises(Loads, match="photos"):
        images_for(trained)


@pytest.mark.parametrize("data", ["/etc", "torchvision:Food101", "hf:nobody/nothing"])
def test_a_checkpoint_in_its_run_names_the_images_of_the_run(saved, tmp_path, monkeypatch, data):
    path = spoilt("run", saved, tmp_path, data=data, data_dir="/etc")
    shutil.copy(saved / "run" / "config.yaml", tmp_path)
    monkeypatch.setattr(trained_module, "load_data", loads)
    trained = load_trained(path, device="cpu")
    assert (trained.config.data, trained.config.data_dir) == (data, "/etc")
    with pytest.raises(Loads if data == "/etc" else InputError, match=data):
        images_for(trained)


@pytest.mark.parametrize("door", DOORS)
def test_a_file_chooses_no_folder_of_data_sets(saved, tmp_path, door):
    trained = load_trained(spoilt(door, saved, tmp_path, data="cifar10", data_dir="/etc"), device="cpu")
    assert (trained.config.data, trained.config.data_dir) == ("cifar10", None)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("option", ["init_from", "num_classes", "in_channels", "image_size", "name", "device"])
def test_options_are_those_of_the_architecture(saved, tmp_path, door, option):
    """And what init_from names is not opened, nor anything asked of the network."""
    sentinel = tmp_path / "weights.pt"
    torch.save({"fc.bias": torch.zeros(10)}, sentinel)
    path = DOORS[door](saved, tmp_path, config={"model_options": {option: str(sentinel)}})
    if not SEEN:
        sys.addaudithook(note)
    SEEN[:] = [("begun", "")]
    WATCH.append(1)
    try:
        refused(path, f"unknown option of aa_convnet3: '{option}'")
    finally:
        WATCH.clear()
    assert any(event == "open" for event, _ in SEEN)  # the file itself
    assert [(event, what) for event, what in SEEN if event != "open" or str(what) == str(sentinel)] == [("begun", "")]


ABSURD = {
    "a deep network": ({"model": "wide_resnet60004_1", "model_options": {}}, {}, "far more tensors than its weights'"),
    "a deeper one": (
        {"model": "wide_resnet999999994_1"},
        {},
        "of a network's name and options are at most 65536, got 999999994",
    ),
    "many letters": (
        {"model": "wide_resnet" + "9" * 5000 + "_1"},
        {},
        "at most 9 digits, got 5000|at most 65536, got 99999999999999999999$",
    ),
    "heads": ({"model_options": {"num_heads": 10**15}}, {}, "are at most 65536, got 1000000000000000"),
    "no number": ({"model_options": {"num_heads": [[2]]}}, {}, "num_heads"),
    "no list": ({"model_options": {"augment": {"a": 1}}}, {}, "augment|be built with these options"),
    "classes": (
        {},
        {"classes": [str(n) for n in range(10**5)]},
        r"'fc.weight' is \(10, 192\) in it and \(100000, 19|would take more memory than twice its size and 100 MB",
    ),
    "channels": (
        {},
        {"channels": 50_000, "mean": [0.5] * 50_000, "std": [0.5] * 50_000},
        r"'layer1.0.weight' is \(64, 1, 3, 3\) in it and \(64, 50000, 3, 3\) in the network",
    ),
    "an image": ({}, {"image_size": [10**6, 10**6]}, "at most 4096 per side, got 1000000|'layer2.0.key_rel_h' is"),
    "a large image": ({}, {"image_size": [4096, 4096]}, "'layer2.0.key_rel_h' is"),
    "a resize": ({}, {"resize_ratio": 1e6}, "must resize images to at most 8192 pixels per side, got 8e[+]06"),
}


@pytest.mark.parametrize("case", ABSURD)
@pytest.mark.parametrize("door", DOORS)
def test_absurd_sizes_are_refused_before_memory_is_taken(saved, tmp_path, door, case, request):
    config, meta, message = ABSURD[case]
    if (door, case) != ("hub", "a resize"):  # a folder's network is read first, and its own weights fit
        request.getfixturevalue("on_the_meta_device_alone")
    refused(DOORS[door](saved, tmp_path, config=config, meta=meta), message)


def test_a_network_that_is_made_small_again_is_refused_too(saved, tmp_path, on_the_meta_device_alone, monkeypatch):
    """The weights fit, but on the way to them the network would have taken terabytes."""

    def made_small_again(num_classes, in_channels=1, image_size=(8, 8)):
        nn.Linear(10**6, 10**6)
        return create_model("aa_convnet3", num_classes=num_classes, in_channels=in_channels, image_size=image_size)

    monkeypatch.setattr(networks, "REGISTERED", dict(networks.REGISTERED))
    register_model("made_small_again", made_small_again)
    path = spoilt_hub(saved, tmp_path, config={"model": "made_small_again", "model_options": {}})
    refused(path, "building this made_small_again takes far more memory than its weights do$")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process's memory from /proc")
def test_a_million_classes_take_no_memory(saved, tmp_path):
    """In a process of its own: 768 MB for the classifier alone, were it made."""
    path = spoilt_run(saved, tmp_path, meta={"classes": [str(n) for n in range(10**6)]})
    script = Path(__file__).with_name("peak_of_refusal.py")
    done = subprocess.run([sys.executable, script, saved / "run", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 400e6


def set_to(name, value):
    def change(state):
        state[name] = value(state[name])

    return change


NO_NUMBERS = {
    "nan": (set_to("fc.weight", lambda t: t.fill_(torch.nan)), "'fc.weight' holds a number that is not finite"),
    "one infinity": (
        set_to("layer1.1.running_var", lambda t: t.index_fill(0, torch.tensor(3), torch.inf)),
        "'layer1.1.running_var' holds a number that is not finite",
    ),
    "more than float32 holds": (
        set_to("fc.weight", lambda t: t.double().fill_(1e300)),
        "'fc.weight' holds a number that is not finite in torch.float32",
    ),
    "int8": (set_to("fc.bias", lambda t: t.to(torch.int8)), "'fc.bias' is of torch.int8, and weights are of one of"),
    "bool": (set_to("fc.bias", lambda t: t > 0), "'fc.bias' is of torch.bool, and weights are of one of torch.float"),
    "complex": (set_to("fc.bias", lambda t: t.to(torch.complex64)), "'fc.bias' is of torch.complex64, and weights are"),
    "float8": (set_to("fc.bias", lambda t: t.to(torch.float8_e4m3fn)), "'fc.bias' is of torch.float8_e4m3fn, and"),
    "a count that is a float": (
        set_to("layer1.1.num_batches_tracked", lambda t: t.float()),
        "'layer1.1.num_batches_tracked' is of torch.float32 in it and of torch.int64 in the network",
    ),
}


@pytest.mark.parametrize("case", NO_NUMBERS)
@pytest.mark.parametrize("door", DOORS)
def test_weights_are_finite_floating_point_numbers(saved, tmp_path, door, case):
    change, message = NO_NUMBERS[case]
    refused(DOORS[door](saved, tmp_path, weights=change), message)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("door", DOORS)
def test_other_floats_are_welcome(saved, tmp_path, door, dtype):
    path = DOORS[door](saved, tmp_path, weights=set_to("fc.bias", lambda t: t.to(dtype)))
    assert load_trained(path, device="cpu").model.fc.bias.isfinite().all()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(10).to_sparse(), "something other than tensors and plain values: .*_rebuild_sparse_tensor"),
        (torch.zeros(10, device="meta"), "something other than tensors and plain values: .*_rebuild_meta_tensor"),
        (torch.zeros(1).expand(10**9), "a tensor has more elements than its storage"),
    ],
)
def test_tensors_of_a_checkpoint_are_plain_ones(saved, tmp_path, value, message):
    refused(spoilt_run(saved, tmp_path, weights=set_to("fc.bias", lambda t: value)), message)


def test_an_average_that_is_none_of_tensors(saved, tmp_path):
    path = spoilt_run(saved, tmp_path)
    state = torch.load(path, weights_only=True)
    for average in ([1], {"fc.bias": 3}):
        torch.save({**state, "average": average}, path)
        refused(path, "its 'average' holds something other than tensors")


@pytest.mark.parametrize(
    ("door", "names"),
    [
        *((door, names) for door in DOORS for names in (["one"], NAMES[:9], [*NAMES, "eleven"])),
        *((door, NAMES[:9]) for door in PROGRAMS),
        *(
            pytest.param(door, names, marks=pytest.mark.slow)
            for door in PROGRAMS
            for names in (["one"], [*NAMES, "eleven"])
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else str(len(value)),
)
def test_there_is_a_name_for_each_output(saved, tmp_path, request, door, names):
    if door in PROGRAMS:
        request.getfixturevalue("programs")
    path = {**DOORS, **PROGRAMS}[door](saved, tmp_path, meta={"classes": names})
    refused(
        path, rf"'fc.weight' is \(10, 192\) in it and \({len(names)}, |has {len(names)} names of classes, and its n"
    )


@pytest.mark.parametrize("door", PROGRAMS)
def test_a_program_is_of_the_images_that_it_says(programs, tmp_path, door):
    path = PROGRAMS[door](programs, tmp_path, meta={"channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3})
    refused(path, "it has 3 image channels, and its network is of 1")


def test_programs_of_weights_that_are_no_numbers(programs, tmp_path):
    refused(spoilt_program(programs, tmp_path, weights=True), "damaged: 'fc.weight' holds a number that is not finite")
    found = load_trained(spoilt_onnx(programs, tmp_path, weights=True), device="cpu")
    with pytest.raises(InputError, match=r"spoilt\.onnx gives numbers that are not finite: it, or an image, is damage"):
        found.model(torch.zeros(1, 1, 8, 8))


def test_all_of_them_are_read_as_they_are(saved, programs):
    for name in ("run", "hub", "model.onnx", "model.pt2"):
        assert load_trained(saved / name, device="cpu", trust=True).model(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
