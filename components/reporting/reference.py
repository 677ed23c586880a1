"""Statistics of a set of faces that others are compared with (FID): computed once, then kept."""

from dataclasses import replace
from itertools import groupby, islice
from typing import Any

import numpy as np

from components import images, lineage
from components.metrics.catalogue import Metric
from components.metrics.frechet import Gaussian
from components.reporting.face_sets import FaceSet
from components.stores import stores

FOLDER = "statistics"


def compare_with(metric: Metric, faces: FaceSet, *, batch_size: int) -> None:
    """Have a metric of sets compare with these faces.

    The mean and covariance are kept in this machine's store, under the fingerprint of the faces
    and of the protocol. Raises: ImageError if a picture is none; ValueError if there are fewer than
    two.
    """
    files = {**metric.how.protocol["files"], "reference": faces.fingerprint}
    protocol = {**metric.how.protocol, "files": files}
    file = stores()[0] / FOLDER / f"{lineage.fingerprint(protocol=protocol)}.npz"
    if file.is_file():
        reference = Gaussian.read(file)
    else:
        reference = _measure(metric, faces, batch_size)
        reference.write(file)
    metric.how = replace(metric.how, protocol=protocol, reference=reference)


def _measure(metric: Metric, faces: FaceSet, batch_size: int) -> Gaussian:
    """Sum up features and their products, so that any number of faces fits into memory."""
    count = 0
    total: Any = 0.0
    products: Any = 0.0
    # Pictures of a batch are stacked, so those of another size begin a new one.
    for _, same in groupby(map(faces.read, faces.names()), key=lambda picture: picture.shape):
        while batch := list(islice(same, batch_size)):
            features_BD = metric(images.to_tensor(batch), None).astype(np.float64)
            total = total + features_BD.sum(axis=0)
            products = products + features_BD.T @ features_BD
            count += len(batch)
    if count < 2:
        raise ValueError(f"a covariance needs at least 2 faces; got {count}")
    mean = total / count
    return Gaussian(mean, (products - count * np.outer(mean, mean)) / (count - 1))
