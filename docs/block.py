"""Draw docs/block.svg, the residual blocks under both orders of BatchNorm and ReLU: python
docs/block.py"""

import itertools
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

# (block, norm order): the path from the input up, and the shortcut where the block changes the
# shape of its input; "3×3" is a convolution with kernels of that size. tests/test_block.py holds
# this to wtkit/networks/resnet.py.
BLOCKS = {
    ("BasicBlock", "relu_bn"): ("3×3 ReLU BatchNorm 3×3 ReLU BatchNorm +", "1×1 ReLU BatchNorm"),
    ("BasicBlock", "bn_relu"): ("3×3 BatchNorm ReLU 3×3 BatchNorm + ReLU", "1×1 BatchNorm"),
    ("Bottleneck", "relu_bn"): (
        "1×1 ReLU BatchNorm 3×3 ReLU BatchNorm 1×1 ReLU BatchNorm +",
        "1×1 ReLU BatchNorm",
    ),
    ("Bottleneck", "bn_relu"): (
        "1×1 BatchNorm ReLU 3×3 BatchNorm ReLU 1×1 BatchNorm + ReLU",
        "1×1 BatchNorm",
    ),
}
FILL = {"×": "#cfe0f3", "ReLU": "#fbe3c0", "BatchNorm": "#d9ead3", "+": "#ffffff"}
STEP, WIDTH, HEIGHT, ASIDE = 0.62, 1.25, 0.4, 1.55


def box(axes: Axes, x: float, y: float, word: str, dashed: bool = False) -> None:
    width = HEIGHT if word == "+" else WIDTH
    style = "circle,pad=0" if word == "+" else "round,pad=0,rounding_size=0.08"
    corner = (x - width / 2, y - HEIGHT / 2)
    look = {
        "facecolor": FILL["×" if "×" in word else word],
        "edgecolor": "black",
        "ls": "--" if dashed else "-",
    }
    axes.add_patch(FancyBboxPatch(corner, width, HEIGHT, style, lw=0.9, **look))
    axes.text(
        x, y, f"{word} conv" if "×" in word else word, ha="center", va="center_baseline", fontsize=8
    )


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    look = {"arrowstyle": "-|>", "mutation_scale": 8, "color": "black", "lw": 0.9}
    axes.add_patch(FancyArrowPatch(start, end, shrinkA=0, shrinkB=0, **look))


def stack(
    axes: Axes, x: float, words: list[str], start: float, dashed: bool = False
) -> list[float]:
    """Boxes one above the other, an arrow into each; returns their heights."""
    heights = [STEP * (i + 1.4) for i in range(len(words))]
    for below, above in itertools.pairwise([start - HEIGHT / 2, *heights]):
        arrow(axes, (x, below + HEIGHT / 2), (x, above - HEIGHT / 2))
    for height, word in zip(heights, words, strict=True):
        box(axes, x, height, word, dashed)
    return heights


def draw(axes: Axes, title: str, path: list[str], shortcut: list[str]) -> None:
    """One block, from its input at the bottom to its output at the top."""
    half, fork = HEIGHT / 2, STEP * 0.45
    heights = stack(axes, 0, path, 0)
    arrow(axes, (0, heights[-1] + half), (0, heights[-1] + half + STEP * 0.5))
    total = heights[path.index("+")]
    axes.plot([0, ASIDE], [fork, fork], color="black", lw=0.9, zorder=0)
    last = stack(axes, ASIDE, shortcut, fork, dashed=True)[-1] + half
    axes.plot([ASIDE, ASIDE], [last, total], color="black", lw=0.9, zorder=0)
    arrow(axes, (ASIDE, total), (half, total))
    axes.text(0.12, 0, "$x$", va="center", fontsize=9)
    axes.text(0.75, -0.6, title, ha="center", va="center", fontsize=9, linespacing=1.4)
    axes.set(xlim=(-0.75, 2.3), ylim=(-0.95, STEP * 12.3), aspect="equal")
    axes.axis("off")


def figure() -> Figure:
    fig, axes = plt.subplots(1, len(BLOCKS), figsize=(9, 6), layout="constrained")
    for panel, ((block, norm_order), (path, shortcut)) in zip(axes, BLOCKS.items(), strict=True):
        draw(panel, f"{block}\n{norm_order}", path.split(), shortcut.split())
    return fig


if __name__ == "__main__":
    matplotlib.use("Agg")
    with plt.rc_context({"svg.hashsalt": "wtkit", "svg.fonttype": "none"}):
        figure().savefig(Path(__file__).with_suffix(".svg"), metadata={"Date": None})
