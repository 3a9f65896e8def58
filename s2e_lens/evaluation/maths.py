"""Whether two results are the same as mathematics, by ``math_verify`` (extra ``math``)."""

import importlib.util
import logging
import math
from typing import Any

from s2e_lens.errors import MissingPackageError

LARGEST_DIGITS = 10_000
"""Results with numbers of more digits are not worked out: a tower of powers would take for ever."""


def check_installed() -> None:
    """Raise MissingPackageError unless ``math_verify`` can be imported."""
    if importlib.util.find_spec("math_verify") is None:
        raise MissingPackageError("math-verify", extra="math", what="comparing answers as mathematics")


def same_result(reference: str, answer: str) -> bool:
    r"""Whether the result that an answer gives equals the reference: numbers, fractions, LaTeX, sets, intervals.

    Of an answer with several expressions the one that is marked as the result counts (``\boxed``, "the answer is"), or
    else the last. An answer without any is not the same.

    The library's time limits are left off, because they need the main thread. What would take for ever (9^9^9^9) is known
    by its form, and is the same only if it is written the same.

    Raises:
        MissingPackageError: if ``math_verify`` is not installed.
    """
    check_installed()
    from math_verify import parse, verify  # pyright: ignore[reportMissingImports]

    for module in ("parser", "grader"):  # they warn once that there is no time limit
        logging.getLogger(f"math_verify.{module}").setLevel(logging.ERROR)
    unlimited: Any = None
    want, got = (parse(text, parsing_timeout=unlimited) for text in (_marked(reference), answer))
    if any(_too_large(each) for each in (*want, *got)):
        return bool({str(each) for each in want} & {str(each) for each in got})
    return bool(verify(want, got, timeout_seconds=unlimited))


def _marked(reference: str) -> str:
    r"""A bare reference such as 1/2 or \frac{1}{2} between dollars, so that it is read as one expression."""
    stripped = reference.strip().rstrip(".")
    return stripped if "$" in stripped or "\\boxed" in stripped else f"${stripped}$"


def _too_large(found: Any) -> bool:
    """Whether a parsed result would have more than LARGEST_DIGITS digits somewhere within it."""
    from sympy import Basic, preorder_traversal

    return isinstance(found, Basic) and any(_digits(node) > LARGEST_DIGITS for node in preorder_traversal(found))


def _digits(node: Any) -> float:
    """log10 of the size of an expression, or more; read off its form, without working it out."""
    from sympy import Add, Mul, Number, Pow, Rational, factorial

    if isinstance(node, Number):
        return math.log10(max(abs(node.p if isinstance(node, Rational) else float(node)), 1))
    inner = [_digits(each) for each in node.args]
    if isinstance(node, Pow | factorial):
        exponent = inner[-1]
        return math.inf if exponent > 6 else 10**exponent * max(inner[0], 1)
    if isinstance(node, Mul):
        return sum(inner)
    return max(inner, default=0.0) + (math.log10(len(inner)) if isinstance(node, Add) else 0)
