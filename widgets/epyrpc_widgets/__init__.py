"""The live views of epyrpc: anywidget views of calls, bodies and pools.

The distribution ``epyrpc`` installs this package beside ``epyrpc`` itself, and only ``epyrpc.jupyter.display`` imports
it, lazily, the first time a notebook shows something that has a live view. Whatever is shown here has good text and
static HTML in ``epyrpc`` already: a terminal, a saved notebook and a front end without widgets show those.

There is no view yet. Each will be a module of its own, with its ``.js`` and ``.css`` beside it, and will use the public
names of ``epyrpc`` only.
"""

from __future__ import annotations

__all__: list[str] = []
