"""A drawing of boxes, arrows and words as SVG text, the same everywhere; knows nothing of what is drawn.

Pictures stand on a light ground of their own, so that they are legible on a dark page, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

GROUND, INK, SOFT = "#fbfbf8", "#22272e", "#5c6670"
WHITE, GREY, BLUE, ORANGE, GREEN, RED = "#ffffff", "#e6e8ea", "#d6e6f5", "#fbe3c2", "#d3ecd9", "#f6d5d0"
FORWARD, BACKWARD, KEPT = "#22272e", "#b5321f", "#1b7a3d"
_FONT = "font-family=\"system-ui, 'Segoe UI', Helvetica, Arial, sans-serif\""

Point = tuple[float, float]


@dataclass(slots=True)
class Canvas:
    """Elements in the order in which they are drawn; sizes in pixels, the origin at the top left."""

    width: float
    height: float
    title: str
    """What a screen reader says."""
    parts: list[str] = field(default_factory=list)

    def box(
        self, x: float, y: float, w: float, h: float, words: str, *, fill: str = WHITE, size: int = 14
    ) -> None:
        """Draw a box with words in its middle; the lines after the first are smaller."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="7" fill="{fill}" stroke="{INK}"/>'
        )
        lines = words.split("\n")
        top = y + h / 2 - 8 * (len(lines) - 1) + 5
        for place, line in enumerate(lines):
            height, colour = (size, INK) if place == 0 else (12, SOFT)
            self.words(x + w / 2, top + 16 * place, line, size=height, colour=colour, is_bold=place == 0)

    def frame(self, x: float, y: float, w: float, h: float, words: str) -> None:
        """Draw a dashed frame with its name inside, at the top left."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="9" fill="none" stroke="{SOFT}" '
            f'stroke-dasharray="4 4"/>'
        )
        self.words(x + 10, y + 18, words, size=13, colour=SOFT, anchor="start")

    def bar(self, x: float, y: float, w: float, h: float, *, fill: str) -> None:
        """Draw a bar without words."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" fill="{fill}" stroke="{INK}"/>'
        )

    def arrow(
        self,
        points: Sequence[Point],
        *,
        colour: str = FORWARD,
        is_dashed: bool = False,
        has_head: bool = True,
    ) -> None:
        """Draw a line through points, with a head at the last one."""
        path = " ".join(f"{'M' if place == 0 else 'L'}{x:g} {y:g}" for place, (x, y) in enumerate(points))
        self._line(path, colour, is_dashed=is_dashed, has_head=has_head)

    def curve(
        self, start: Point, bend: Point, end: Point, *, colour: str = FORWARD, is_dashed: bool = False
    ) -> None:
        """Draw a curve from one point to another that is drawn towards a third, with a head."""
        path = f"M{start[0]:g} {start[1]:g} Q{bend[0]:g} {bend[1]:g} {end[0]:g} {end[1]:g}"
        self._line(path, colour, is_dashed=is_dashed, has_head=True)

    def _line(self, path: str, colour: str, *, is_dashed: bool, has_head: bool) -> None:
        dashes = ' stroke-dasharray="6 4"' if is_dashed else ""
        head = f' marker-end="url(#head-{colour[1:]})"' if has_head else ""
        self.parts.append(
            f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6"{dashes}{head}/>'
        )

    def words(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: int = 13,
        colour: str = INK,
        anchor: str = "middle",
        is_bold: bool = False,
    ) -> None:
        """Write one line; `y` is its base line."""
        weight = ' font-weight="600"' if is_bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"{weight}>'
            f"{escape(text)}</text>"
        )

    def circle(self, x: float, y: float, words: str) -> None:
        """Draw a small circle with a sign in it."""
        self.parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="13" fill="{WHITE}" stroke="{INK}"/>')
        self.words(x, y + 5, words, size=15, is_bold=True)

    def render(self) -> str:
        """Return the SVG file."""
        heads = "".join(
            f'<marker id="head-{colour[1:]}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" '
            f'markerHeight="8" orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z" fill="{colour}"/>'
            f"</marker>"
            for colour in (FORWARD, BACKWARD, KEPT, SOFT)
        )
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:g} {self.height:g}" '
                f'width="{self.width:g}" height="{self.height:g}" role="img" {_FONT}>',
                f"<title>{escape(self.title)}</title>",
                f"<defs>{heads}</defs>",
                f'<rect width="{self.width:g}" height="{self.height:g}" rx="10" fill="{GROUND}"/>',
                *self.parts,
                "</svg>",
                "",
            ]
        )
