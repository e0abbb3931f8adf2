"""Reports as files: `report.md` and `report.png` at a run's end; Markdown, HTML and figures on demand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from esper.leyline import RunDirectoryError
from esper.nissa.analytics.document import Document, Image, render_html, render_markdown
from esper.nissa.analytics.drawing import FigureFormat, save_figure
from esper.nissa.analytics.run_document import TIMELINE, build_run_document
from esper.nissa.files import write_atomically
from esper.nissa.reader import RunLog, read_run

ReportFormat = Literal["md", "html"]
REPORT_FORMATS: tuple[ReportFormat, ...] = ("md", "html")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPaths:
    """Where the report is."""

    markdown: Path
    picture: Path


def write_report(run_dir: Path, instance: int = 0) -> ReportPaths:
    """Write `report.md` and `report.png` into a run directory; works on an unfinished run too.

    Args:
        run_dir: A folder with event files.
        instance: Which host run of a fleet.

    Raises:
        RunDirectoryError: If there is no event file.
        DataError: If an event file has no header of this version.
        OSError: If the folder cannot be written.

    Example:
        >>> write_report(run_dir).markdown.name
        'report.md'
    """
    document = build_run_document(read_run(run_dir), None, instance)
    paths = ReportPaths(markdown=run_dir / "report.md", picture=run_dir / "report.png")
    timeline = next(figure for figure in document.figures if figure.name == TIMELINE)
    write_atomically(paths.picture, save_figure(timeline.draw(), "png").data)
    text = render_markdown(document, {TIMELINE: paths.picture.name})
    write_atomically(paths.markdown, text.encode())
    return paths


def render_report(log: RunLog, instance: int = 0) -> str:
    """Return the text of `report.md`.

    Example:
        >>> render_report(log).splitlines()[0]
        '# Growth run: synthetic'
    """
    return render_markdown(build_run_document(log, None, instance), {TIMELINE: "report.png"})


def write_document(
    document: Document,
    folder: Path,
    *,
    formats: Sequence[ReportFormat] = REPORT_FORMATS,
    figures: FigureFormat = "svg",
    made_by: str = "esper-lite",
) -> tuple[Path, ...]:
    """Write a document into a folder; return the files, `report.html` and `report.md` first.

    The page holds its figures itself; the Markdown text has them beside it, one file each.

    Args:
        document: What to say.
        folder: Made if it is not there.
        formats: "md", "html", or both.
        figures: Format of the figures.
        made_by: Last line of the page.

    Raises:
        RunDirectoryError: If the folder cannot be written.

    Example:
        >>> import tempfile
        >>> document = Document(title="Two runs", head=(), sections=())
        >>> [path.name for path in write_document(document, Path(tempfile.mkdtemp()))]
        ['report.html', 'report.md']
    """
    images = draw_images(document, figures)
    files: list[tuple[Path, bytes]] = []
    if "html" in formats:
        page = render_html(document, images, made_by=made_by)
        files.append((folder / "report.html", page.encode()))
    if "md" in formats:
        names = {name: f"{name}.{figures}" for name in images}
        files.append((folder / "report.md", render_markdown(document, names).encode()))
        files += [(folder / names[name], image.data) for name, image in images.items()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, data in files:
            write_atomically(path, data)
    except OSError as error:
        raise RunDirectoryError(f"{folder} cannot be written: {error.strerror}") from error
    return tuple(path for path, _ in files)


def draw_images(document: Document, figures: FigureFormat = "svg") -> dict[str, Image]:
    """Return every figure of a document, drawn, by name.

    Example:
        >>> draw_images(build_run_document(log), "png")["timeline"].media_type
        'image/png'
    """
    return {figure.name: save_figure(figure.draw(), figures) for figure in document.figures}
