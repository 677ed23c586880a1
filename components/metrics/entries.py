"""Every metric: its direction, its protocol, what it needs, and how it is opened.

A metric that is computed by two protocols is two metrics: they never share a column.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from components.metrics import inception, landmarks
from components.metrics.full_reference import FullReference, Liqe, Niqe, NoReference
from components.metrics.grey_identity import GreyIdentityAngle
from components.metrics.inception import InceptionFeatures
from components.metrics.landmarks import AwingLandmarks, LandmarkDistance, OnnxLandmarks
from components.metrics.protocol import Protocol
from components.metrics.qalign import QAlign

# (its name, torch's hub folder, a device) -> what computes it
Opens = Callable[[str, Path, torch.device], Any]


@dataclass(frozen=True)
class Entry:
    """One metric: what a reader must know, and what is needed to open it.

    `files` lie under `torch.hub.get_dir()`, which the environment's TORCH_HOME moves; see
    `components.metrics.weight_files`. `statistics` is the one that holds the reference of a set.
    """

    title: str
    unit: str
    direction: Literal["higher", "lower"]  # is better
    protocol: Protocol
    opens: Opens | None  # None: with the identity network that the caller names
    files: tuple[str, ...] = ()
    needs_truth: bool = True
    is_set: bool = False  # a distance between two sets of faces, not a mean of faces' scores
    statistics: str | None = None


def _pyiqa(kind: type[FullReference], **options: Any) -> Opens:
    return lambda name, hub, device: kind(name, device=device, hub=hub, **options)


def _fid(prepare: Callable[..., Any]) -> Opens:
    return lambda _, hub, device: InceptionFeatures(hub, prepare=prepare, device=device)


def _grey(_: str, hub: Path, device: torch.device) -> GreyIdentityAngle:
    return GreyIdentityAngle(hub / _GREY, device=device)


def _awing(_: str, hub: Path, device: torch.device) -> LandmarkDistance:
    return LandmarkDistance(AwingLandmarks(hub / _AWING, device=device))


def _onnx(
    file: str, convention: landmarks.Convention, _: str, hub: Path, device: torch.device
) -> LandmarkDistance:
    del device  # ONNX Runtime computes on the CPU
    return LandmarkDistance(OnnxLandmarks(hub / file, convention))


def _qalign(_: str, hub: Path, device: torch.device) -> QAlign:
    return QAlign(hub / _ONE_ALIGN, device=device)


_ALEX = "checkpoints/alexnet-owt-7be5be79.pth"
_VGG = "checkpoints/vgg16-397923af.pth"
_INCEPTION = "pyiqa/pt_inception-2015-12-05-6726825d.pth"
_VQFR_FACES = "hdrface/inception_FFHQ_512.pth"
_CLEAN_FACES = "pyiqa/ffhq_clean_trainval70k_512.npz"
_GREY, _AWING = "hdrface/resnet18_110.pth", "hdrface/alignment_WFLW_4HG.pth"
_106, _68, _ONE_ALIGN = "hdrface/2d106det.onnx", "hdrface/pfld_68.onnx", "hdrface/one-align"

_TEMPLATE = "the FFHQ template's points, no detector"
_INCEPTION_TOLD = "Inception of pytorch-fid, TensorFlow's weights, 2048 pooled features"
_CLEAN = "299², clean-fid: Pillow's bicubic, antialiased"

CATALOGUE: dict[str, Entry] = {
    "psnr": Entry(
        "PSNR",
        "dB",
        "higher",
        Protocol("pyiqa psnr", colour="RGB, 8 bits; equal pictures 80 dB"),
        _pyiqa(FullReference),
    ),
    "ssim": Entry(
        "SSIM", "", "higher", Protocol("pyiqa ssim", colour="Y, 8 bits"), _pyiqa(FullReference)
    ),
    "identity_angle": Entry(
        "Deg.",
        "°",
        "lower",
        Protocol(
            "insightface",
            network="the identity network that is named",
            alignment=_TEMPLATE,
            resize="112², antialiased",
            library="onnxruntime",
        ),
        None,
    ),
    "deg_vqfr": Entry(
        "Deg.",
        "°",
        "lower",
        Protocol(
            "vqfr",
            network="ResNet-18 of arcface-pytorch",
            colour="grey, 8 bits",
            resize="128², bilinear",
            left_out="pairs below 1°",
            library="torch",
        ),
        _grey,
        (_GREY,),
    ),
    "lmd_awing": Entry(
        "LMD",
        "px",
        "lower",
        Protocol(
            "awing",
            network="FAN of 4 hourglasses, 98 points (WFLW)",
            resize="256², bilinear; distances at 512²",
            library="facexlib",
        ),
        _awing,
        (_AWING,),
    ),
    "lmd_insightface": Entry(
        "LMD",
        "px",
        "lower",
        Protocol(
            "insightface",
            network="2d106det, 106 points",
            alignment="the whole aligned picture, no detector",
            resize="192², antialiased; distances at 512²",
            library="onnxruntime",
        ),
        partial(_onnx, _106, landmarks.INSIGHTFACE_106),
        (_106,),
    ),
    "lmd_pfld": Entry(
        "LMD",
        "px",
        "lower",
        Protocol(
            "pfld",
            network="PFLD, 68 points",
            alignment="a fixed square of the aligned picture, no detector",
            resize="112², antialiased; distances at 512²",
            library="onnxruntime",
        ),
        partial(_onnx, _68, landmarks.PFLD_68),
        (_68,),
    ),
    "lpips": Entry(
        "LPIPS",
        "",
        "lower",
        Protocol("pyiqa lpips", network="AlexNet, v0.1"),
        _pyiqa(FullReference),
        (_ALEX, "pyiqa/LPIPS_v0.1_alex-df73285e.pth"),
    ),
    "dists": Entry(
        "DISTS",
        "",
        "lower",
        Protocol("pyiqa dists", network="VGG-16"),
        _pyiqa(FullReference),
        (_VGG, "pyiqa/DISTS_weights-f5e65c96.pth"),
    ),
    "topiq_fr": Entry(
        "TOPIQ",
        "",
        "higher",
        Protocol("pyiqa topiq_fr", network="ResNet-50, KADID"),
        # The checkpoint holds the backbone too; else timm would download one first.
        _pyiqa(FullReference, backbone_pretrain=False),
        ("pyiqa/cfanet_fr_kadid_res50-2c4cc61d.pth",),
    ),
    "clipiqa": Entry(
        "CLIP-IQA",
        "",
        "higher",
        Protocol("pyiqa clipiqa", network="CLIP ResNet-50"),
        _pyiqa(NoReference),
        ("clip/RN50.pt",),
        needs_truth=False,
    ),
    "musiq": Entry(
        "MUSIQ",
        "",
        "higher",
        Protocol("pyiqa musiq", network="KonIQ-10k"),
        _pyiqa(NoReference),
        ("pyiqa/musiq_koniq_ckpt-e95806b9.pth",),
        needs_truth=False,
    ),
    "liqe": Entry(
        "LIQE",
        "",
        "higher",
        Protocol("pyiqa liqe", network="CLIP ViT-B/32, KonIQ-10k"),
        _pyiqa(Liqe),
        ("clip/ViT-B-32.pt", "pyiqa/liqe_koniq.pt"),
        needs_truth=False,
    ),
    "niqe": Entry(
        "NIQE",
        "",
        "lower",
        Protocol(
            "pyiqa niqe",
            network="pristine statistics of the authors",
            colour="Y, 8 bits",
            left_out="pictures under 96 pixels",
        ),
        _pyiqa(Niqe),
        ("pyiqa/niqe_modelparameters.mat",),
        needs_truth=False,
    ),
    "maniqa": Entry(
        "MANIQA",
        "",
        "higher",
        Protocol("pyiqa maniqa", network="ViT-B/8, KonIQ-10k", resize="20 fixed crops of 224²"),
        _pyiqa(NoReference),
        ("pyiqa/ckpt_koniq10k.pt",),
        needs_truth=False,
    ),
    "qalign": Entry(
        "Q-Align",
        "",
        "higher",
        Protocol("pyiqa qalign", network="one-align, float16", resize="448², as CLIP's processor"),
        _qalign,
        (_ONE_ALIGN,),
        needs_truth=False,
    ),
    "fid_vqfr": Entry(
        "FID",
        "",
        "lower",
        Protocol(
            "vqfr",
            network=f"{_INCEPTION_TOLD}; against VQFR's statistics of FFHQ at 512²",
            resize="299², bilinear, not antialiased",
        ),
        _fid(inception.bilinear),
        (_INCEPTION, _VQFR_FACES),
        needs_truth=False,
        is_set=True,
        statistics=_VQFR_FACES,
    ),
    "fid_clean": Entry(
        "FID",
        "",
        "lower",
        Protocol(
            "clean",
            network=f"{_INCEPTION_TOLD}; against clean-fid's statistics of FFHQ at 512²",
            resize=_CLEAN,
        ),
        _fid(inception.clean),
        (_INCEPTION, _CLEAN_FACES),
        needs_truth=False,
        is_set=True,
        statistics=_CLEAN_FACES,
    ),
    "fid_folders": Entry(
        "FID",
        "",
        "lower",
        Protocol(
            "folders",
            network=f"{_INCEPTION_TOLD}; against the true faces, or those that are named",
            resize=_CLEAN,
        ),
        _fid(inception.clean),
        (_INCEPTION,),
        needs_truth=False,
        is_set=True,
    ),
}
