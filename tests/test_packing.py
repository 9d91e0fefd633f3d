import errno
import fcntl
import hashlib
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import psutil
import pytest
import torch
from images import image_folder
from PIL import Image
from torchvision.transforms.v2.functional import resize

import wtkit
from wtkit import data
from wtkit.__main__ import main
from wtkit.errors import WtkitError
from wtkit.experiments import RunConfig
from wtkit.images import open_pack, pack, packing


def load(root, **settings):
    defaults = {
        "method": "backprop",
        "batch_size": 4,
        "data": "image_folder",
        "data_root": str(root),
        "workers": 0,
    }
    return data.load(RunConfig(**defaults | settings))


def contents(target):
    return {path.name: path.read_bytes() for path in sorted(target.iterdir())}


def refused(call, *arguments, **options):
    """The message with which it refuses: one line for a person."""
    with pytest.raises(WtkitError) as raised:
        call(*arguments, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.fixture
def source(tmp_path):
    """Three classes, 12 and 6 images of 8×8 pixels in each."""
    return image_folder(tmp_path / "source")


@pytest.mark.parametrize(
    "settings", [{"image_size": 8}, {"image_size": 80}, {"image_size": 80, "classes": 2}]
)
@pytest.mark.parametrize("evaluate_on", ["test", "validation"])
def test_a_pack_is_read_in_the_folders_place(tmp_path, source, settings, evaluate_on):
    pack(source, tmp_path / "pack", shard_images=5, workers=0)
    folder, packed = (
        load(root, evaluate_on=evaluate_on, **settings) for root in (source, tmp_path / "pack")
    )
    assert packed.num_classes == folder.num_classes
    for batches in ("train_batches", "held_out_batches"):
        epoch = (1,) if batches == "train_batches" else ()
        for ours, theirs in zip(
            getattr(packed, batches)(4, *epoch), getattr(folder, batches)(4, *epoch), strict=True
        ):
            assert all(map(torch.equal, ours, theirs))


def test_imagenet_is_read_from_a_pack(tmp_path, source):
    assert main(["data", "pack", str(source), str(tmp_path / "imagenet"), "--workers", "0"]) == 0
    assert load(tmp_path, data="imagenet").num_classes == 3
    assert main(["data", "imagenet", "--data-root", str(tmp_path)]) == 0


def test_large_images_are_shrunk_and_others_kept(tmp_path):
    source = image_folder(tmp_path / "source", classes=2, train=2, held_out=1, size=40)
    wide = Image.linear_gradient("L").resize((120, 60)).convert("RGB")
    wide.save(source / "train" / "class1" / "wide.JPEG", quality=95)
    wide.save(source / "train" / "class1" / "wide.png")
    pack(source, tmp_path / "pack", short_side=40, workers=1)
    with tarfile.open(tmp_path / "pack" / "train-00000.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    assert list(members) == [
        *(f"class{label}/{i}.png" for label in range(2) for i in range(2)), "class1/wide.JPEG",
        "class1/wide.png.jpg"
    ]  # fmt: skip
    assert members["class0/1.png"] == (source / "train" / "class0" / "1.png").read_bytes()
    images, _, _ = open_pack(tmp_path / "pack", lambda number: {i: i for i in range(number)})
    assert images.labels == [0, 0, 1, 1, 1, 1]
    whole = (
        torch.frombuffer(bytearray(wide.tobytes()), dtype=torch.uint8)
        .view(60, 120, 3)
        .permute(2, 0, 1)
    )
    for place, name in ((4, "class1/wide.JPEG"), (5, "class1/wide.png.jpg")):
        assert images.read(place) == members[name]
        assert Image.open(io.BytesIO(members[name])).format == "JPEG"
        shown = images.decoded(place)
        assert shown.shape == (3, 40, 80)
        assert (shown.float() - resize(whole, [40], antialias=True).float()).abs().mean() < 2


def test_the_manifest_has_the_checksums(tmp_path, source):
    said = pack(source, tmp_path / "pack", shard_images=20, workers=0)
    assert "54 images in 3 shards" in said
    manifest = json.loads((tmp_path / "pack" / "pack.json").read_text())
    assert manifest["classes"] == ["class0", "class1", "class2"]
    sums = {
        f"{part}.npy": described["index_sha256"] for part, described in manifest["parts"].items()
    }
    sums |= {
        shard["file"]: shard["sha256"]
        for part in manifest["parts"].values()
        for shard in part["shards"]
    }
    files = contents(tmp_path / "pack")
    assert {
        name: hashlib.sha256(data).hexdigest()
        for name, data in files.items()
        if name not in (".lock", "pack.json")
    } == sums


@pytest.mark.slow
def test_a_pack_that_is_killed_resumes_and_ends_in_the_same_bytes(tmp_path):
    source = image_folder(tmp_path / "source", train=60, held_out=2, size=200)
    pack(source, tmp_path / "whole", short_side=100, shard_images=20, workers=0)
    command = [
        "data",
        "pack",
        str(source),
        str(tmp_path / "killed"),
        "--short-side",
        "100",
        "--shard-images",
        "20",
    ]
    process = subprocess.Popen([sys.executable, "-m", "wtkit", *command, "--workers", "1"])
    third = tmp_path / "killed" / "train-00002.tar"
    while not third.exists():
        assert process.poll() is None
        time.sleep(0.01)
    workers = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, left = psutil.wait_procs(workers, timeout=5)
    assert workers and not left, "workers end with their parent"
    finished = {path: path.stat().st_mtime_ns for path in third.parent.glob("*.tar")}
    assert len(finished) < 10
    assert "unfinished pack; finish it with: wtkit data pack" in refused(load, third.parent)
    assert main(command) == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    # and were not made again
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def flip(path):
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: os.truncate(path, 2000), flip])
@pytest.mark.parametrize("file", ["train-00001.tar", "val-00000.tar", "train.npy"])
def test_the_same_command_mends_what_is_damaged(tmp_path, source, spoil, file):
    pack(source, tmp_path / "pack", shard_images=15, workers=0)
    whole = contents(tmp_path / "pack")
    spoil(tmp_path / "pack" / file)
    if (
        spoil is not flip or file == "train.npy"
    ):  # a shard's checksum is compared when it is packed, not when it is read
        text = refused(load, tmp_path / "pack")
        assert file in text
        assert f"mend the pack with: wtkit data pack {source} {tmp_path / 'pack'}" in text
    pack(source, tmp_path / "pack", shard_images=15, workers=0)
    assert contents(tmp_path / "pack") == whole


def test_an_image_that_was_replaced_is_packed_again(tmp_path, source):
    target = tmp_path / "pack"
    pack(source, target, shard_images=15, workers=0)
    before = {path.name: path.stat().st_mtime_ns for path in target.glob("*.tar")}
    images = sorted((source / "train").rglob("*.png"))
    Image.new("RGB", (8, 8), "red").save(images[20])
    os.utime(images[30], (1, 1))  # changed, to the same bytes
    pack(source, target, shard_images=15, workers=0)
    after = {path.name: path.stat().st_mtime_ns for path in target.glob("*.tar")}
    assert [name for name in before if before[name] != after[name]] == [
        "train-00001.tar",
        "train-00002.tar",
    ]
    train, _, _ = open_pack(target, lambda count: {i: i for i in range(count)})
    assert train.read(20) == images[20].read_bytes()


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="only Linux has a device that is always full"
)
def test_a_full_disk_is_said_and_finished_shards_stay(tmp_path, source, monkeypatch):
    pack(source, tmp_path / "whole", shard_images=15, workers=0)
    target = tmp_path / "pack"
    target.mkdir()

    write = packing.write_shard

    def full(members):
        yield from itertools.islice(members, 3)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill(path, members, advance):
        return write(path, full(members) if path.name == "train-00001.tar" else members, advance)

    with monkeypatch.context() as patch:
        patch.setattr("wtkit.images.packing.write_shard", fill)
        text = refused(pack, source, target, shard_images=15, workers=0)
    assert "No space left on device" in text
    assert "give the same command again" in text
    assert [path.name for path in sorted(target.iterdir())] == [
        ".lock",
        "pack.json",
        "train-00000.tar",
    ]
    pack(source, target, shard_images=15, workers=0)
    assert contents(target) == contents(tmp_path / "whole")


def test_a_target_that_cannot_be_written_is_said(tmp_path, source):
    # root may write wherever it is possible
    parent = Path("/sys/kernel") if os.geteuid() == 0 else tmp_path / "closed"
    if os.geteuid():
        parent.mkdir(mode=0o555)
    text = refused(pack, source, parent / "pack", workers=0)
    assert f"cannot write {parent / 'pack'}: " in text
    assert "name a folder that can be written" in text


@pytest.mark.parametrize(
    ("spoil", "options", "words"),
    [
        (lambda source, target: None, {"short_side": 128}, ["short_side is 256", "name another "
                                                                                 "folder"]),
        (lambda source, target: None, {"quality": 80}, ["quality is 90", "name another folder"]),
        (lambda source, target: (source / "val" / "class1" / "0.png").unlink(), {}, ["a pack of "
                                                                                     "other "
                                                                                     "images"]),
        (lambda source, target: (target / "pack.json").unlink(), {},
            ["else than a pack", "an empty folder"]),
        (lambda source, target: (target / "pack.json").write_text('{"format": 1, '), {},
            ["pack.json", "new folder"]),
        (lambda source, target: (target / "pack.json").write_text('{"format": 2}'), {}, ["format "
                                                                                         "is 2, "
                                                                                         "expected "
                                                                                         "1"]),
    ],
)  # fmt: skip
def test_what_is_not_this_pack_is_left_alone(tmp_path, source, spoil, options, words):
    target = tmp_path / "pack"
    pack(source, target, workers=0)
    spoil(source, target)
    before = contents(target)
    text = refused(pack, source, target, workers=0, **options)
    assert all(word in text for word in words)
    assert contents(target) == before


@pytest.mark.parametrize("where", [".", "pack", "train/pack", "linked"])
def test_a_folder_is_not_packed_into_itself(source, where):
    """Its next pack would find the last one among the images."""
    (source / "linked").symlink_to(source / "train")
    before = sorted(source.rglob("*"))
    text = refused(pack, source, source / where, workers=0)
    assert "the folder that is packed; name a folder outside" in text
    assert sorted(source.rglob("*")) == before


def test_a_manifest_that_lacks_something_is_named(tmp_path, source):
    target = tmp_path / "pack"
    pack(source, target, workers=0)
    whole = json.loads((target / "pack.json").read_text())
    for key in whole:
        if key not in ("parts", "names_sha256"):
            left = {name: value for name, value in whole.items() if name != key}
            (target / "pack.json").write_text(json.dumps(left))
            assert f"{target}/pack.json" in refused(load, target)
    (target / "pack.json").write_text(json.dumps(whole | {"shard_images": 10**30}))
    assert "'shard_images': " in refused(load, target)
    for content in ("[" * 10**5, "\x00", '{"format": 1}', "[]", "null"):
        (target / "pack.json").write_text(content)
        assert f"{target}/pack.json" in refused(load, target)
    shards = whole["parts"]["train"]["shards"]
    for parts in (None, {}, {"train": whole["parts"]["train"]}):
        (target / "pack.json").write_text(json.dumps(whole | {"parts": parts}))
        assert f"{target}/pack.json" in refused(load, target)
    for spoilt in ({}, {"shards": 3}, {"shards": [{}]}, {"shards": [shards[0] | {"file": "../x"}]}):
        whole["parts"]["train"] = spoilt
        (target / "pack.json").write_text(json.dumps(whole))
        assert f"{target}/pack.json" in refused(load, target)


def test_two_do_not_pack_into_one_folder(tmp_path, source):
    target = tmp_path / "pack"
    target.mkdir()
    with open(target / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another process is packing into" in refused(pack, source, target, workers=0)
    pack(source, target, workers=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named_before_it_is_packed(tmp_path, source, workers):
    corrupt = source / "train" / "class1" / "0.png"
    corrupt.write_bytes(corrupt.read_bytes()[:100])
    text = refused(pack, source, tmp_path / "pack", workers=workers)
    assert f"cannot read the image {corrupt}: " in text
    assert "replace or remove it" in text


@pytest.mark.slow
def test_a_shard_that_is_cut_off_ends_a_run_with_its_finished_epochs_intact(tmp_path, source):
    target = tmp_path / "pack"
    pack(source, target, shard_images=12, workers=0)
    run = RunConfig(
        method="backprop", data="image_folder", data_root=str(target), image_size=65, workers=1,
        stem="imagenet", epochs=2, batch_size=12, delta_examples=2,
    )  # fmt: skip
    whole = wtkit.train(run, quiet=True)

    def cut(so_far):
        if so_far.sizes["epoch"] == 2:  # before training, and the first
            os.truncate(target / "train-00002.tar", 3000)

    text = refused(wtkit.train, run, tmp_path / "run", quiet=True, on_epoch=cut)
    assert f"cannot read the image {target / 'train-00002.tar'} at byte " in text
    assert "the shard is cut off" in text
    assert "mend the pack with: wtkit data pack" in text
    pack(source, target, shard_images=12, workers=0)
    seen = []
    resumed = wtkit.train(
        run, tmp_path / "run", quiet=True, on_epoch=lambda run: seen.append(run.sizes["epoch"])
    )
    assert seen == [3]  # only the second epoch was trained again
    assert torch.equal(
        *(torch.from_numpy(run["train_loss"].values[1:]) for run in (whole, resumed))
    )
