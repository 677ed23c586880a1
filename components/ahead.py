"""Work in threads beside the caller: pictures are read and written while a device computes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    threads: Executor, function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Result]:
    """Give `function(item)` for each item, in order; a thread makes the next one meanwhile.

    Raises: what the function raises, when its result is due.
    """
    due: deque[Future[Result]] = deque()
    for item in items:
        due.append(threads.submit(function, item))
        if len(due) > 1:
            yield due.popleft().result()
    while due:
        yield due.popleft().result()
