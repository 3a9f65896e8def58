"""Where texts beside marks fit: none over another, none over a mark, and none at all where there is no room."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Shaped

Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in pixels."""

NARROW = 320
"""The width in pixels at which labels must not collide; in a wider figure they are further apart."""

SIDES: dict[str, tuple[int, int]] = {
    "middle right": (1, 0),
    "middle left": (-1, 0),
    "top center": (0, 1),
    "bottom center": (0, -1),
    "top right": (1, 1),
    "bottom right": (1, -1),
    "top left": (-1, 1),
    "bottom left": (-1, -1),
}
"""plotly's places of a text beside its mark, in the order in which they are tried."""


def place_labels(
    points: Float[np.ndarray, "point 2"],
    texts: Sequence[str],
    *,
    size: tuple[float, float],
    marks: Float[np.ndarray, "mark 2"],
    line: Float[np.ndarray, "step 2"] | None = None,
    order: Iterable[int] | None = None,
    font: float = 11.0,
    radius: float = 4.0,
) -> list[str | None]:
    """The side of its point on which each text is written, or None where it would hide something.

    Args:
        points: what is labelled, in pixels from the lower left of the plot.
        texts: what is written; an empty one needs no place.
        size: width and height of the plot in pixels; a text stays inside.
        marks: all marks of the plot, the labelled ones among them.
        line: points of a line that should be left free where possible.
        order: who is served first; the given order by default.
        font: size of the texts.
        radius: of the marks.
    """
    found: list[str | None] = [None] * len(texts)
    taken = [_around(x, y, radius) for x, y in marks.tolist()]
    path = np.zeros((0, 2)) if line is None else line
    for i in range(len(texts)) if order is None else order:
        boxes = {side: label_box(points[i], texts[i], side, font=font, radius=radius) for side in SIDES}
        free = {
            side: box for side, box in boxes.items() if _inside(box, size) and not any(_overlap(box, other) for other in taken)
        }
        if texts[i] and free:
            side = min(free, key=lambda each: _covered(free[each], path))
            found[i] = side
            taken.append(free[side])
    return found


def label_box(point: Shaped[np.ndarray, "2"], text: str, side: str, *, font: float = 11.0, radius: float = 4.0) -> Box:
    """About the pixels that a text takes beside its mark (plotly keeps a small distance)."""
    across, up = SIDES[side]
    width, height, away = 0.6 * font * len(text), 1.1 * font, radius + 2
    x, y = float(point[0]) + across * (away + width / 2), float(point[1]) + up * (away + height / 2)
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def to_pixels(
    x: Float[np.ndarray, " point"],
    y: Float[np.ndarray, " point"],
    across: Sequence[float],
    up: Sequence[float],
    size: tuple[float, float],
) -> Float[np.ndarray, "point 2"]:
    """Places of values in a plot of a size whose axes have these ranges."""
    return np.stack(
        [size[0] * (x - across[0]) / (across[1] - across[0]), size[1] * (y - up[0]) / (up[1] - up[0])], axis=1
    ).astype(np.float64)


def _around(x: float, y: float, radius: float) -> Box:
    return (x - radius, y - radius, x + radius, y + radius)


def _inside(box: Box, size: tuple[float, float]) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= size[0] and box[3] <= size[1]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _covered(box: Box, path: Float[np.ndarray, "step 2"]) -> int:
    """How many points of a path lie in a box."""
    left, bottom, right, top = box
    inside = (path[:, 0] > left) & (path[:, 0] < right) & (path[:, 1] > bottom) & (path[:, 1] < top)
    return int(inside.sum())
