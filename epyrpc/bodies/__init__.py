"""Bodies: the supervised processes that handlers run in, and the head's handles to them.

The package and the function ``epyrpc.bodies()`` have one name: whichever of the two a person gets hold of, it can be
called.
"""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from epyrpc.bodies.body import Body


class _Package(types.ModuleType):
    """The package itself, which importing a module of it puts where the function was."""

    def __call__(self) -> dict[str, Body]:
        """Return the bodies of this process that have not been stopped, by name."""
        from epyrpc.bodies.registry import bodies

        return bodies()


sys.modules[__name__].__class__ = _Package
