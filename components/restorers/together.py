"""Models that restore the same faces: what they have in common is loaded, and computed, once.

    together = Together()
    models = [load_restorer(folder, together=together) for folder in folders]
    for model in models:
        model.restore(lq_B3HW, face_ids, variants)

Models often name the same first restorer, encoder and autoencoder. When one after the other
restores the same batch, what the first has computed with them is used again. Only the last batch is
kept, and it is compared number by number.
"""

from collections.abc import Callable, Hashable
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Together:
    """Networks and last results of models that are loaded with it; for one thread."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what was made for the key; make it the first time."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made

    def remember(self, key: Hashable, function: Callable[..., T]) -> Callable[..., T]:
        """Return the function, which takes the last result of this key if its arguments are equal.

        Functions with one key compute the same.
        """
        last: _Last = self.once(key, _Last)

        def remembering(*arguments: Any, **options: Any) -> T:
            given = (*arguments, *chain(*sorted(options.items())))
            if not last.is_of(given):
                last.result = function(*arguments, **options)
                last.given = tuple(map(_copied, given))
            result: T = last.result
            return result

        return remembering


def share(together: Together | None, key: Hashable, load: Callable[[], T], method: str) -> T:
    """Return what `load` makes, made once for models together; its `method` remembers its result.

    Without `together`, return what it makes.
    """
    if together is None:
        return load()

    def make() -> T:
        made = load()
        share_results(together, ("last", key), made, method)
        return made

    return together.once(key, make)


def share_results(together: Together | None, key: Hashable, part: Any, method: str) -> None:
    """Let a part's method remember its last result, for all parts with this key."""
    if together is not None:
        setattr(part, method, together.remember(key, getattr(part, method)))


class _Last:
    def __init__(self) -> None:
        self.given: tuple[Any, ...] | None = None
        self.result: Any = None

    def is_of(self, given: tuple[Any, ...]) -> bool:
        if self.given is None or len(self.given) != len(given):
            return False
        return all(map(_are_equal, self.given, given))


def _copied(argument: Any) -> Any:
    """Return an argument that its owner cannot change any more."""
    return argument.clone() if isinstance(argument, Tensor) else argument


def _are_equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.device == other.device and torch.equal(one, other)
    return not isinstance(one, Tensor) and not isinstance(other, Tensor) and bool(one == other)
