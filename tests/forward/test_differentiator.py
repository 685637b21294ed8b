"""The forward differentiator on trained models: accuracy and error bars against float64, chunks, determinism."""

from __future__ import annotations

import numpy as np
import pytest

from lieaudit.data import load_dataset
from lieaudit.derivatives.forward import ForwardDifferentiator
from lieaudit.errors import BudgetError
from lieaudit.graph.load import load_model
from lieaudit.spec import AuditSpec
from lieaudit.symmetries import tangents
