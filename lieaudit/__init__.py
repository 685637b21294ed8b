"""The numerics of lieaudit: is this image model still equivariant, how sure are we, and which layer broke it.

>>> import lieaudit
>>> lieaudit.GENERATORS[:2]
('translation_x', 'translation_y')
"""

from lieaudit import _telemetry as _telemetry
from lieaudit.audit import audit
from lieaudit.errors import LieauditError
from lieaudit.report import Report
from lieaudit.spec import GENERATORS, AuditSpec, Preprocessing

__version__ = "0.1.0"

__all__ = ["GENERATORS", "AuditSpec", "LieauditError", "Preprocessing", "Report", "audit"]
