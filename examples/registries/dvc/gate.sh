#!/bin/sh
# Compare with the report that the tag `champion` holds; the first version has none.
set -eu
mkdir -p gate
if git show champion:./gate/report.json > baseline.json 2> /dev/null; then
  set -- --baseline baseline.json
else
  set -- --first-version limits
fi
exec lieaudit gate model.onnx --data data.npz --preprocess "${PREPROCESS:-none}" --policy lieaudit.yaml "$@" \
  --report gate/report.json --html gate/page.html --hook "python3 metrics_hook.py gate/report.json gate/metrics.json"
