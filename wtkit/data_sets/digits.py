"""scikit-learn's 1,797 scans of 8×8 pixels and 17 grey levels."""

from .base import DataSet, Reading, Wanted


def read(wanted: Wanted) -> Reading:
    """A fixed stratified fifth is held out."""
    import torch
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from torch.nn import functional as F

    digits = load_digits()
    grey = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
    resized = F.interpolate(grey, size=(wanted.size, wanted.size), mode="bilinear")
    images = resized.round().to(torch.uint8)[:, 0]
    labels = torch.from_numpy(digits.target).long()
    train, held_out = train_test_split(
        range(len(labels)), test_size=360, stratify=digits.target, random_state=0
    )
    first, second = ((images[part], labels[part]) for part in (sorted(train), sorted(held_out)))
    return Reading(first, second, classes=10)


DATA_SET = DataSet(
    label="digits",
    read=read,
    image_size=32,
    classes=10,
    training=1_437,
    held_out=360,
    augment="crop",  # a mirrored digit is another digit, or none
)
