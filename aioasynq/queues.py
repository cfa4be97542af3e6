"""In which order queues are asked for tasks, and for how many: by strict priority, or by weight and chance."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from math import gcd
from typing import Protocol

MAX_WEIGHT = 2**31 - 1  #: a server's record has 32 bits for a weight


class Chance(Protocol):
    """Where chance comes from: the module ``random``, or a ``random.Random``."""

    def choices(self, population: Sequence[str], weights: Sequence[int], *, k: int) -> list[str]:
        """*k* of *population*, by weight; one may come several times."""
        ...

    def expovariate(self, rate: float, /) -> float:
        """A waiting time, at *rate* events per unit of time."""
        ...


def normalise(queues: Mapping[str, int] | Sequence[str]) -> dict[str, int]:
    """The weight of each queue, in the order given and as small as their ratios allow; names alone weigh the same.

    Raises:
        TypeError: *queues* is a single string, a name is no string, or a weight is no whole number.
        ValueError: no queue is named, one is named twice, or a weight is below 1 or above :data:`MAX_WEIGHT`.
    """
    if isinstance(queues, str):
        raise TypeError(f"queues must be a mapping of name to weight or a sequence of names, got the str {queues!r}")
    weights = dict(queues) if isinstance(queues, Mapping) else dict.fromkeys(queues, 1)
    if not weights:
        raise ValueError(f"queues must name at least one queue, got {queues!r}")
    if len(weights) < len(queues):
        raise ValueError(f"queues must name each queue once, got {queues!r}")
    for name, weight in weights.items():
        if not isinstance(name, str):
            raise TypeError(f"queues must be named by str, got {name!r}")
        if type(weight) is not int:  # True is no weight
            raise TypeError(f"queues must have whole numbers as weights, got {weight!r} for {name!r}")
        if not 1 <= weight <= MAX_WEIGHT:
            raise ValueError(f"queues must have weights from 1 to {MAX_WEIGHT}, got {weight!r} for {name!r}")
    divisor = gcd(*weights.values())
    return {name: weight // divisor for name, weight in weights.items()}


def weights_of(text: str) -> dict[str, int]:
    """Queues and their weights, as they are written on a command line: ``critical:6,default:3,low``.

    Raises:
        ValueError: it is written in another way; the text says where.
    """
    found: dict[str, int] = {}
    for part in (each.strip() for each in text.split(",")):
        name, colon, weight = part.partition(":")
        why = ""
        if not part:
            why = "there is a comma too many" if "," in text else "it is empty"
        elif "=" in part and not colon:
            why = f"{part!r} has a = where a : belongs"
        elif not name or (colon and not re.fullmatch(r"0*[1-9][0-9]*", weight)) or " " in part:
            why = f"in {part!r} the weight must be a whole number from 1" if name and colon else f"{part!r} is no name"
        elif name in found:
            why = f"{name!r} is there twice"
        if why:
            raise ValueError(why)
        found[name] = int(weight) if colon else 1
    return found


def in_priority_order(weights: Mapping[str, int]) -> list[str]:
    """The queues by weight, heaviest first; those of one weight stay in the order given."""
    return sorted(weights, key=weights.__getitem__, reverse=True)


def weighted_order(weights: Mapping[str, int], random: Chance) -> list[str]:
    """The queues in an order by chance, each once.

    A queue comes first, and again first among the rest, with a probability in proportion to its weight: as if each name
    lay as often as it weighs in a shuffled pack, and counted where it is first seen (which is how asynq does it).
    """
    # Of several random processes each has the first event with a probability in proportion to its rate.
    arrival = {name: random.expovariate(weight) for name, weight in weights.items()}
    return sorted(arrival, key=arrival.__getitem__)


def draw(weights: Mapping[str, int], places: int, random: Chance) -> dict[str, int]:
    """How many of *places* free places each queue gets, when each place goes to a queue by weight and chance.

    A queue that gets none is not named.
    """
    if places < 1 or not weights:
        return {}
    if len(weights) == 1:
        return dict.fromkeys(weights, places)
    return dict(Counter(random.choices(list(weights), list(weights.values()), k=places)))
