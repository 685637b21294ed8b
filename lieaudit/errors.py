"""The errors lieaudit raises.

::

    LieauditError
    ├── ModelError         the ONNX file or graph
    │   └── UnsupportedOpError
    ├── DataError          the images or their preprocessing
    ├── SpecError          a field of the audit specification
    ├── ProviderError      onnxruntime or its execution provider
    ├── BudgetError        one row does not fit the memory budget
    ├── SourceError        the torch source of the model
    ├── PolicyError        the gate's policy file
    ├── ComparisonError    two reports that cannot be compared
    └── MissingPackageError

Every error names what it is about (``subject``: a tensor, op, field or file) and what to do (``hint``); ``reason``
is a stable UPPER_SNAKE code that reaches the client of the service unchanged.
"""

from __future__ import annotations


class LieauditError(Exception):
    """Base of all errors that lieaudit raises on purpose.

    Parameters
    ----------
    message
        What is wrong, in one sentence.
    reason
        Stable code in UPPER_SNAKE, for programs.
    subject
        The tensor, op, field or file it is about; may be empty.
    hint
        What the user can do; may be empty.
    """

    def __init__(self, message: str, *, reason: str, subject: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.subject = subject
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.reason, self.subject, self.hint)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


def _rebuild(kind: type[LieauditError], message: str, reason: str, subject: str, hint: str) -> LieauditError:
    return kind(message, reason=reason, subject=subject, hint=hint)


class ModelError(LieauditError):
    """The ONNX file or its graph cannot be audited."""


class UnsupportedOpError(ModelError):
    """An op of the graph cannot be run or differentiated as asked."""


class DataError(LieauditError):
    """The images, labels or their preprocessing are unusable."""


class SpecError(LieauditError):
    """A field of the audit specification is invalid or contradicts the model."""


class ProviderError(LieauditError):
    """The execution provider asked for is missing or would not run the whole graph."""


class BudgetError(LieauditError):
    """Not even one row fits the memory budget."""


class SourceError(LieauditError):
    """The torch source cannot be loaded, or is not the same function as the ONNX model."""


class PolicyError(LieauditError):
    """The gate's policy is not valid."""


class ComparisonError(LieauditError):
    """Two reports were measured on different terms, so comparing them would mean nothing."""


class MissingPackageError(LieauditError):
    """An optional package is needed for what was asked."""
