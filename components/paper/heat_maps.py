"""What the gate does with a face's tokens, as pictures (paper, Fig. 5).

Three streams of patch tokens: those of the degraded face (LQ), of its first restoration (SR), and
the fused ones. Two views of each: the length of every token, and its first three principal
components as red, green and blue.

B batch, S streams, N tokens, C token width, h and w of the patches.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from components import images
from components.fusion.condition import TokenCondition
from components.images import Image
from components.reporting.gallery import fit, heat_map
from components.restorers.hdrface import HDRFace, look_twice
from components.restorers.protocol import RestoresFaces

STREAMS = ("LQ", "SR", "fused")
_NUM_COLOURS = 3
_EXTREMES = (2, 98)  # percentiles that become the darkest and the brightest
Tokens = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FaceTokens:
    """A face's pictures and its patch tokens by stream, (h, w, C)."""

    pictures: Mapping[str, Image]
    tokens: Mapping[str, Tokens]


@torch.no_grad()
def look_at(
    restorer: RestoresFaces, lqs: Sequence[Image], names: Sequence[str]
) -> list[FaceTokens]:
    """Restore faces and keep the tokens that the gate saw, and those that it made.

    LQ and SR tokens are normalised by the gate's layer norm, as it compares them.

    Raises: ValueError if the restorer has no gate, or the faces are not of its size.
    """
    condition = restorer.condition if isinstance(restorer, HDRFace) else None
    fusion = condition.fusion if isinstance(condition, TokenCondition) else None
    if not isinstance(restorer, HDRFace) or restorer.encoder is None or fusion is None:
        raise ValueError(
            f"{restorer.name} has no gate: name a model that was trained under the condition 'sdfm'"
        )
    lq_B3HW = images.to_tensor(lqs, restorer.device)
    restoration = restorer.restore(lq_B3HW, names, [0] * len(names))
    first_B3HW = restoration.intermediate_B3HW
    assert first_B3HW is not None  # with a gate there is a first restoration
    sr_BNC, lq_BNC = look_twice(lq_B3HW, first_B3HW, restorer.encoder)
    fused_BNC, _ = fusion(sr_BNC, lq_BNC)
    side = restorer.encoder.patches_per_side
    streams = {"LQ": fusion.norm(lq_BNC), "SR": fusion.norm(sr_BNC), "fused": fused_BNC}
    # CLS and registers belong to no place in the picture.
    patches = {
        name: tokens[:, -side * side :].unflatten(1, (side, side)).double().cpu().numpy()
        for name, tokens in streams.items()
    }
    firsts, restored = images.from_tensor(first_B3HW), images.from_tensor(restoration.restored_B3HW)
    return [
        FaceTokens(
            {"LQ": lq, "SR": firsts[i], "restored": restored[i]},
            {name: patches[name][i] for name in STREAMS},
        )
        for i, lq in enumerate(lqs)
    ]


def principal_colours(tokens_SNC: Tokens) -> Tokens:
    """Return the first three principal components of all streams' tokens as colours, (S, N, 3).

    The components are those of all streams together, so one colour means one direction in each.
    With the centred tokens X = U D V^T, a component is X v; v points to where its largest entry is
    positive. Each is stretched to [0, 1] between its 2nd and 98th percentile.
    """
    streams, count, width = tokens_SNC.shape
    centred = tokens_SNC.reshape(-1, width) - tokens_SNC.reshape(-1, width).mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions[:_NUM_COLOURS]
    largest = np.abs(directions).argmax(axis=1)
    directions = directions * np.sign(directions[np.arange(len(directions)), largest])[:, None]
    components = centred @ directions.T
    low, high = np.percentile(components, _EXTREMES, axis=0)
    colours = ((components - low) / np.maximum(high - low, 1e-12)).clip(0, 1)
    return np.asarray(colours.reshape(streams, count, -1))


def draw(faces: Sequence[FaceTokens], *, cell: int = 160) -> Image:
    """Draw one row per face: its pictures, the tokens' lengths, and their components as colours.

    Each picture of lengths has a scale of its own, from the 2nd to the 98th percentile: dark are
    short tokens, bright are long ones.
    """
    if not faces:
        raise ValueError("there is no face to draw")
    titles, rows = _cells(faces, cell)
    gap, top = cell // 20, cell // 4
    sheet = PillowImage.new(
        "RGB", (gap + len(titles) * (cell + gap), top + len(rows) * (cell + gap)), "white"
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(cell * 0.1)
    for column, title in enumerate(titles):
        left = gap + column * (cell + gap)
        pen.text((left + cell / 2, top / 2), title, fill="#1c2430", font=font, anchor="mm")
        for number, row in enumerate(rows):
            picture = PillowImage.fromarray(row[column])
            sheet.paste(picture, (left, top + number * (cell + gap)))
    return np.array(sheet, dtype=np.uint8)


def _cells(faces: Sequence[FaceTokens], cell: int) -> tuple[list[str], list[list[Image]]]:
    titles = [
        *faces[0].pictures,
        *(f"{name}, length" for name in STREAMS),
        *(f"{name}, PCA" for name in STREAMS),
    ]
    return titles, [list(_row(one, cell)) for one in faces]


def _row(one: FaceTokens, cell: int) -> Iterator[Image]:
    face = fit(one.pictures["LQ"], cell)
    yield from (fit(picture, cell) for picture in one.pictures.values())
    for name in STREAMS:
        lengths = np.linalg.norm(one.tokens[name], axis=-1)
        yield heat_map(face, lengths.astype(np.float32), _limits(lengths))
    yield from _coloured(one, cell)


def _coloured(one: FaceTokens, cell: int) -> Iterator[Image]:
    height, width, _ = one.tokens["LQ"].shape
    stacked_SNC = np.stack([one.tokens[name].reshape(height * width, -1) for name in STREAMS])
    for colours in principal_colours(stacked_SNC):
        patches = (colours.reshape(height, width, -1) * 255).round().astype(np.uint8)
        yield np.asarray(cv2.resize(patches, (cell, cell), interpolation=cv2.INTER_NEAREST))


def _limits(lengths: Tokens) -> tuple[float, float]:
    low, high = map(float, np.percentile(lengths, _EXTREMES))
    return (low, high) if high > low else (low, low + 1)
