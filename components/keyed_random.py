"""Random numbers that depend on what they are for, never on who draws them or when.

Every number comes from a generator keyed by (seed, face_id, variant, purpose), so a face gets the
same noise on one worker or on a hundred, in any order, alone or in a batch. Two keys that differ
anywhere give independent streams: `purpose` keeps a restorer's noise apart from a degradation's.
"""

import hashlib
import json

import numpy as np
import numpy.typing as npt


def generator(seed: int, face_id: str, variant: int, purpose: str) -> np.random.Generator:
    """Start the stream of one key: Philox, its 128-bit key cut from SHA-256 of the four."""
    # JSON keeps the borders: ("a1", 2) and ("a", 12) must not meet.
    named = json.dumps([int(seed), face_id, int(variant), purpose]).encode()
    key = int.from_bytes(hashlib.sha256(named).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=key))


def normal(
    seed: int, face_id: str, variant: int, purpose: str, shape: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    """Draw standard normal float32 numbers of the given shape."""
    return generator(seed, face_id, variant, purpose).standard_normal(shape, dtype=np.float32)
