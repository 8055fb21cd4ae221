#!/usr/bin/env bash
# Package: openvino 2026.4.1 with openvino-telemetry 2025.2.0, which it depends on.
# One would guess: importing a package that runs models on this machine reads files, and leaves none behind.
# What happens: `import openvino` imports its converter, whose import sends an event, and creates a folder in the home with a
#   client identifier, unless a file there says no. Nobody is asked. Where openvino_telemetry cannot be imported, a stub
#   takes its place and everything else works.
# Hits: whoever ships a device or a service whose home is read-only, watched, or promised to stay as it was.
# Instead: run `opt_in_out --opt_out` once for each home; or hide openvino_telemetry while openvino is imported, as below; or
#   install openvino with --no-deps beside numpy.
# Seen (files below an empty home after the import; the network is cut off by a proxy that is not there):
#   import openvino      2
#   with the stub        0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile openvino==2026.4.1 openvino-telemetry==2025.2.0 numpy==2.4.6
mkdir usual hidden
import_in() {
    env -u CI -u TF_BUILD -u JENKINS_URL -u USER HOME="$work/$1" https_proxy=http://127.0.0.1:9 http_proxy=http://127.0.0.1:9 \
        venv/bin/python -B -c "$2" >/dev/null 2>&1
}
import_in usual 'import openvino'
import_in hidden 'import sys; sys.modules["openvino_telemetry"] = None; import openvino; openvino.Core()'
usual=$(find usual -type f | wc -l)
hidden=$(find hidden -type f | wc -l)
echo "openvino 2026.4.1, openvino-telemetry 2025.2.0"
echo "expected by a reader: 0 files in both homes"
echo "import openvino      $usual"
echo "with the stub        $hidden"
[ "$usual" -gt 0 ] || { echo "changed: importing openvino leaves nothing in the home any more"; exit 1; }
[ "$hidden" -eq 0 ] || { echo "changed: hiding openvino_telemetry is not enough any more"; exit 1; }
