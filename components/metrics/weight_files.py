"""The files of metrics and losses: size, licence, and where their publishers offer them.

They lie under `torch.hub.get_dir()`, which the environment's TORCH_HOME moves. Nothing is
downloaded.
"""

from dataclasses import dataclass

from components.weights.licences import LICENCES

# TorchScript; pyiqa would download a file with another SHA-256 again.
CLIP_SHA256 = {
    "clip/RN50.pt": "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
    "clip/ViT-B-32.pt": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
}
_PYIQA = "https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main"
_FACEXLIB = "https://github.com/xinntao/facexlib/releases/download/v0.1.0"


@dataclass(frozen=True)
class WeightFile:
    """A published file. `megabytes` is as stated by the publisher, or about what it must have."""

    megabytes: float
    licence: str
    source: str  # an address of the file itself, or where to look for it

    @property
    def is_address(self) -> bool:
        return self.source.startswith("https://") and " " not in self.source


def _pyiqa(name: str, megabytes: float) -> tuple[str, WeightFile]:
    return f"pyiqa/{name}", WeightFile(megabytes, LICENCES["pyiqa"], f"{_PYIQA}/{name}")


def _torchvision(name: str, megabytes: float) -> tuple[str, WeightFile]:
    address = f"https://download.pytorch.org/models/{name}"
    return f"checkpoints/{name}", WeightFile(megabytes, "BSD-3-Clause (torchvision)", address)


def _clip(name: str, megabytes: float) -> tuple[str, WeightFile]:
    address = f"https://openaipublic.azureedge.net/clip/models/{CLIP_SHA256[f'clip/{name}']}/{name}"
    return f"clip/{name}", WeightFile(megabytes, "MIT (OpenAI's CLIP)", address)


WEIGHT_FILES: dict[str, WeightFile] = dict(
    [
        _torchvision("alexnet-owt-7be5be79.pth", 244),
        _torchvision("vgg16-397923af.pth", 553),
        _clip("RN50.pt", 256),
        _clip("ViT-B-32.pt", 354),
        _pyiqa("LPIPS_v0.1_alex-df73285e.pth", 0.006),
        _pyiqa("LPIPS_v0.1_vgg-a78928a0.pth", 0.007),
        _pyiqa("DISTS_weights-f5e65c96.pth", 0.012),
        _pyiqa("cfanet_fr_kadid_res50-2c4cc61d.pth", 144),
        _pyiqa("musiq_koniq_ckpt-e95806b9.pth", 109),
        _pyiqa("liqe_koniq.pt", 605),
        _pyiqa("niqe_modelparameters.mat", 0.009),
        _pyiqa("ckpt_koniq10k.pt", 543),
        _pyiqa("pt_inception-2015-12-05-6726825d.pth", 96),
        _pyiqa("ffhq_clean_trainval70k_512.npz", 34),
        (
            "hdrface/resnet18_110.pth",
            WeightFile(
                97, "not stated", "github.com/ronghuaiyang/arcface-pytorch, or VQFR's files"
            ),
        ),
        (
            "hdrface/inception_FFHQ_512.pth",
            WeightFile(34, "Apache-2.0 (VQFR)", "github.com/TencentARC/VQFR, its metrics' files"),
        ),
        (
            "hdrface/alignment_WFLW_4HG.pth",
            WeightFile(194, "MIT (facexlib)", f"{_FACEXLIB}/alignment_WFLW_4HG.pth"),
        ),
        (
            "hdrface/2d106det.onnx",
            WeightFile(5, LICENCES["insightface"], "InsightFace's pack buffalo_l"),
        ),
        (
            "hdrface/pfld_68.onnx",
            WeightFile(3, "not stated", "github.com/cunjian/pytorch_face_landmark, onnx/pfld.onnx"),
        ),
        (
            "hdrface/one-align",
            WeightFile(
                16_400,
                "MIT (Q-Align); Llama 2's licence",
                "the hub's q-future/one-align, as a folder",
            ),
        ),
    ]
)
