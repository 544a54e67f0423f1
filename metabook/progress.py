"""The progress bar of everything that takes long."""

from __future__ import annotations

import os

from tqdm.std import tqdm


def progress_bar(total: int, show: bool | None = None, **options: object) -> tqdm:
    """A bar that leaves nothing behind when it is closed.

    Args:
        total: steps, or bytes, of the whole.
        show: draw it; by default unless the environment sets METABOOK_PROGRESS=0, as recording and tests do.
        options: of `tqdm.tqdm`, such as `unit` and `desc`.
    """
    if show is None:
        show = os.environ.get("METABOOK_PROGRESS", "1") != "0"
    return tqdm(total=total, disable=not show, leave=False, dynamic_ncols=True, **options)
