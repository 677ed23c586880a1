"""Profiles: `params.yaml` composed by Hydra from `conf/`.

`hdrface config use PROFILE` and `dvc exp run -S profile=PROFILE` compose the same file: both let
Hydra merge `conf/base.yaml`, the families in `conf/backbone/` and `conf/profile/PROFILE.yaml`.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from components import files
from components.params import PARAMS_FILE

CONF = Path("conf")


def profiles(conf: Path = CONF) -> list[str]:
    """Return the names of all profiles. Raises: ValueError if there is no `conf/` here."""
    found = sorted(path.stem for path in (conf / "profile").glob("*.yaml"))
    if not found:
        raise ValueError(f"{conf / 'profile'} has no profiles: run this in the project's folder")
    return found


def compose(profile: str, overrides: Sequence[str] = (), conf: Path = CONF) -> str:
    """Return the YAML text of one profile with `key=value` overrides in Hydra's grammar.

    A value that Hydra's grammar cannot read (a path with umlauts or quotes) is taken as it stands.

    Raises: ValueError for an unknown profile or key.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if profile not in (known := profiles(conf)):
        raise ValueError(f"no profile '{profile}' in {conf}: choose from {', '.join(known)}")
    quoted = [_quoted(override) for override in overrides]
    # The same version_base and the same writer as DVC's own composition.
    with initialize_config_dir(str(conf.resolve()), version_base=None):
        try:
            config = hydra_compose("config", overrides=[f"profile={profile}", *quoted])
            OmegaConf.resolve(config)
        except (HydraException, OmegaConfBaseException) as error:
            raise ValueError(" ".join(str(error).split())) from error
    return OmegaConf.to_yaml(config)


def use(
    profile: str, overrides: Sequence[str] = (), *, file: Path = PARAMS_FILE, conf: Path = CONF
) -> None:
    """Write `params.yaml` from a profile; it is whole or untouched."""
    text = compose(profile, overrides, conf)
    header = (
        f"# Composed from {conf.name}/ by 'hdrface config use {profile}', and written over by the\n"
        "# next one or by 'dvc exp run'. What each key means stands in conf/base.yaml.\n"
    )
    files.write_text(file, header + text)


def _quoted(override: str) -> str:
    """Quote a value that Hydra's grammar refuses, takes for a sweep, or reads as another text."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import QuotedString
    from hydra.errors import HydraException

    if re.fullmatch(r"~[\w.]+", override):  # Hydra's word for leaving a key out
        return override
    key, equals, value = override.partition("=")
    if not equals or not re.fullmatch(r"\+{0,2}[\w.@/-]+", key):
        raise ValueError(f"'{override}' is not of the form key=value")
    try:
        parsed = OverridesParser.create().parse_override(override)
        is_typed = isinstance(parsed._value, QuotedString) or not isinstance(parsed.value(), str)
        if not parsed.is_sweep_override() and (is_typed or parsed.value() == value):
            return override
    except HydraException:
        pass
    return f"{key}={in_quotes(value)}"


def in_quotes(text: str) -> str:
    """Write a text in quotes in Hydra's grammar."""
    # Inside quotes, a run of backslashes is halved where a quote follows, and nowhere else.
    escaped = re.sub(r"(\\*)('|$)", lambda run: 2 * run[1] + run[2].replace("'", r"\'"), text)
    return f"'{escaped}'"
