"""The networks: by name, ResNets with a choice of norm order, and a trial of whether one can be
trained."""

from ..arguments import check_arguments
from .by_name import build, mlp
from .resnet import Subsampled, build_resnet
from .trial import try_out
from .vit import VisionTransformer

__all__ = ["Subsampled", "VisionTransformer", "build", "build_resnet", "mlp", "try_out"]

check_arguments(globals())
