"""Small folders of images, made up: each class is a colour under noise."""

from pathlib import Path

import torch
from PIL import Image


def image(label: int, generator: torch.Generator, size: int) -> Image.Image:
    noise = torch.randint(0, 120, (3, size, size), generator=generator)
    noise[label % 3] += 120
    return Image.fromarray(noise.to(torch.uint8).permute(1, 2, 0).numpy())


def image_folder(
    root: Path, *, classes: int = 3, train: int = 12, held_out: int = 6, size: int = 8
) -> Path:
    """``root/train/<class>/*.png`` and ``root/val/<class>/*.png``, as torchvision's ImageFolder has
    it."""
    generator = torch.Generator().manual_seed(0)
    for part, number in (("train", train), ("val", held_out)):
        for label in range(classes):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(number):
                image(label, generator, size).save(folder / f"{i}.png")
    return root


def tiny_imagenet(
    root: Path, *, classes: int = 3, train: int = 4, held_out: int = 2, size: int = 64
) -> Path:
    """The layout of the official Tiny ImageNet archive, in ``root/tiny-imagenet-3``."""
    generator = torch.Generator().manual_seed(0)
    base = root / f"tiny-imagenet-{classes}"
    wnids = [f"n{label:08d}" for label in range(classes)]
    (base / "val" / "images").mkdir(parents=True)
    # the official file is not sorted either
    (base / "wnids.txt").write_text("\n".join(reversed(wnids)) + "\n")
    lines = []
    for label, wnid in enumerate(wnids):
        (base / "train" / wnid / "images").mkdir(parents=True)
        for i in range(train):
            image(label, generator, size).save(
                base / "train" / wnid / "images" / f"{wnid}_{i}.JPEG"
            )
        for i in range(held_out):
            name = f"val_{label}_{i}.JPEG"
            image(label, generator, size).save(base / "val" / "images" / name)
            lines.append(f"{name}\t{wnid}\t0\t0\t62\t62")
    (base / "val" / "val_annotations.txt").write_text("\n".join(reversed(lines)) + "\n")
    return root
