"""Imported before anything imports onnxruntime, whose wheels send usage data from 1.29 on unless told not to.

What is audited here belongs to the user; ``ORT_DISABLE_TELEMETRY=0`` in the environment still turns it on.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
