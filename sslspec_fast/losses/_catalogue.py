"""All losses, a row each: what a loss takes, its modules, and the losses whose place they take.

The function of a row stands in the file of its name, which also names its reference, its page in
docs/math and its test. `GraphLoss`, `matryoshka`, `optimality_gap`, the command line, the table in
the README and the tests read these rows.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# what a function takes before its keywords
TWO_VIEWS = "two views"
QUEUE = "two views and a queue"
VIEWS = "views"
ROWS = "rows"
LABELS = "rows and labels"
GRAPH = "rows and graph"
VIEWS_GRAPH = "two views and graph"
PROTOTYPES = "rows or views, and prototypes"
TARGETS = "rows and targets"
PATCHES = "patches of images, twice"
NAMED = "the name of a loss of two views, and two views"


@dataclass(frozen=True)
class Row:
    """A loss.

    name: of its function. title: of its page. inputs: one of the words above.
    modules: names in `losses`; GraphLoss is that of every loss of a graph, and MemoryBank keeps
        the queue of `moco`.
    drop_in: the libraries whose losses of that name the modules (else the function) are equal to.
    scale: the keyword of its temperature or logit scale; empty without one.
    unit_rows: it takes rows of unit length as they are.
    closed_form: the name of its optimum in `spectral`; GraphLoss takes a loss of a graph by it too.
    """

    name: str
    title: str
    inputs: str
    modules: tuple[str, ...] = ()
    drop_in: tuple[str, ...] = ()
    scale: str = ""
    unit_rows: bool = False
    closed_form: str | None = None

    @property
    def function(self) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(
            importlib.import_module(f".{self.name}", __package__), self.name
        )
        return function

    @property
    def keywords(self) -> tuple[str, ...]:
        """What the function takes by keyword only."""
        parameters = inspect.signature(self.function).parameters.values()
        return tuple(p.name for p in parameters if p.kind == p.KEYWORD_ONLY)

    @property
    def scale_default(self) -> float | None:
        """What the scale is where the caller does not give it; None where the caller must."""
        found = inspect.signature(self.function).parameters[self.scale].default
        return None if found is inspect.Parameter.empty else float(found)


CATALOGUE = {
    row.name: row
    for row in (
        Row(
            "nt_xent",
            "NT-Xent",
            TWO_VIEWS,
            ("NTXentLoss",),
            ("lightly", "solo-learn"),
            scale="temperature",
        ),
        Row(
            "info_nce",
            "InfoNCE",
            TWO_VIEWS,
            ("InfoNCELoss",),
            ("info-nce-pytorch", "sentence-transformers"),
            scale="temperature",
        ),
        Row(
            "moco",
            "MoCo",
            QUEUE,
            ("MemoryBank",),
            ("solo-learn", "sslsv"),
            scale="temperature",
        ),
        Row(
            "clip",
            "CLIP",
            TWO_VIEWS,
            ("CLIPLoss",),
            ("open_clip",),
            scale="logit_scale",
            unit_rows=True,
        ),
        Row(
            "siglip",
            "SigLIP",
            TWO_VIEWS,
            ("SigLIPLoss",),
            ("open_clip",),
            scale="logit_scale",
            unit_rows=True,
        ),
        Row(
            "sup_con",
            "SupCon",
            LABELS,
            ("SupConLoss",),
            ("SupContrast",),
            scale="temperature",
            unit_rows=True,
        ),
        Row(
            "dcl",
            "DCL and DCLW",
            TWO_VIEWS,
            ("DCLLoss", "DCLWLoss"),
            ("lightly",),
            scale="temperature",
        ),
        Row(
            "vicreg",
            "VICReg",
            TWO_VIEWS,
            ("VICRegLoss",),
            ("lightly", "the authors' code"),
        ),
        Row(
            "barlow_twins",
            "Barlow Twins",
            TWO_VIEWS,
            ("BarlowTwinsLoss",),
            ("lightly", "the authors' code"),
        ),
        Row(
            "spectral_contrastive",
            "Spectral contrastive loss",
            TWO_VIEWS,
            ("SpectralContrastiveLoss",),
            ("the authors' code",),
            unit_rows=True,
        ),
        Row(
            "negative_cosine",
            "Negative cosine similarity",
            TWO_VIEWS,
            ("NegativeCosineSimilarity",),
            ("lightly",),
        ),
        Row(
            "prototype_cross_entropy",
            "Soft cross-entropy over prototypes",
            PROTOTYPES,
        ),
        Row("dino", "DINO", PROTOTYPES, ("DINOLoss",), ("lightly", "stable-pretraining")),
        Row("ibot", "iBOT", PROTOTYPES, ("IBOTPatchLoss", "IBOTPlusPlusPatchLoss"), ("lightly",)),
        Row("swav", "SwAV", PROTOTYPES, ("SwaVLoss",), ("lightly",), scale="temperature"),
        Row("capi", "CAPI", PROTOTYPES, ("CAPILoss",), ("lightly",)),
        Row(
            "msn",
            "MSN and PMSN",
            PROTOTYPES,
            ("MSNLoss", "PMSNLoss"),
            ("lightly",),
            scale="temperature",
        ),
        Row("proto_nce", "ProtoNCE", PROTOTYPES),
        Row("ressl", "ReSSL", QUEUE, (), ("solo-learn",), scale="temperature"),
        Row("x_clr", "X-CLR", TARGETS, scale="temperature", closed_form="x_clr"),
        Row("falcon", "FALCON", TWO_VIEWS, ("FalconLoss",)),
        Row(
            "koleo",
            "KoLeo",
            ROWS,
            ("KoLeoLoss",),
            ("lightly", "DINOv2", "DINOv3"),
            closed_form="koleo",
        ),
        Row("gram_anchor", "Gram anchoring", PATCHES, ("GramAnchorLoss",), ("DINOv3",)),
        Row("sigreg", "SIGReg", VIEWS, ("SIGReg",), ("lightly", "lejepa")),
        Row("lejepa", "LeJEPA", VIEWS, ("LeJEPALoss",), ("lightly",)),
        Row("matryoshka", "Matryoshka", NAMED, ("MatryoshkaLoss",)),
        Row(
            "graph_info_nce",
            "InfoNCE on a graph",
            GRAPH,
            ("GraphLoss",),
            scale="temperature",
            closed_form="info_nce",
        ),
        Row(
            "graph_siglip",
            "SigLIP on a graph",
            VIEWS_GRAPH,
            ("GraphSigLIPLoss",),
            scale="logit_scale",
            unit_rows=True,
        ),
        Row(
            "graph_vicreg",
            "VICReg on a graph",
            GRAPH,
            ("GraphLoss",),
            closed_form="vicreg",
        ),
        Row(
            "graph_barlow_twins",
            "Barlow Twins on a graph",
            GRAPH,
            ("GraphLoss",),
            closed_form="barlow_twins",
        ),
        Row(
            "graph_spectral_contrastive",
            "Spectral contrastive loss on a graph",
            GRAPH,
            ("GraphLoss",),
            closed_form="spectral_contrastive",
        ),
        Row(
            "ls_simclr",
            "Least-squares SimCLR",
            GRAPH,
            ("GraphLoss",),
            closed_form="simclr",
        ),
        Row("dirichlet_energy", "Dirichlet energy", GRAPH, ("GraphLoss",)),
        Row("graph_covariance", "Graph covariance", GRAPH),
    )
}


def of_closed_form(name: str) -> Row | None:
    """The loss whose optimum is `spectral.<name>`."""
    return next((row for row in CATALOGUE.values() if row.closed_form == name), None)


def markdown() -> str:
    """The table of all losses, as the README has it."""
    lines = ["| loss | function | module | drop-in for |", "|---|---|---|---|"]
    for row in CATALOGUE.values():
        call = f'("{row.name}")' if row.modules == ("GraphLoss",) else ""
        modules = ", ".join(f"`sf.{module}{call}`" for module in row.modules)
        page = f"[{row.title}](docs/math/{row.name}.md)"
        lines.append(f"| {page} | `F.{row.name}` | {modules} | {', '.join(row.drop_in)} |")
    return "\n".join(lines)
