#!/usr/bin/env bash
# Does what build.sh built run, as whom, and is it what it says?  smoke-test.sh apptainer|docker [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:-}
out=$(realpath "${2:-build/images}")
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' cad/__init__.py)

# expect WHAT WANTED FOUND
expect() {
    [ "$2" = "$3" ] || { echo "smoke-test.sh: $kind: $1: expected '$2', found '$3'" >&2; exit 1; }
}

case $kind in
apptainer)
    (cd "$out" && sha256sum --check --quiet cad.sif.sha256)
    label() { apptainer inspect --labels "$out/cad.sif" | sed -n "s/^org.opencontainers.image.$1: //p"; }
    inside() { apptainer exec "$out/cad.sif" "$@"; }
    user=$(id -u)
    ;;
docker)
    digest=$(cat "$out/docker.sha256")
    user=1000
    if docker info >/dev/null 2>&1; then
        label() { docker inspect --format "{{index .Config.Labels \"org.opencontainers.image.$1\"}}" "$digest"; }
        inside() { docker run --rm --entrypoint "$1" "$digest" "${@:2}"; }
    else
        container=$(buildah from "$digest")
        trap 'buildah rm "$container" >/dev/null' EXIT
        label() { buildah inspect --format "{{index .OCIv1.Config.Labels \"org.opencontainers.image.$1\"}}" "$container"; }
        inside() { buildah run "$container" -- "$@"; }
    fi
    ;;
*)
    echo "smoke-test.sh: say apptainer or docker" >&2
    exit 2
    ;;
esac

expect "version in the label" "$version" "$(label version)"
expect "commit in the label" "$(git rev-parse HEAD 2>/dev/null || echo unknown)" "$(label revision | cut -d- -f1)"
expect "version in the image" "cad $version" "$(inside cad --version)"
expect "user" "$user" "$(inside id -u)"
expect "the host's PYTHONPATH in the image" "" "$(PYTHONPATH=/nowhere inside printenv PYTHONPATH || true)"
expect "packages" "$(grep -v '^#\|^wheel=' containers/requirements.lock)" "$(inside python3 -c '
import importlib.metadata as m
import re
for d in sorted((re.sub("[-_.]+", "-", d.name).lower(), d.version.partition("+")[0]) for d in m.distributions()):
    if d[0] != "cad":
        print("==".join(d))
')"
inside cad doctor --root /tmp
