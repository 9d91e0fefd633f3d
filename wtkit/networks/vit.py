"""A vision transformer of any size, for small images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import WtkitError
from ..experiments import ViT


class VisionTransformer(nn.Module):
    """Patches as tokens, pre-norm encoder layers, and a Linear layer on the mean over tokens.

    The architecture of Dosovitskiy et al. (2021) without a class token, as in Beyer et al. (2022),
    "Better plain ViT baselines for ImageNet-1k"; of torch's own modules, so that all its layers can
    be converted. Their initialisation is torch's; positions are drawn from N(0, 0.02²).

    Shapes: images (N, 3, H, W) to logits (N, ``num_classes``); tokens are (N, H·W / patch²,
    width).

    Args:
        options: the sizes.
        num_classes: the number of logits.
        image_size: height and width of the images.

    Raises:
        WtkitError: for images that patches do not fill.

    Example:
        >>> model = VisionTransformer(ViT(depth=1, width=32), num_classes=10, image_size=8)
        >>> model(torch.randn(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, options: ViT, *, num_classes: int, image_size: int) -> None:
        super().__init__()
        if image_size % options.patch:
            raise WtkitError(
                f"network 'vit': images of {image_size} pixels are not filled by patches of "
                f"{options.patch}; take a 'patch' that divides the image_size"
            )
        width = options.width
        self.patches = nn.Conv2d(3, width, options.patch, stride=options.patch)
        self.positions = nn.Embedding((image_size // options.patch) ** 2, width)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    width, options.heads, round(options.mlp_ratio * width), options.dropout,
                    activation="gelu", batch_first=True, norm_first=True,
                )
                for _ in range(options.depth)
            )
        )  # fmt: skip
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).flatten(2).transpose(1, 2)
        if y.shape[1] != self.positions.num_embeddings:
            raise ValueError(f"expected {self.positions.num_embeddings} patches, got {y.shape[1]}")
        y = y + self.positions(torch.arange(y.shape[1], device=y.device))
        return self.head(self.norm(self.blocks(y)).mean(1))
