"""ArcFace: the identity of a face as a vector, differentiable (METHOD, section 3).

B batch, E embedding width.
"""

from pathlib import Path
from typing import Literal, Self

from torch import Tensor, nn
from torch.nn import functional as F

from components.weights.checkpoints import read_tensors

INPUT_SIZE = 112
EMBEDDING_WIDTH = 512
BLOCKS = (3, 4, 14, 3)  # iResNet-50
InputRange = Literal["unit", "signed"]


class Block(nn.Module):
    """A pre-activation residual block: BN, conv, BN, PReLU, conv (stride), BN."""

    def __init__(self, width_in: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or width_in != width:
            shortcut = nn.Conv2d(width_in, width, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(width))

    def forward(self, features: Tensor) -> Tensor:
        residual = self.prelu(self.bn2(self.conv1(self.bn1(features))))
        sum_BCHW: Tensor = self.downsample(features) + self.bn3(self.conv2(residual))
        return sum_BCHW


class IResNet(nn.Module):
    """InsightFace's improved ResNet; attribute names are the keys of its published `backbone.pth`.

    Shape: image (B, 3, 112, 112) -> embedding_BE, not normalised.
    """

    def __init__(self, blocks: tuple[int, int, int, int] = BLOCKS) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        self.layer1 = _stage(64, 64, blocks[0])
        self.layer2 = _stage(64, 128, blocks[1])
        self.layer3 = _stage(128, 256, blocks[2])
        self.layer4 = _stage(256, 512, blocks[3])
        self.bn2 = nn.BatchNorm2d(512)
        self.fc = nn.Linear(512 * (INPUT_SIZE // 16) ** 2, EMBEDDING_WIDTH)
        self.features = nn.BatchNorm1d(EMBEDDING_WIDTH)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        features = self.prelu(self.bn1(self.conv1(image_B3HW)))
        features = self.layer4(self.layer3(self.layer2(self.layer1(features))))
        embedding_BE: Tensor = self.features(self.fc(self.bn2(features).flatten(1)))
        return embedding_BE


class ArcFace(nn.Module):
    """Turn face pictures into identity vectors; frozen, but gradients flow to the pictures.

    Shape: image_B3HW, RGB in [0, 1], any size -> embedding_BE. Pictures are resized to 112 × 112
    with antialiased bilinear filtering. The network sees [-1, 1], on which it was trained
    (`signed`), or [0, 1], as the HDRFace reference feeds it (`unit`). The method compares whole
    aligned 512² pictures, without ArcFace's own crop, and so do we.
    """

    def __init__(self, network: nn.Module, *, input_range: InputRange = "signed") -> None:
        super().__init__()
        self.input_range: InputRange = input_range
        self.network = network.eval().requires_grad_(requires_grad=False)

    @classmethod
    def load(cls, file: Path, *, input_range: InputRange = "signed") -> Self:
        """Load iResNet-50 from InsightFace's `backbone.pth` or the same keys as safetensors.

        Raises: FileNotFoundError; ValueError naming the keys that do not fit.
        """
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} is missing: put ArcFace's iResNet-50 trained on MS1MV3 there, "
                "'backbone.pth' of InsightFace's model zoo (non-commercial research only)"
            )
        network = IResNet()
        try:
            network.load_state_dict({k: v.float() for k, v in read_tensors(file).items()})
        except RuntimeError as error:  # what load_state_dict raises for other keys or shapes
            raise ValueError(f"{file} is not an iResNet-50: {error}") from error
        return cls(network, input_range=input_range)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        size = (INPUT_SIZE, INPUT_SIZE)
        resized = F.interpolate(
            image_B3HW, size=size, mode="bilinear", align_corners=False, antialias=True
        )
        seen = resized if self.input_range == "unit" else 2 * resized - 1
        embedding_BE: Tensor = self.network(seen)
        return embedding_BE

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: a training step must not change the normalisation statistics."""
        del mode
        return super().train(mode=False)


def _stage(width_in: int, width: int, blocks: int) -> nn.Sequential:
    first = Block(width_in, width, stride=2)
    return nn.Sequential(first, *(Block(width, width, stride=1) for _ in range(blocks - 1)))
