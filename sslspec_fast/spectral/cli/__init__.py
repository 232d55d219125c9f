"""The commands ``embed`` and ``gap``: closed forms from files, with a report."""

from ._arguments import METHODS
from ._embed import embed
from ._gap import gap

__all__ = ["METHODS", "embed", "gap"]
