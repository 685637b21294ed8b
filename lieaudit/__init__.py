"""The numerics of lieaudit: is this image model still equivariant, how sure are we, and which layer broke it.

>>> import lieaudit
>>> lieaudit.GENERATORS[:2]
('translation_x', 'translation_y')
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from lieaudit import _telemetry as _telemetry
from lieaudit.errors import LieauditError
from lieaudit.report import Report
from lieaudit.spec import GENERATORS, AuditSpec, Preprocessing

if TYPE_CHECKING:
    from lieaudit.api import audit
    from lieaudit.differentiation import jvp, vjp
    from lieaudit.inspection import inspect
    from lieaudit.probing import squared_norms

__version__ = "0.1.0"

__all__ = [
    "GENERATORS",
    "AuditSpec",
    "LieauditError",
    "Preprocessing",
    "Report",
    "audit",
    "inspect",
    "jvp",
    "squared_norms",
    "vjp",
]

# These bring onnx and onnxruntime with them; who only needs errors, specs and reports (the server's control plane)
# does not wait for those.
_HOMES = {
    "audit": "lieaudit.api",
    "inspect": "lieaudit.inspection",
    "jvp": "lieaudit.differentiation",
    "squared_norms": "lieaudit.probing",
    "vjp": "lieaudit.differentiation",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lieaudit' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    setattr(sys.modules[__name__], name, value)
    return value
