"""All that a run needs, and the refusal to begin without it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from components.assets import machine, networks, pictures
from components.assets.asset import Asset


class AssetsMissingError(ValueError):
    """A run lacks something; the message says what, and what gets it."""


def assets(values: Mapping[str, Any]) -> list[Asset]:
    """List what a run with these parameters needs: pictures, networks, GPUs, disk.

    `values` is the content of a `params.yaml` that `hdrface config check` accepts. Only the disk is
    looked at, and this machine's GPUs: no network, no cluster, no bucket.

    Raises: ParamsError or ValueError if a section cannot be read.
    """
    try:
        found = [
            *pictures.pictures(values),
            *networks.weights(values),
            *networks.losses(values),
            *networks.metrics(values),
            *machine.gpus(values),
            *machine.disk(values),
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"assets cannot be listed from these parameters ({type(error).__name__}: {error}): "
            "run 'hdrface config check'"
        ) from error
    return _merged(found)


def missing(listed: Sequence[Asset]) -> list[Asset]:
    """Return what is not here and no stage makes."""
    return [asset for asset in listed if asset.state == "missing"]


def require(values: Mapping[str, Any]) -> None:
    """Refuse a run that lacks something. Raises: AssetsMissingError naming each and its remedy."""
    if lacking := missing(assets(values)):
        lines = (f"\n  {asset.what}: {asset.remedy}" for asset in lacking)
        raise AssetsMissingError(
            f"{len(lacking)} things are missing, so nothing was started:{''.join(lines)}\n"
            "'hdrface config check --assets' shows what is here, too. require_assets: false in "
            "params.yaml starts without"
        )


def _merged(found: Sequence[Asset]) -> list[Asset]:
    """Make one row of a file that several losses and metrics load."""
    merged: dict[tuple[str, str], Asset] = {}
    for asset in found:
        key = (asset.which, asset.remedy)
        before = merged.get(key)
        if before is None:
            merged[key] = asset
        elif asset.what not in before.what.split(", "):
            merged[key] = replace(before, what=f"{before.what}, {asset.what}")
    return list(merged.values())
