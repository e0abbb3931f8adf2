"""Extension of griffe for the site: an `Example:` of a docstring is shown as the code that it is.

The parser of Google's style knows the section by its plural only; under any other name its text would be read
as Markdown, in which a prompt is a quotation and a list of results a link.
"""

from __future__ import annotations

import re
from typing import final

import griffe

_TITLE = re.compile(r"^Example:$", re.MULTILINE)


@final
class ExamplesAsCode(griffe.Extension):
    """Reads the section `Example:` as griffe reads `Examples:`."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Rename the section in the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = rename_section(obj.docstring.value)


def rename_section(text: str) -> str:
    """Return a docstring, without its common indent, with the section under the name that is parsed."""
    return _TITLE.sub("Examples:", text)
