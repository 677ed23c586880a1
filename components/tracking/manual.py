"""Make a version the champion by command, against the rule or back to an earlier one.

A version that is replaced this way becomes the champion again only by `hdrface promote`: the stage
`register` must not undo what a person decided.
"""

from components.tracking.registry import REASON_TAG, REPLACED_TAG, Registry, find


def promote(reference: str) -> str:
    """Make NAME/VERSION or NAME@ALIAS the champion; return a line that says what happened.

    Raises: ValueError if there is no such version.
    """
    registry, version = find(reference)
    number = str(version.version)
    replaced = registry.champions().now
    if replaced == number:
        return f"{registry.name}/{number} is the champion already"
    registry.crown(number)
    return _replaced(registry, replaced, number, "promoted by hand")


def rollback(name: str) -> str:
    """Make the previous champion the champion again; return a line that says so.

    Raises: ValueError if there was none.
    """
    registry = Registry(name)
    replaced = registry.champions().now
    number = registry.uncrown()
    return _replaced(registry, replaced, number, "rolled back to by hand")


def _replaced(registry: Registry, replaced: str | None, number: str, how: str) -> str:
    before = f" in place of version {replaced}" if replaced else ""
    registry.tag(number, {REASON_TAG: f"{how}{before}", REPLACED_TAG: "false"})
    if replaced:
        registry.tag(replaced, {REPLACED_TAG: "true"})
    return f"{registry.name}/{number} is the champion{before}"
