"""What several first restorations of a face gain over one, on the models of this folder.

    python -m benchmarks.candidates [--model sd21-sdfm] [--lq DIR --identity-network FILE]

It needs a finished run (`make demo`, or `dvc repro` of any profile). Test faces are restored with
one first restoration, and with candidates: four draws of the model's own first restorer, or one of
it and one of the model's own backbone's plain restorer. Each way to choose is compared with one
first restoration, face by face. Degraded photographs without truth (`--lq`) are compared by the
identity angle between the degraded and the restored face.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks import machine
from components import images
from components.metrics import bootstrap
from components.metrics.identity import IdentityAngle
from components.restorers.candidates import Candidates
from components.restorers.choice import Choice
from components.restorers.folder import load_alone, load_restorer
from components.restorers.protocol import RestoresFaces
from components.tables import Table
from components.weights.store import find_need, open_model

DRAWS = 4
Score = Callable[[Tensor, Tensor], Sequence[float]]  # restored and reference -> one of each face
Floats = npt.NDArray[np.float64]


class Faces(NamedTuple):
    """Degraded faces, and what restored ones are compared with."""

    keys: list[tuple[str, int]]  # face and variant
    lq_B3HW: Tensor
    reference_B3HW: Tensor


def test_faces(pairs: Table) -> Faces:
    """Read the test split."""
    columns = ["face_id", "variant", "split", "hq_png", "lq_png"]
    rows = [row for row in pairs.read(columns=columns).to_pylist() if row["split"] == "test"]
    lq, hq = (
        images.to_tensor([images.decode_png(row[key]) for row in rows])
        for key in ("lq_png", "hq_png")
    )
    return Faces([(row["face_id"], row["variant"]) for row in rows], lq, hq)


def photographs(folder: Path, size: int) -> Faces:
    """Read degraded faces without truth."""
    files = sorted(file for file in folder.iterdir() if file.suffix in (".jpg", ".png"))
    faces = [images.resize(images.decode(file.read_bytes()), size) for file in files]
    lq_B3HW = images.to_tensor(faces)
    return Faces([(file.name, 0) for file in files], lq_B3HW, lq_B3HW)


def psnr(restored_B3HW: Tensor, hq_B3HW: Tensor) -> list[float]:
    """Return dB of each face."""
    error_B = (restored_B3HW - hq_B3HW).square().mean(dim=(1, 2, 3))
    return (-10 * error_B.log10()).tolist()


def scores(restorer: RestoresFaces, faces: Faces, score: Score) -> Floats:
    """Restore and score, eight at once; return one score of each face, the mean of its variants."""
    found: dict[str, list[float]] = {}
    for start in range(0, len(faces.keys), 8):
        some = slice(start, start + 8)
        ids, variants = zip(*faces.keys[some], strict=True)
        done = restorer.restore(faces.lq_B3HW[some], ids, variants)
        for face_id, one in zip(
            ids, score(done.restored_B3HW, faces.reference_B3HW[some]), strict=True
        ):
            found.setdefault(face_id, []).append(one)
    return np.array([np.mean(one) for one in found.values()])


def compare(
    alone: RestoresFaces, ways: Mapping[str, RestoresFaces], faces: Faces, score: Score
) -> dict[str, Any]:
    """Return the mean of one first restoration, and what each way adds to it, with its interval."""
    one = scores(alone, faces, score)
    gains = np.stack([scores(way, faces, score) - one for way in ways.values()], axis=1)
    found = bootstrap.intervals(gains, samples=10_000, seed=1)
    return {
        "faces": len(one),
        "one": float(one.mean()),
        "gain": {name: asdict(gain) for name, gain in zip(ways, found, strict=True)},
    }


def ways_of(
    folder: Path, plain: Path, angle: IdentityAngle | None
) -> tuple[RestoresFaces, dict[str, RestoresFaces]]:
    """Return the model with one first restoration, and with candidates."""
    need = open_model(folder).needs["intermediate"]
    first, other = load_restorer(find_need(folder, need)), load_restorer(plain)
    sets = {f"{DRAWS} draws of {first.name}": ([first], DRAWS)}
    sets[f"{first.name} and {other.name}"] = ([first, other], 1)
    ways: dict[str, RestoresFaces] = {}
    for choice in get_args(Choice):
        if choice == "identity" and angle is None:
            continue
        for name, (firsts, draws) in sets.items():
            model = load_alone(folder)
            ways[f"{name}, by {choice}"] = Candidates(
                model, firsts, draws=draws, choice=choice, angle=angle
            )
    return load_restorer(folder), ways


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--model", default="sd21-sdfm")
    parser.add_argument("--lq", type=Path)
    parser.add_argument("--identity-network", type=Path)
    args = parser.parse_args()
    before = machine.facts()
    angle = None if args.identity_network is None else IdentityAngle(args.identity_network)
    folder = Path("models") / args.model
    alone, ways = ways_of(folder, Path("models") / f"{args.model.split('-')[0]}-text", angle)
    results = {"psnr": compare(alone, ways, test_faces(Table.open(Path("data/pairs"))), psnr)}
    if args.lq is not None and angle is not None:

        def degrees(restored_B3HW: Tensor, lq_B3HW: Tensor) -> list[float]:
            return list(angle(restored_B3HW, lq_B3HW))

        results["angle to the degraded face"] = compare(
            alone, ways, photographs(args.lq, alone.size), degrees
        )
    for metric, found in results.items():
        print(f"{metric}, {found['faces']} faces: one first restoration {found['one']:.3f}")
        for name, gain in found["gain"].items():
            print(f"  {name}: {gain['mean']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})")
    print(machine.save("candidates", before, {"model": args.model, **results}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
