"""Whether a radius is plausible: writing 8 for 8/255 is an easy mistake, and such an attack proves nothing."""

from __future__ import annotations

from fairtat.errors import warn_once

__all__ = ["check_radius"]


def check_radius(
    name: str,
    eps: float,
    norm: str,
    bounds: tuple[float, float] = (0.0, 1.0),
    *,
    error: type[Exception] = ValueError,
) -> None:
    """Refuse a radius in Linf above the range of the bounds; warn once above half of it, where all images meet in gray.

    Radii in L2 grow with the number of pixels, so none is too large.

    Raises:
        error: ``eps > high - low``; the message asks whether eps / 255 was meant.
    """
    extent = float(bounds[1]) - float(bounds[0])
    if norm != "linf" or eps <= 0.5 * extent:
        return
    meant = ""
    if 1 <= eps <= 255:
        meant = f"; did you mean {eps:g}/255" + ("?" if extent == 1 else f" of {extent:g}?")
    if eps > extent:
        raise error(f"{name} must be at most {extent:g} in linf, the range of bounds {bounds}, got {eps:g}{meant}")
    warn_once(
        f"{name} is {eps:g}, more than half of the range of bounds {bounds}: in linf every image can become plain "
        f"gray, so no class can be told from another{meant}",
        key=("radius", eps, extent),
    )
