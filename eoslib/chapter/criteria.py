"""What a claim may ask of a measured case: the criteria of the ledger, met or missed, clearly or nearly."""

import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
from annotated_types import Len
from typing_extensions import TypedDict  # pydantic takes the standard library's only from Python 3.12 on

Number = float | int | bool
Case = Number | Sequence[Number]
Bound = int | float  # strictly, so that no yes or no is one
Pair = Annotated[list[Bound], Len(2, 2)]

NEAR = 0.05  # of a bound: how far kinds of machines may differ where no standard error says it


def _near(x: Number, bounds: Sequence[float], error: float | None) -> bool:
    """Whether x lies within two standard errors of a bound, or, without one, within a share of the bound."""
    margins = [NEAR * abs(bound) if error is None else 2 * error for bound in bounds]
    return any(margin > 0 and abs(x - bound) <= margin for bound, margin in zip(bounds, margins, strict=True))


def _increasing(values: Sequence[Number]) -> bool:
    return len(values) > 1 and all(a < b for a, b in itertools.pairwise(values))


def _hangs_on_a_tie(values: Sequence[Number], errors: Sequence[float] | None) -> bool:
    """Whether values that nearly equal their neighbours decide if all increase: one such pair can undo the order; to
    restore it, each pair out of order must be one. Near are two within two standard errors of their difference or,
    without any, within a share of the larger one."""
    pairs = list(itertools.pairwise(values))
    if errors is None:
        ties = [abs(a - b) < NEAR * max(abs(a), abs(b)) for a, b in pairs]
    else:
        apart = itertools.pairwise(errors)
        ties = [abs(a - b) < 2 * math.hypot(*two) for (a, b), two in zip(pairs, apart, strict=True)]
    broken = [tie for tie, (a, b) in zip(ties, pairs, strict=True) if not a < b]
    return all(broken) if broken else any(ties)


class _Kind(NamedTuple):
    """The type of the argument a; a in words, those for False and True where it is one of them; whether a case x
    meets the criterion; whether it is near its bound, given its standard error e (of a list, one for each) or None."""

    argument: Any
    words: str | tuple[str, str]
    met: Callable[[Any, Any], bool]
    near: Callable[[Any, Any, Any], bool]


def _ordered(word: str, turn: int) -> _Kind:
    """The kind of a list whose values [::turn] increase."""
    words = f"not {word}", word
    return _Kind(
        bool, words, lambda x, a: _increasing(x[::turn]) == a,
        lambda x, a, e: _hangs_on_a_tie(x[::turn], None if e is None else e[::turn]),
    )  # fmt: skip


# A case is a number, for `increasing` and `decreasing` a list of them in order.
KINDS = {
    "within": _Kind(Pair, "between {} and {}", lambda x, a: a[0] <= x <= a[1], _near),
    "at_most": _Kind(Bound, "at most {}", operator.le, lambda x, a, e: _near(x, [a], e)),
    "at_least": _Kind(Bound, "at least {}", operator.ge, lambda x, a, e: _near(x, [a], e)),
    "equals": _Kind(  # the bound is the tolerance
        Pair, "{}, to within {}", lambda x, a: abs(x - a[0]) <= a[1], lambda x, a, e: _near(abs(x - a[0]), a[1:], e)
    ),
    "increasing": _ordered("increasing", 1),
    "decreasing": _ordered("decreasing", -1),
    "holds": _Kind(bool, ("false", "true"), lambda x, a: bool(x) == a, lambda x, a, e: False),
}

# As the ledger has it, one kind with its argument: {"at_most": 0.1}
Criterion = Annotated[TypedDict("Criterion", {n: k.argument for n, k in KINDS.items()}, total=False), Len(1, 1)]


def words(criterion: Mapping[str, Any]) -> str:
    ((name, argument),) = criterion.items()
    phrase = KINDS[name].words
    if isinstance(phrase, tuple):
        return phrase[argument]
    return phrase.format(*map(text, argument if isinstance(argument, list) else [argument]))


def met(criterion: Mapping[str, Any], case: Case) -> bool:
    """Whether a case meets the criterion. A nan meets none, not even one that something should not be so."""
    ((name, argument),) = criterion.items()
    return not has_nan(case) and bool(KINDS[name].met(case, argument))


def outcomes(criterion: Mapping[str, Any], case: Case, error: Case | None = None) -> set[bool]:
    """What `met` may say of the case on another kind of machine: both, if it is near its bound. error: its standard
    error, if it has one; those of a list's values. A yes or no is never near."""
    ((name, argument),) = criterion.items()
    clear = isinstance(case, bool) or not KINDS[name].near(case, argument, error)
    return {met(criterion, case)} if clear else {True, False}


def has_nan(case: Case) -> bool:
    return any(math.isnan(x) for x in (case if isinstance(case, Sequence) else [case]))


def plain(case: Any) -> Case:
    """Scalars of numpy, xarray and torch become numbers, arrays lists."""
    return np.asarray(case).tolist()


def as_json(case: Case) -> Case | str | list:
    """As standard JSON can hold it: what is not finite becomes text, nan or inf."""
    if isinstance(case, list):
        return [as_json(x) for x in case]
    return case if math.isfinite(case) else str(case)


def from_json(shown: Case | str | list) -> Case:
    """The case that `as_json` was given."""
    if isinstance(shown, list):
        return [from_json(x) for x in shown]
    return float(shown) if isinstance(shown, str) else shown


def text(value: Case | str) -> str:
    """A case or bound as a page shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value in ("nan", "inf", "-inf"):
        return value
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " → ".join(map(text, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
