"""A folder of images of the user's own, with ``train/<class>/`` and ``val/<class>/``."""

from .base import DataSet, Reading, Wanted

IN_MEMORY_PIXELS = 64  # larger images are streamed


def read(wanted: Wanted) -> Reading:
    from ..images import stored_images

    how = "put your images there, or name another folder with data_root"
    return Reading(*stored_images(wanted.root, wanted.choose, how))


DATA_SET = DataSet(
    label="images", read=read, image_size=224, streams=lambda size: size > IN_MEMORY_PIXELS
)
