"""The images of a folder, whether packed or in a folder for each class."""

from collections.abc import Callable
from pathlib import Path

from .files import Images
from .folders import Passed, folder, folder_classes
from .packed import is_pack, open_pack


def stored_images(
    root: Path, choose: Callable[[int], dict[int, int]], how: str
) -> tuple[Images, Images, int]:
    """The training and held-out images in ``root``, and the number of classes.

    Args:
        choose: from the number of classes there, which to use and the label of each.
        how: the fix that the error names if there are none.
    """
    if is_pack(root):
        return open_pack(root, choose)
    passed = Passed()
    classes = folder_classes(root, how, passed)
    chosen = choose(len(classes))
    return *folder(root, classes, chosen, passed), len(chosen)
