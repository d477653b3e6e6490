"""How does a number read? Short, with its unit, and "–" where it is not known."""

from html import escape
from typing import Any

NONE = "–"


def text(value: Any) -> str:
    """Any value, safe inside HTML and its attributes."""
    return escape(str(value), quote=True)


def plain(value: float | None, digits: int = 4) -> str:
    """A number to some significant digits, without a power of ten where it can be avoided."""
    if value is None:
        return NONE
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.{digits - 1}e}".replace("e-0", "e-").replace("e+0", "e")
    shown = f"{value:.{digits}g}"
    return f"{value:,.0f}" if "e" in shown else shown


def fixed(value: float | None, digits: int = 3) -> str:
    """A number with a fixed number of decimals."""
    return NONE if value is None else f"{value:.{digits}f}"


def count(value: float | None, form: str = "#.3g") -> str:
    """1234567 as 1.23M: three digits and a letter; the form "g" leaves zeros at the end out."""
    if value is None:
        return NONE
    for limit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit * 0.99995:
            return f"{value / limit:{form}}".rstrip(".") + letter
    return f"{value:.3g}"


def memory(value: float | None) -> str:
    """Bytes in KiB, MiB, GiB or TiB."""
    if value is None:
        return NONE
    for limit, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}" if value < 1000 * limit else f"{value / limit:,.0f} {unit}"
    return f"{value:.0f} B"


def duration(seconds: float | None) -> str:
    """Seconds as "40 µs", "85 ms", "12.3 s", "3 min 20 s", "2 h 05 min" or "3 d 4 h"."""
    if seconds is None:
        return NONE
    if 0 < seconds < 0.000_999_5:
        return f"{seconds * 1e6:.3g} µs"
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def share(value: float) -> str:
    """0.1234 as 12.3 %; what is above zero never reads as zero."""
    return "< 0.1 %" if 0 < value < 0.0005 else f"{value * 100:.1f} %"


def several(number: int, word: str) -> str:
    """ "1 step", "2 steps"."""
    return f"{number:,} {word}" + ("" if number == 1 else "s")
