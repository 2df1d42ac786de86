#!/bin/sh
# While an image is built, inside it: the locked packages and cad itself into /opt/venv.
# Wheels in /wheels, where there are any, are all that is used; else the package index is asked.
set -eu
cd "$(dirname "$0")/.."

python3 -m venv /opt/venv
PATH=/opt/venv/bin:$PATH
if [ -n "$(ls /wheels 2>/dev/null)" ]; then
    set -- --no-index --find-links /wheels
elif [ -n "$TORCH_INDEX" ]; then
    set -- --extra-index-url "$TORCH_INDEX"
else
    set --
fi
# Packages that come as source are built with what is installed: first what builds, then torch, which
# some of them import while they are built.
install() {
    pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-cache-dir --no-compile \
        --no-build-isolation -c containers/requirements.lock "$@"
}
install "$@" setuptools wheel
install "$@" torch numpy
DS_BUILD_OPS=0 install "$@" -r containers/requirements.lock
install "$@" --no-deps .
pip check
pip uninstall --quiet --root-user-action=ignore -y wheel pip
find /opt/venv/lib -type d \( -name tests -o -path '*/torch/test' \) -prune -exec rm -r {} +
# Byte code now, since the image is read-only later; on all cores. Some packages carry templates that are no
# Python: not an error.
python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib >/dev/null || true
cad --version
