"""Random numbers that depend on their purpose, never on which process draws them or when.

Every number comes from a generator keyed by (seed, face_id, variant, purpose), so a face gets the
same noise on one worker or a hundred, in any order, alone or in a batch. Different keys give
independent streams: `purpose` separates a restorer's noise from a degradation's.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Key: TypeAlias = tuple[int, str, int, str]  # seed, face_id, variant, purpose


def generator(seed: int, face_id: str, variant: int, purpose: str) -> np.random.Generator:
    """Make the generator of one key: Philox, keyed by 128 bits of the four values' SHA-256."""
    # JSON keeps values apart: ("a1", 2) and ("a", 12) must differ.
    named = json.dumps([int(seed), face_id, int(variant), purpose]).encode()
    key = int.from_bytes(hashlib.sha256(named).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=key))


def normal(
    seed: int, face_id: str, variant: int, purpose: str, shape: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    """Draw standard normal float32 numbers of the given shape."""
    return generator(seed, face_id, variant, purpose).standard_normal(shape, dtype=np.float32)


def normals(keys: Sequence[Key], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Draw standard normal numbers of the given shape for each key: (B, *shape)."""
    return np.stack([normal(*key, shape) for key in keys])
