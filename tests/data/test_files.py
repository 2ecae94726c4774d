"""Image files: what workers decode, what happens to files that cannot be decoded, and images kept in memory."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from data.conftest import write_images
from PIL import Image

from attnconv import files as machine
from attnconv.checks import InputError
from attnconv.data import decode_image, files, load_data, prepare_image
from attnconv.data.decode import decode_bytes
from attnconv.data.files import KEPT_FREE, forked_workers, shield_worker

CPU = torch.device("cpu")


def make_loaders(folder, *, workers: int = 0, batch_size: int = 4, skip: bool = False):
    data = load_data(str(folder), image_size=16, skip_bad_images=skip)
    return data.loaders(batch_size=batch_size, seed=0, device=CPU, workers=workers)


@pytest.fixture
def bad_files(image_folder):
    """Two files of a class that are no images; their paths."""
    paths = [image_folder / "train" / "dog" / name for name in ("102.jpg", "104.jpg")]
    paths[0].write_bytes(b"")
    paths[1].write_text("no picture at all")
    return [str(path) for path in paths]


def test_validation_shows_what_prepare_image_shows(image_folder):
    data = load_data(str(image_folder), image_size=16)
    _, val = data.loaders(batch_size=2, seed=0, device=CPU, workers=0)
    images = torch.cat([batch.images for batch in val.epoch(0)])
    expected = torch.stack([prepare_image(decode_image(path, 3), data.meta()) for path in data.val.paths])
    assert torch.equal(images, expected)


def test_training_augments(image_folder):
    data = load_data(str(image_folder), image_size=16)
    train, _ = data.loaders(batch_size=13, seed=0, device=CPU, workers=0)
    first, second = (next(train.epoch(epoch)) for epoch in (0, 1))
    first, second = (batch.images[train.order.batches(e)[0][1].argsort()] for e, batch in enumerate((first, second)))
    differ = (first != second).flatten(1).any(1)  # image by image, in the order of the files
    assert differ.all()


@pytest.mark.parametrize("start", [0, 1, 2])
def test_batches_before_the_start_are_not_decoded(image_folder, monkeypatch, start):
    decoded = []
    monkeypatch.setattr(
        files, "decode_bytes", lambda *args, name: decoded.append(name) or decode_bytes(*args, name=name)
    )
    train, _ = make_loaders(image_folder)
    assert len(list(train.epoch(0, start))) == 3 - start
    assert len(decoded) == 4 * (3 - start)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_stops_the_epoch_with_one_line(image_folder, bad_files, workers):
    train, _ = make_loaders(image_folder, workers=workers, batch_size=13)
    names = "|".join(re.escape(path) for path in bad_files)
    line = rf"\Acannot decode image ({names}): [^\n]+; --skip-bad-images leaves such files out\Z"
    # no `as`: an exception that is kept keeps the workers, until the garbage collector takes five seconds to end them
    with pytest.raises(InputError, match=line):
        list(train.epoch(0))


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_skipped_and_listed_once(image_folder, bad_files, workers):
    train, val = make_loaders(image_folder, workers=workers, batch_size=13, skip=True)
    batches = [batch for epoch in (0, 1) for batch in train.epoch(epoch)]
    assert [len(batch.labels) for batch in batches] == [11, 11]
    assert [batch.images.shape[0] for batch in batches] == [11, 11]
    assert [batch.labels.bincount(minlength=3).tolist() for batch in batches] == [[5, 4, 2]] * 2
    assert train.skipped == bad_files
    assert train.num_samples == 13
    assert val.skipped == []


def test_good_neighbours_of_a_bad_image_are_augmented_as_ever(image_folder):
    train, _ = make_loaders(image_folder, batch_size=13)
    before = next(train.epoch(0))
    (image_folder / "train" / "cat" / "000.jpg").write_bytes(b"")
    train, _ = make_loaders(image_folder, batch_size=13, skip=True)
    after = next(train.epoch(0))
    kept = train.order.batches(0)[0] != 0
    assert torch.equal(after.images, before.images[kept])
    assert torch.equal(after.labels, before.labels[kept])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_without_a_good_image_comes_empty(image_folder, workers):
    for name in ("300.jpg", "301.jpg"):
        (image_folder / "val" / "dog" / name).write_bytes(b"")
    _, val = make_loaders(image_folder, batch_size=2, workers=workers, skip=True)
    batches = list(val.epoch(0))
    assert [batch.labels.tolist() for batch in batches] == [[], [1, 2], [2]]
    assert batches[0].images.shape == (0, *batches[1].images.shape[1:])


def test_a_small_set_has_nothing_to_skip():
    data = load_data("digits", skip_bad_images=True)
    assert [loader.skipped for loader in data.loaders(batch_size=8, seed=0, device=CPU, workers=0)] == [[], []]


# Every kind of image that users have, and of file that is none

PIXELS = np.random.default_rng(0).integers(0, 256, (21, 27, 3), dtype=np.uint8)
COLOUR = Image.fromarray(PIXELS)

GOOD = {
    "16-bit.png": lambda path: Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257).save(path),
    "grey.jpg": lambda path: COLOUR.convert("L").save(path),
    "bits.png": lambda path: COLOUR.convert("1").save(path),
    "cmyk.jpg": lambda path: COLOUR.convert("CMYK").save(path),
    "palette.png": lambda path: COLOUR.convert("P").save(path),
    "transparent.png": lambda path: COLOUR.convert("RGBA").save(path),
    "animated.gif": lambda path: COLOUR.save(path, save_all=True, append_images=[Image.new("RGB", (27, 21))] * 2),
    "animated.webp": lambda path: COLOUR.save(path, save_all=True, append_images=[Image.new("RGB", (27, 21))]),
    "one-pixel.png": lambda path: Image.new("RGB", (1, 1), (9, 9, 9)).save(path),
    "wide.png": lambda path: Image.new("RGB", (20000, 3), (9, 9, 9)).save(path),
    "high.jpg": lambda path: Image.new("RGB", (3, 20000), (9, 9, 9)).save(path),
}
BAD = {
    "empty.jpg": lambda path: path.write_bytes(b""),
    "text.png": lambda path: path.write_text("no picture at all"),
    "cut.jpg": lambda path: (COLOUR.save(path), path.write_bytes(path.read_bytes()[:-60])),
    "header.png": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"),
}


@pytest.fixture
def odd_folder(tmp_path):
    """The class of odd files, and one with a single image."""
    for part in ("train", "val"):
        write_images(tmp_path / part / "single", 1)
        (tmp_path / part / "odd").mkdir()
        for name, write in {**GOOD, **BAD}.items():
            write(tmp_path / part / "odd" / name)
    return tmp_path


@pytest.mark.parametrize("workers", [0, 2])
def test_all_that_can_be_decoded_is_and_the_rest_is_named(odd_folder, workers):
    data = load_data(str(odd_folder), image_size=16, skip_bad_images=True)
    train, val = data.loaders(batch_size=data.num_train, seed=0, device=CPU, workers=workers)
    for loader, part in ((train, "train"), (val, "val")):
        (batch,) = loader.epoch(0)
        assert batch.images.shape == (len(GOOD) + 1, 3, 16, 16)
        assert batch.images.isfinite().all()
        assert batch.labels.bincount().tolist() == [len(GOOD), 1]
        assert loader.skipped == sorted(str(odd_folder / part / "odd" / name) for name in BAD)


def test_a_class_with_one_image_is_learned_from(odd_folder):
    data = load_data(str(odd_folder), image_size=16, skip_bad_images=True)
    train, _ = data.loaders(batch_size=2, seed=0, device=CPU, workers=0)
    labels = torch.cat([batch.labels for batch in train.epoch(0)])
    assert (labels == data.classes.index("single")).sum() == 1


# Images decoded once, whoever needs them


def cached_loaders(folder, *, cached=True, workers=0, **options):
    data = load_data(str(folder), image_size=16, cache_images=cached, **options)
    return data.loaders(batch_size=4, seed=0, device=CPU, workers=workers)


def same(a, b) -> bool:
    return all(torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_without_files_to_decode(image_folder, workers):
    """From the second epoch on, files are not even opened: here they are gone."""
    plain = cached_loaders(image_folder, cached=False)
    expected = [[list(loader.epoch(epoch)) for epoch in range(3)] for loader in plain]
    cached = cached_loaders(image_folder, workers=workers)
    for loader, epochs in zip(cached, expected, strict=True):
        assert same(loader.epoch(0), epochs[0])
        assert same(loader.epoch(1), epochs[1])  # with epoch 0, all 13 images have come
    for path in image_folder.rglob("*.jpg"):
        path.unlink()
    for loader, epochs in zip(cached, expected, strict=True):
        assert same(loader.epoch(2), epochs[2])


def test_each_file_is_decoded_once(image_folder, monkeypatch):
    decoded = []
    monkeypatch.setattr(
        files, "decode_bytes", lambda *args, name: decoded.append(name) or decode_bytes(*args, name=name)
    )
    data = load_data(str(image_folder), image_size=16, cache_images=True)
    train, val = data.loaders(batch_size=4, seed=0, device=CPU, workers=0)
    for epoch in range(4):
        list(train.epoch(epoch)), list(val.epoch(epoch))
    assert sorted(decoded) == sorted([*data.train.paths, *data.val.paths])


def test_bad_images_are_still_reported_where_images_are_kept(image_folder):
    bad = image_folder / "train" / "cat" / "000.jpg"
    bad.write_bytes(b"")
    train, _ = cached_loaders(image_folder, skip_bad_images=True)
    assert sum(len(batch.labels) for epoch in (0, 1) for batch in train.epoch(epoch)) >= 22
    assert train.skipped == [str(bad)]


def test_images_that_fill_the_memory_are_refused(image_folder, monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: KEPT_FREE - 1)
    line = r"after 0 of 13 decoded images 0\.5 GB of memory are free, and a run needs 0\.5; leave --cache-images out"
    with pytest.raises(InputError, match=f"^{line}$"):
        cached_loaders(image_folder)


def test_a_system_that_does_not_say_what_is_free_is_trusted(image_folder, monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: None)
    assert len(cached_loaders(image_folder)) == 2


def test_workers_must_be_forked(monkeypatch):
    assert forked_workers() == "fork"
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    line = "on this system workers cannot share decoded images: use --workers 0 or no --cache-images"
    with pytest.raises(InputError, match=f"^{line}$"):
        forked_workers()


@pytest.mark.skipif(not hasattr(os, "getpriority"), reason="asks for a priority")
def test_workers_give_way_to_a_network_on_the_same_cores(image_folder):
    train, _ = make_loaders(image_folder, workers=1)
    own, others = os.getpriority(os.PRIO_PROCESS, 0), set(multiprocessing.active_children())
    batches = train.epoch(0)
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - others
    assert os.getpriority(os.PRIO_PROCESS, worker.pid) == min(own + 10, 19)
    list(batches)


# Signals: those of a scheduler are the training process's to heed

asks_who_sent = pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="forks, and asks who sent a signal")


@pytest.fixture
def worker():
    """The number of a forked child that is shielded."""
    ready, say = os.pipe()
    child = os.fork()
    if not child:
        shield_worker(0, give_way=False)
        os.write(say, b"1")
        while True:
            time.sleep(60)
    assert os.read(ready, 1) == b"1"
    os.close(ready)
    os.close(say)
    yield child
    try:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


@asks_who_sent
@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_strangers_do_not_end_a_worker(worker, name):
    subprocess.run(["sh", "-c", f"kill -{name} {worker}"], check=True)
    time.sleep(0.3)
    assert os.waitpid(worker, os.WNOHANG) == (0, 0)


@asks_who_sent
def test_its_parent_does(worker):
    os.kill(worker, signal.SIGTERM)
    assert os.waitpid(worker, 0) == (worker, 0)


INTERRUPTED = """
import os, signal, sys
import torch
from attnconv.data import load_data
came = []
def interrupt():  # while the first worker is forked, as logging's hook runs, in which what is raised is lost
    if not came:
        came.append(True)
        signal.raise_signal(signal.SIGINT)
os.register_at_fork(before=interrupt)
loader = load_data(sys.argv[1], image_size=8).train_loader(batch_size=4, seed=0, device=torch.device("cpu"), workers=1)
try:
    for batch in loader.epoch(0):
        print("a batch")
except KeyboardInterrupt:
    print("interrupted", came)
"""


@asks_who_sent
def test_ctrl_c_while_a_worker_is_forked_is_not_lost(image_folder):
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, str(image_folder)], capture_output=True, text=True)
    assert done.stdout == "interrupted [True]\n", done.stderr


STUCK = """
import multiprocessing, os, signal, sys, threading
import torch
from attnconv.data import load_data
loader = load_data(sys.argv[1], image_size=8).train_loader(batch_size=4, seed=0, device=torch.device("cpu"), workers=1)
list(loader.epoch(0))
(worker,) = multiprocessing.active_children()
os.kill(worker.pid, signal.SIGSTOP)  # as if a network's file system did not answer
woken = []
def wake():
    woken.append(True)
    os.kill(worker.pid, signal.SIGCONT)
interrupts, waking = (threading.Timer(*of) for of in ((1, signal.raise_signal, [signal.SIGINT]), (30, wake)))
interrupts.start()
waking.start()
try:
    list(loader.epoch(1))
except KeyboardInterrupt:
    print("interrupted", woken, flush=True)
waking.cancel()
os.kill(worker.pid, signal.SIGCONT)
"""


@asks_who_sent
def test_ctrl_c_ends_the_wait_for_a_worker_that_is_stuck(image_folder):
    done = subprocess.run([sys.executable, "-c", STUCK, str(image_folder)], capture_output=True, text=True)
    assert done.stdout == "interrupted []\n", done.stderr
