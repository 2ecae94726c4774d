"""Images decoded once, whoever needs them: the same batches, fewer decodings, and never more memory than there is."""

import multiprocessing

import pytest
import torch
from PIL import Image

from attnconv.checks import InputError
from attnconv.data import cache, files, load_data
from attnconv.data.cache import ImageCache, forked_workers
from attnconv.data.decode import count_pixels, decode_bytes

CPU = torch.device("cpu")


def loaders(folder, *, cached=True, workers=0, **options):
    data = load_data(str(folder), image_size=16, cache_images=cached, **options)
    return data.loaders(batch_size=4, seed=0, device=CPU, workers=workers)


def same(a, b) -> bool:
    return all(torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_without_files_to_decode(image_folder, workers):
    """From the second epoch on, files are not even opened: here they are gone."""
    plain = loaders(image_folder, cached=False)
    expected = [[list(loader.epoch(epoch)) for epoch in range(3)] for loader in plain]
    cached = loaders(image_folder, workers=workers)
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


def test_bad_images_are_still_reported(image_folder):
    bad = image_folder / "train" / "cat" / "000.jpg"
    bad.write_bytes(b"")
    train, _ = loaders(image_folder, skip_bad_images=True)
    assert sum(len(batch.labels) for epoch in (0, 1) for batch in train.epoch(epoch)) >= 22
    assert train.skipped == [str(bad)]


def images(*shapes):
    return [torch.randint(0, 256, shape, dtype=torch.uint8) for shape in shapes]


def test_what_is_put_comes_back():
    first, second, third = images((3, 4, 7), (3, 5, 2), (3, 1, 1))
    kept = ImageCache([first.numel(), second.numel(), third.numel()], 3)
    assert kept.get(1) is None
    for index, image in ((1, second), (2, third), (0, first)):
        kept.put(index, image)
    assert all(torch.equal(kept.get(i), image) for i, image in enumerate((first, second, third)))


def test_an_image_larger_than_was_said_is_not_kept():
    first, second = images((3, 4, 7), (3, 5, 2))
    kept = ImageCache([10, second.numel()], 3)
    kept.put(1, second)
    kept.put(0, first)
    assert kept.get(0) is None
    assert torch.equal(kept.get(1), second)


def test_a_set_of_which_nothing_can_be_kept():
    kept = ImageCache([0, 0], 3)
    kept.put(1, images((3, 4, 7))[0])
    assert kept.get(1) is None


def test_more_than_the_free_memory_is_refused(image_folder, monkeypatch):
    monkeypatch.setattr(cache, "free_bytes", lambda: cache.KEPT_FREE + 10_000)
    line = r"the decoded images take 0\.0 GB and 0\.0 GB of memory are free for them; leave --cache-images out"
    with pytest.raises(InputError, match=f"^{line}$"):
        loaders(image_folder)


def test_a_system_that_does_not_say_what_is_free_is_trusted(image_folder, monkeypatch):
    monkeypatch.setattr(cache, "free_bytes", lambda: None)
    assert len(loaders(image_folder)) == 2


def test_workers_must_be_forked(monkeypatch):
    assert forked_workers() == "fork"
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    line = "on this system workers cannot share decoded images: use --workers 0 or no --cache-images"
    with pytest.raises(InputError, match=f"^{line}$"):
        forked_workers()


def test_count_pixels(tmp_path):
    Image.new("RGB", (13, 9)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no picture at all")
    assert count_pixels(tmp_path / "a.png") == 117
    assert count_pixels(tmp_path / "b.png") == count_pixels(tmp_path / "none.png") == 0
