"""Files of strangers: which of them are images, and what is refused before it is decoded."""

import io
import os
import struct
import zlib

import pytest
from images import image_folder, tiny_imagenet
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from wtkit import data
from wtkit.errors import WtkitError
from wtkit.experiments import RunConfig
from wtkit.images import decode, pack


def load(root, name="image_folder", **settings):
    return data.load(
        RunConfig(
            **{"method": "backprop", "batch_size": 2, "image_size": 8, "workers": 0} | settings,
            data=name,
            data_root=str(root),
        )
    )


def refused(call, *arguments, **options):
    with pytest.raises(WtkitError) as raised:
        call(*arguments, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def saved(kind, size=(8, 8), mode="RGB", **options):
    made = io.BytesIO()
    Image.new(mode, size).save(made, kind, **options)
    return made.getvalue()


# ------------------------------------------------------------------------------- which are images


@pytest.fixture
def root(tmp_path):
    """Three classes, two and one images in each."""
    return image_folder(tmp_path / "images", train=2, held_out=1)


def numbers(root, **settings):
    loaded = load(root, **settings)
    return loaded.steps(1), loaded.number_held_out


def test_a_plain_folder_has_no_note(root):
    assert numbers(root) == (6, 3)
    assert load(root).note == ""


def test_what_is_passed_over_is_counted_with_the_reason(root, tmp_path):
    where = root / "train" / "class0"
    for i, suffix in enumerate(["bmp"] * 3 + ["ppm"] * 2):
        (where / f"{i}.{suffix}").write_bytes(saved("BMP"))
    for hidden in (where / ".ipynb_checkpoints", where / ".ipynb_checkpoints" / "deeper"):
        hidden.mkdir()
        (hidden / "0-checkpoint.png").write_bytes(saved("PNG"))
    (where / "._0.png").write_bytes(b"what macOS leaves there")
    (where / "README").touch()
    (root / "train" / "astray.png").write_bytes(saved("PNG"))
    note = (
        f"{root}/: passed over 9 files: 3 .bmp, 2 hidden, 2 .ppm, 1 in no class, 1 without suffix; "
        "images are .jpg, .jpeg, .png, .webp, .gif"
    )
    assert numbers(root) == (6, 3)
    loaded = load(root)
    assert sorted(loaded.note) == sorted(note)
    assert pack(root, tmp_path / "pack", workers=0).splitlines()[1] == loaded.note


def test_linked_folders_and_files_are_read_and_a_loop_ends(root, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for i in range(3):
        (elsewhere / f"{i}.JPG").write_bytes(saved("JPEG"))
    where = root / "train" / "class0"
    (where / "more").symlink_to(elsewhere)
    (where / "linked.png").symlink_to(where / "0.png")
    (elsewhere / "back").symlink_to(where)
    assert numbers(root) == (10, 3)
    assert "passed over 1 file: 1 folder linked twice" in load(root).note
    pack(root, tmp_path / "pack", workers=0)
    assert numbers(tmp_path / "pack") == (10, 3)


@pytest.mark.parametrize("kind", ["broken link", "pipe"])
def test_what_only_looks_like_an_image_is_named_and_not_waited_for(root, kind):
    path = root / "train" / "class0" / "9.png"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere")
    assert f"cannot read the image {path}: " in refused(load, root)


def test_a_class_that_is_there_twice_is_refused(root):
    for part in ("train", "val"):
        (root / part / "class9").symlink_to(root / part / "class0")
    text = refused(load, root)
    assert "class0 and" in text and "class9 are one folder, or have one name" in text


def test_a_class_by_one_name_in_two_forms_is_refused(root):
    for part in ("train", "val"):
        for name in ("caf\u00e9", "cafe\u0301"):
            (root / part / name).mkdir()
    assert "are one folder, or have one name; remove one of them" in refused(load, root)


def test_held_out_images_that_are_the_training_images_are_refused(root):
    for label in range(3):
        for path in (root / "val" / f"class{label}").iterdir():
            path.unlink()
        (root / "val" / f"class{label}").rmdir()
    (root / "val").rmdir()
    (root / "val").symlink_to("train")
    assert "are one folder" in refused(load, root)


# ------------------------------------------------------------------------------------ what is read


def png_chunk(kind, content):
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def png(width, height):
    """A few bytes that claim to be so large an image."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = png_chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + data


def jpeg(width, height):
    made = bytearray(saved("JPEG"))
    place = made.index(b"\xff\xc0") + 5
    made[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(made)


def gif(width, height):
    made = bytearray(saved("GIF"))
    made[6:10] = struct.pack("<HH", width, height)
    return bytes(made)


def with_long_text():
    text = PngInfo()
    text.add_text("comment", "x" * 3_000_000, zip=True)
    return saved("PNG", pnginfo=text)


EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    b"%%BeginPreview: 9 9 8 1\n%%EndPreview\nshowpage\n%%EOF\n"
)
STRANGE = {
    "a small JPEG that claims 900 million pixels": (jpeg(30_000, 30_000), "30,000 × 30,000 pixels"),
    "a small PNG that claims 324 million": (png(18_000, 18_000), "images of up to 89,478,485"),
    "a small PNG that claims 100 million": (png(10_000, 10_000), "10,000 × 10,000 pixels"),
    "a GIF": (gif(60_000, 60_000), "images of up to 89,478,485 pixels are read, so shrink it"),
    "a PNG with a long text": (with_long_text(), ""),
    "an EPS": (EPS, "it is no image in one of the formats JPEG, PNG, WEBP, GIF"),
    "a BMP": (saved("BMP"), "it is no image in one of the formats"),
    "a TIFF": (saved("TIFF"), "it is no image in one of the formats"),
    "a cut PNG": (saved("PNG", (99, 99))[:70], ""),
    "a cut JPEG": (saved("JPEG", (99, 99))[:400], ""),
    "a cut WebP": (saved("WEBP", (99, 99))[:30], ""),
    "a cut GIF": (saved("GIF", (99, 99))[:30], ""),
    "nothing": (b"", "it is no image"),
    "an IHDR alone": (png(1, 1)[:20], ""),
}


@pytest.mark.parametrize("packed", [False, True], ids=["trained on", "packed"])
@pytest.mark.parametrize(("content", "words"), STRANGE.values(), ids=STRANGE)
def test_what_cannot_be_decoded_is_named(root, tmp_path, content, words, packed):
    path = root / "train" / "class0" / "0.jpg"
    path.write_bytes(content)
    call = (pack, root, tmp_path / "pack") if packed else (load, root)
    text = refused(*call, workers=0)
    assert text.startswith(f"cannot read the image {path}: ")
    assert words in text and text.endswith("; replace or remove it")


def test_a_flipped_byte_is_read_or_named(root):
    path = root / "train" / "class0" / "0.png"
    for kind in ("PNG", "JPEG", "WEBP", "GIF"):
        whole = saved(kind, (40, 40))
        for place in range(0, len(whole), max(1, len(whole) // 40)):
            damaged = bytearray(whole)
            damaged[place] ^= 0xFF
            path.write_bytes(damaged)
            try:
                load(root)
            except WtkitError as error:
                assert str(path) in str(error)


def test_the_largest_image_is_that_of_pillows_warning():
    from wtkit.images.files import MAX_PIXELS

    assert MAX_PIXELS == Image.MAX_IMAGE_PIXELS
    assert decode(saved("PNG", (300, 200))).shape == (3, 200, 300)


# ------------------------------------------------------------------------------------ Tiny ImageNet


@pytest.fixture
def tiny(tmp_path):
    return tiny_imagenet(tmp_path) / "tiny-imagenet-3"


def load_tiny(base):
    return load(base.parent, "tiny_imagenet", image_size=64)


ENCODED = {
    "byte order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "blank lines": lambda text: ("\n" + text + "\n  \n\n").encode(),
    "no end of the last line": lambda text: text.rstrip("\n").encode(),
    "all": lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n\r\n").encode(),
}


@pytest.mark.parametrize("encode", ENCODED.values(), ids=ENCODED)
def test_text_files_are_read_whatever_wrote_them(tiny, encode):
    whole = load_tiny(tiny)
    for path in (tiny / "wnids.txt", tiny / "val" / "val_annotations.txt"):
        path.write_bytes(encode(path.read_text()))
    loaded = load_tiny(tiny)
    assert loaded.note == ""
    assert loaded.images.equal(whole.images) and loaded.labels.equal(whole.labels)
    assert loaded.held_out.equal(whole.held_out)
    assert loaded.held_out_labels.equal(whole.held_out_labels)


SPOILT = {
    "one class's images one folder up": (
        lambda base: [
            path.rename(base / "train" / "n00000001" / path.name)
            for path in (base / "train" / "n00000001" / "images").iterdir()
        ],
        "no images of the class n00000001 in ",
    ),
    "a class without its folder": (
        lambda base: (base / "train" / "n00000001").rename(base / "train" / "other"),
        "n00000001",
    ),
    "a class that is not held out": (
        lambda base: (base / "val" / "val_annotations.txt").write_text(
            "val_0_0.JPEG\tn00000000\nval_1_0.JPEG\tn00000001\n"
        ),
        "no images of the class n00000002 in ",
    ),
    "a class named twice": (
        lambda base: (base / "wnids.txt").write_text("n00000000\nn00000001\nn00000001\n"),
        "'n00000001' is no folder's name, or there twice",
    ),
    "a class that leaves the folder": (
        lambda base: (base / "wnids.txt").write_text("n00000000\n../../..\n"),
        "is no folder's name",
    ),
    "an image that leaves the folder": (
        lambda base: (base / "val" / "val_annotations.txt").write_text("../../x\tn00000000\n"),
        "got '../../x",
    ),
    "an image annotated twice": (
        lambda base: (base / "val" / "val_annotations.txt").write_text("a\tn00000000\n" * 2),
        "for each image, once",
    ),
    "another encoding": (
        lambda base: (base / "wnids.txt").write_bytes("n00000000\n".encode("utf-16")),
        "cannot read ",
    ),
    "a pipe": (
        lambda base: ((base / "wnids.txt").unlink(), os.mkfifo(base / "wnids.txt")),
        "it is a folder, a pipe or a device",
    ),
    "a line of one word": (
        lambda base: (base / "val" / "val_annotations.txt").write_text("val_0_0.JPEG\n"),
        "got 'val_0_0.JPEG'",
    ),
}


@pytest.mark.parametrize(("spoil", "words"), SPOILT.values(), ids=SPOILT)
def test_tiny_imagenet_laid_out_otherwise_is_refused(tiny, spoil, words):
    spoil(tiny)
    text = refused(load_tiny, tiny)
    assert words in text and str(tiny) in text


def test_tiny_imagenets_stray_images_are_counted(tiny):
    (tiny / "train" / "n00000000" / "astray.JPEG").write_bytes(saved("JPEG"))
    (tiny / "train" / "n00000000" / "n00000000_boxes.txt").touch()
    (tiny / "val" / "images" / "val_9.JPEG").write_bytes(saved("JPEG"))
    note = load_tiny(tiny).note
    assert "passed over 2 files: 1 outside of images/, 1 without annotation" in note
