import pickle
import shutil

import numpy as np
import pytest
import torch
from images import image_folder, tiny_imagenet
from PIL import Image
from torchvision.transforms import v2

from wtkit import data
from wtkit.data import InMemory, Streamed
from wtkit.data_sets import data_set, names
from wtkit.errors import WtkitError
from wtkit.experiments import RunConfig
from wtkit.images import decode
from wtkit.seeds import stream_seed


def load(**settings):
    return data.load(RunConfig(**{"method": "backprop", "batch_size": 4} | settings))


def all_held_out(loaded):
    images, labels = zip(*loaded.held_out_batches(4), strict=True)
    return torch.cat(images), torch.cat(labels)


@pytest.mark.parametrize("name", names())
def test_every_data_set_has_a_record(name):
    about = data_set(name)
    assert about.label
    published = (about.classes, about.training, about.held_out)
    assert all(published) or not any(published)


def test_digits_are_split_once_and_evenly():
    first, second = load(seed=0), load(seed=1)
    assert first.num_classes == data_set("digits").classes
    assert (len(first.images), len(first.held_out)) == (1437, 360)
    assert torch.equal(first.held_out, second.held_out)
    assert first.images.dtype == torch.uint8
    counts = first.held_out_labels.bincount()
    assert counts.min() >= 34
    assert counts.max() <= 38


def test_digits_are_scikit_learns_scans_brought_to_32_pixels():
    from sklearn.datasets import load_digits

    loaded = load()
    scans = torch.from_numpy(load_digits().images).float() * 255 / 16
    pooled = loaded.held_out[:, 0].float().unfold(1, 4, 4).unfold(2, 4, 4).mean((3, 4))
    nearest = torch.cdist(pooled.flatten(1), scans.flatten(1)).argmin(1)
    assert torch.equal(torch.from_numpy(load_digits().target)[nearest], loaded.held_out_labels)
    assert load(image_size=16).images.shape[1:] == (3, 16, 16)


def test_validation_is_a_fixed_part_of_the_training_images_and_the_test_images_stay_unseen():
    whole, part = load(), load(evaluate_on="validation", seed=5)
    trained = {x.tobytes() for x in whole.images.numpy()}
    held_out = [x.tobytes() for x in part.held_out.numpy()]
    assert len(part.held_out) == 288
    assert set(held_out) <= trained
    assert len(part.images) + len(part.held_out) == len(whole.images)


def test_an_epoch_shows_each_image_once_in_an_order_of_its_own():
    loaded = load(augment="none")
    number = len(loaded.images) // 4 * 4
    epochs = [torch.cat([y for _, y in loaded.train_batches(4, epoch)]) for epoch in (0, 0, 1)]
    assert torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0], epochs[2])
    assert len(epochs[0]) == number
    images = torch.cat([x for x, _ in loaded.train_batches(4, 0)])
    # a few of the scans are alike
    assert len(torch.unique(images.flatten(1), dim=0)) > 0.98 * number


def test_every_image_of_a_batch_is_cropped_and_flipped_in_its_own_way():
    """Each pixel shows its own coordinates, so that the shift and the flip can be read off."""
    size, number = 16, 64
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    picture = torch.stack([rows, columns, torch.full_like(rows, 200)]).to(torch.uint8)
    pictures = picture.expand(number, -1, -1, -1).clone()
    labels = torch.arange(number)
    loaded = InMemory(pictures, labels, pictures, labels, number, shift=2, flip=True, seed=0)
    ((x, y),) = loaded.train_batches(number, 0)
    pixels = (x * loaded.std + loaded.mean).round()
    assert sorted(y.tolist()) == list(range(number))
    seen = set()
    for shown in pixels:
        centre = shown[:, size // 2, size // 2 - 1 : size // 2 + 1]
        assert centre[2].tolist() == [200, 200]  # no border there
        flipped = bool(centre[1, 0] > centre[1, 1])
        column = centre[1, 1] if flipped else centre[1, 0]
        seen.add((int(centre[0, 0]) - size // 2, int(column) - (size // 2 - 1), flipped))
    assert {down for down, _, _ in seen} == {-2, -1, 0, 1, 2}
    assert {right for _, right, _ in seen} == {-2, -1, 0, 1, 2}
    assert {flip for _, _, flip in seen} == {False, True}


@pytest.mark.parametrize("flip", [False, True])
def test_the_batches_of_a_seed_and_epoch_stay_what_they_are(flip):
    """Recorded results rest on these draws and on this arithmetic, written here image by image."""
    pixels = torch.randint(256, (20, 3, 16, 16), dtype=torch.uint8)
    loaded = InMemory(
        pixels, torch.arange(20), pixels, torch.arange(20), 20, shift=2, flip=flip, seed=7
    )
    generator = torch.Generator().manual_seed(stream_seed(7, "data", 3))
    order = torch.randperm(20, generator=generator)
    mean, std = pixels.float().mean((0, 2, 3)), pixels.float().std((0, 2, 3))
    for step, (x, labels) in enumerate(loaded.train_batches(8, 3)):
        shifts = torch.randint(5, (2, 8), generator=generator).T.tolist()
        mirrored = (
            (torch.rand(8, 1, 1, 1, generator=generator) < 0.5).flatten().tolist()
            if flip
            else [False] * 8
        )
        assert torch.equal(labels, order[8 * step : 8 * step + 8])
        for shown, label, (down, right), turned in zip(
            x, labels.tolist(), shifts, mirrored, strict=True
        ):
            padded = torch.zeros(3, 20, 20)
            padded[:, 2:18, 2:18] = pixels[label].float()
            expected = padded[:, down : down + 16, right : right + 16]
            expected = (
                (expected.flip(2) if turned else expected)
                .sub(mean[:, None, None])
                .div(std[:, None, None])
            )
            assert torch.equal(shown, expected)


def memory(tmp_path):
    pixels = torch.randint(256, (23, 3, 16, 16), dtype=torch.uint8)
    return InMemory(
        pixels, torch.arange(23), pixels[:7], torch.arange(7), 23, shift=2, flip=True, seed=0
    )


def streamed(tmp_path):
    image_folder(tmp_path, train=8, held_out=2)  # 24 and 6
    return load(data="image_folder", data_root=str(tmp_path), image_size=80, workers=0)


@pytest.mark.parametrize("made", [memory, streamed])
def test_ranks_share_the_batches_of_one_process(tmp_path, made):
    loaded = made(tmp_path)
    whole = list(loaded.train_batches(6, 1))
    assert len(whole) == loaded.steps(6)
    for world in (2, 3):
        parts = [list(loaded.train_batches(6, 1, rank=rank, world=world)) for rank in range(world)]
        for (x, labels), *shares in zip(whole, *parts, strict=True):
            assert all(len(share) == 6 // world for share, _ in shares)
            assert torch.equal(torch.cat([share for share, _ in shares]), x)
            assert torch.equal(torch.cat([share for _, share in shares]), labels)


@pytest.mark.parametrize("made", [memory, streamed])
def test_an_epoch_that_starts_later_goes_on_as_the_whole_one(tmp_path, made):
    loaded = made(tmp_path)
    whole = list(loaded.train_batches(6, 1))
    for start in (1, 2, len(whole)):
        late = list(loaded.train_batches(6, 1, start=start))
        assert len(late) == len(whole) - start
        for (x, labels), (expected, theirs) in zip(late, whole[start:], strict=True):
            assert torch.equal(x, expected)
            assert torch.equal(labels, theirs)


def test_batches_that_are_passed_over_are_not_decoded(tmp_path, monkeypatch):
    loaded, read = streamed(tmp_path), []
    monkeypatch.setattr("wtkit.images.files.decode", lambda data: read.append(1) or decode(data))
    next(loaded.train_batches(6, 0, start=2, rank=1, world=2))
    assert len(read) == 3


@pytest.mark.parametrize("made", [memory, streamed])
@pytest.mark.parametrize("world", [1, 2, 3, 9])
def test_ranks_share_the_held_out_images(tmp_path, made, world):
    loaded = made(tmp_path)
    expected = all_held_out(loaded)
    shares = [list(loaded.held_out_batches(2, rank=rank, world=world)) for rank in range(world)]
    assert all(1 <= len(x) <= 2 for share in shares for x, _ in share)
    sizes = [sum(len(x) for x, _ in share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    for found, wanted in zip(
        zip(*(batch for share in shares for batch in share), strict=True), expected, strict=True
    ):
        assert torch.equal(torch.cat(found), wanted)


def test_training_images_are_normalised():
    loaded = load(augment="none", batch_size=1437)
    ((x, _),) = loaded.train_batches(1437, 0)
    assert x.mean().abs() < 1e-3
    assert (x.std() - 1).abs() < 1e-2
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_held_out_examples_are_spread_and_always_the_same():
    x, y = load().held_out_examples(50)
    assert len(x) == 50
    assert len(y.unique()) == 10
    assert torch.equal(x, load(seed=3).held_out_examples(50)[0])
    assert len(load().held_out_examples(10_000)[0]) == 360


@pytest.mark.parametrize("image_size", [8, 80], ids=["in memory", "streamed"])
def test_image_folder(tmp_path, image_size):
    image_folder(tmp_path)
    loaded = load(data="image_folder", data_root=str(tmp_path), image_size=image_size, workers=0)
    assert isinstance(loaded, InMemory if image_size == 8 else Streamed)
    assert loaded.num_classes == 3
    x, y = all_held_out(loaded)
    assert x.shape == (18, 3, image_size, image_size)
    assert torch.equal(x.mean((2, 3)).argmax(1), y)  # the colour is the class
    labels = [torch.cat([y for _, y in loaded.train_batches(4, epoch)]) for epoch in (0, 0, 1)]
    assert torch.equal(labels[0], labels[1])
    assert not torch.equal(labels[0], labels[2])
    assert len(loaded.held_out_examples(5)[0]) == 5


def test_streamed_images_are_the_same_for_any_number_of_workers(tmp_path):
    image_folder(tmp_path, train=3, held_out=1)
    settings = {"data": "image_folder", "data_root": str(tmp_path), "image_size": 80}
    batches = [next(load(**settings, workers=workers).train_batches(4, 0))[0] for workers in (0, 2)]
    assert torch.equal(*batches)


def test_some_classes_are_spread_over_all(tmp_path):
    digits, whole = load(classes=5), load()
    for part, labels in (("images", "labels"), ("held_out", "held_out_labels")):
        wanted = getattr(whole, labels) % 2 == 0
        assert torch.equal(getattr(digits, part), getattr(whole, part)[wanted])
        assert torch.equal(2 * getattr(digits, labels), getattr(whole, labels)[wanted])
    assert digits.num_classes == 5

    image_folder(tmp_path / "folder")
    tiny_imagenet(tmp_path)
    for settings in (
        {"data": "image_folder", "data_root": str(tmp_path / "folder"), "image_size": 8},
        {
            "data": "image_folder",
            "data_root": str(tmp_path / "folder"),
            "image_size": 80,
            "workers": 0,
        },
        {"data": "tiny_imagenet", "data_root": str(tmp_path)},
    ):
        loaded = load(**settings, classes=2)
        assert loaded.num_classes == 2
        x, y = all_held_out(loaded)
        assert torch.equal(x.mean((2, 3)).argmax(1), y)
        assert y.unique().tolist() == [0, 1]
        with pytest.raises(
            WtkitError, match=r"setting 'classes': 4 is more than the 3 classes of "
        ):
            load(**settings, classes=4)


def test_tiny_imagenet_reads_the_official_layout(tmp_path):
    tiny_imagenet(tmp_path)
    loaded = load(data="tiny_imagenet", data_root=str(tmp_path))
    assert loaded.images.shape == (12, 3, 64, 64)
    assert loaded.num_classes == 3
    x, y = all_held_out(loaded)
    assert torch.equal(x.mean((2, 3)).argmax(1), y)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_read_as_torchvision_stores_it(tmp_path, monkeypatch, name):
    """The files of the archive, with ten images in each."""
    import torchvision

    kind = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[
        name
    ]
    # its checksums are those of the whole set
    monkeypatch.setattr(kind, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    key, classes = kind.meta["key"], [str(i) for i in range(10 if name == "cifar10" else 100)]
    rng = np.random.default_rng(0)
    for file in [f for f, _ in kind.train_list + kind.test_list]:
        labels = list(range(10))
        entry = {"data": rng.integers(0, 256, (10, 3072), dtype=np.uint8)}
        entry |= {"labels": labels} if name == "cifar10" else {"fine_labels": labels}
        (folder / file).write_bytes(pickle.dumps(entry))
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({key: classes}))
    loaded = load(data=name, data_root=str(tmp_path))
    assert loaded.images.shape[1:] == (3, 32, 32)
    assert loaded.num_classes == len(classes)
    assert loaded.flip


@pytest.mark.parametrize(
    "name", ["cifar10", "cifar100", "tiny_imagenet", "imagenet", "image_folder"]
)
def test_missing_data_say_what_to_do(tmp_path, name):
    with pytest.raises(WtkitError, match=str(tmp_path)) as raised:
        load(data=name, data_root=str(tmp_path))
    text = str(raised.value)
    assert "\n" not in text
    assert any(remedy in text for remedy in ("wtkit data", "curl", "image-net.org", "data_root"))


@pytest.mark.parametrize(
    ("image_size", "workers"), [(8, 0), (80, 0), (80, 1)], ids=["in memory", "streamed", "worker"]
)
def test_a_corrupt_image_is_named(tmp_path, image_size, workers):
    image_folder(tmp_path, train=2, held_out=1)
    corrupt = tmp_path / "train" / "class1" / "0.png"
    corrupt.write_bytes(b"not an image")
    with pytest.raises(WtkitError, match="cannot read the image") as raised:
        loaded = load(
            data="image_folder", data_root=str(tmp_path), image_size=image_size, workers=workers
        )
        list(loaded.train_batches(6, 0))
    assert str(corrupt) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(WtkitError, match="batch_size"):
        load(batch_size=2000)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda root: (root / "val" / "class1").rename(root / "val" / "CLASS1"),
            ["val/CLASS1", "no counterpart"],
        ),
        (lambda root: (root / "train" / "zebra").mkdir(), ["train/zebra", "no counterpart"]),
        (lambda root: shutil.rmtree(root / "val"), ["val/<class>/"]),
        (
            lambda root: [path.unlink() for path in (root / "val" / "class1").iterdir()],
            ["val/class1", "no images"],
        ),
        (
            lambda root: [
                shutil.rmtree(root / part / f"class{c}")
                for part in ("train", "val")
                for c in (1, 2)
            ],
            ["two"],
        ),
    ],
)
@pytest.mark.parametrize("image_size", [8, 80], ids=["in memory", "streamed"])
def test_classes_that_do_not_match_are_named(tmp_path, spoil, words, image_size):
    spoil(image_folder(tmp_path))
    with pytest.raises(WtkitError) as raised:
        load(data="image_folder", data_root=str(tmp_path), image_size=image_size, workers=0)
    assert all(word in str(raised.value) for word in words)


def test_hidden_folders_are_no_classes(tmp_path):
    (image_folder(tmp_path) / "train" / ".ipynb_checkpoints").mkdir()
    assert load(data="image_folder", data_root=str(tmp_path), image_size=8).num_classes == 3


def test_an_image_of_16_bits_is_refused(tmp_path):
    image_folder(tmp_path)
    path = tmp_path / "train" / "class1" / "0.png"
    Image.fromarray(np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)).save(path)
    with pytest.raises(WtkitError, match=r"0\.png: its mode is I;16, expected 8 bits a channel"):
        load(data="image_folder", data_root=str(tmp_path), image_size=8)


def test_too_few_images_are_said(tmp_path):
    image_folder(tmp_path, train=1, held_out=1)
    settings = {
        "data": "image_folder",
        "data_root": str(tmp_path),
        "image_size": 8,
        "batch_size": 2,
    }
    with pytest.raises(WtkitError, match="setting 'evaluate_on': too few training images"):
        load(**settings, evaluate_on="validation")


def test_workers_stay_from_pass_to_pass_and_a_pass_may_be_left(tmp_path):
    image_folder(tmp_path, train=8, held_out=2)
    settings = {"data": "image_folder", "data_root": str(tmp_path), "image_size": 80}
    expected = [
        [x for x, _ in load(**settings, workers=0).train_batches(4, epoch)] for epoch in range(2)
    ]
    loaded = load(**settings, workers=2)
    left = loaded.train_batches(4, 0)
    assert torch.equal(next(left)[0], expected[0][0])
    workers = {worker.pid for worker in loaded.train.loader._iterator._workers}
    for epoch in range(2):
        assert all(
            map(torch.equal, [x for x, _ in loaded.train_batches(4, epoch)], expected[epoch])
        )
    assert {worker.pid for worker in loaded.train.loader._iterator._workers} == workers
    with pytest.raises(RuntimeError, match="another pass"):
        list(left)


def test_an_image_in_four_inks_has_the_colours_that_pillow_gives_it(tmp_path):
    image_folder(tmp_path)
    path = tmp_path / "val" / "class0" / "0.jpg"
    Image.radial_gradient("L").convert("CMYK").save(path)
    loaded = load(data="image_folder", data_root=str(tmp_path), image_size=80)
    place = loaded.test.images.paths.index(path)
    shown = loaded.test.images.decoded(place).permute(1, 2, 0).numpy()
    assert np.array_equal(shown, np.array(Image.open(path).convert("RGB")))


def test_streamed_images_are_decoded_by_pillow_and_cropped_by_torchvision_as_far_as_pixels_go(
    tmp_path,
):
    """The draws and the arithmetic of every release, with neither our decoder nor our crop."""
    root, size = image_folder(tmp_path, train=2, held_out=1, size=50), 72
    Image.radial_gradient("L").convert("RGB").resize((90, 130)).save(
        root / "train" / "class0" / "0.jpg"
    )
    loaded = load(data="image_folder", data_root=str(root), image_size=size, workers=0, seed=5)
    paths = sorted((root / "train").rglob("*.*"))
    generator = torch.Generator().manual_seed(stream_seed(5, "data", 2))
    order = torch.randperm(len(paths), generator=generator).tolist()
    seed = int(torch.randint(2**62, (), generator=generator))
    crop = v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    shown = torch.cat([x for x, _ in loaded.train_batches(3, 2)])
    assert len(shown) == 6
    for i, x in enumerate(shown):
        pixels = torch.from_numpy(np.array(Image.open(paths[order[i]]).convert("RGB"))).permute(
            2, 0, 1
        )
        torch.manual_seed(stream_seed(seed, i))
        assert torch.equal(
            x, (crop(pixels) - 255 * mean[:, None, None]) / (255 * std[:, None, None])
        )
