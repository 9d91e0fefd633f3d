"""ImageNet's ILSVRC2012."""

import shlex

from .base import DataSet, Reading, Wanted


def read(wanted: Wanted) -> Reading:
    from ..images import stored_images

    root = wanted.root / "imagenet"
    how = (
        "get ILSVRC2012 from https://image-net.org (free registration), unpack it there with one "
        f"folder a class, or link it: ln -s /where/it/is {shlex.quote(str(root))}"
    )
    return Reading(*stored_images(root, wanted.choose, how))


DATA_SET = DataSet(
    label="ImageNet",
    read=read,
    image_size=224,
    classes=1000,
    training=1_281_167,
    held_out=50_000,
    streams=lambda size: True,
)
