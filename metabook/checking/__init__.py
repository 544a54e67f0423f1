"""Claims that a chapter makes and must keep (`expect`), and exercises that it grades on the spot (`check`).

The graders live in `metabook.checking.graders`, one module per chapter.  Reading them gives the answers away.
"""

from metabook.checking.claims import expect
from metabook.checking.exercises import check

__all__ = ["check", "expect"]
