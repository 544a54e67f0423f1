"""One visual language for every figure of the book, in light and dark, and figures that move without a kernel.

`style()` once in a chapter's setup, then the helpers.  A role has one colour everywhere: `colors.scratch`,
`colors.pooled`, `colors.meta`, `colors.oracle`.  Matplotlib is loaded when something is drawn, not on import.
"""

from metabook.plotting.curves import interactive_curves
from metabook.plotting.figures import bars, decision_regions, plot_history
from metabook.plotting.images import show_episode, show_images
from metabook.plotting.interactive import Interactive
from metabook.plotting.marks import band, label_lines, scatter_classes
from metabook.plotting.prototypes import interactive_prototypes
from metabook.plotting.style import DARK_FILTER, MARKERS, color_of, colors, style

__all__ = [
    "DARK_FILTER",
    "MARKERS",
    "Interactive",
    "band",
    "bars",
    "color_of",
    "colors",
    "decision_regions",
    "interactive_curves",
    "interactive_prototypes",
    "label_lines",
    "plot_history",
    "scatter_classes",
    "show_episode",
    "show_images",
    "style",
]
