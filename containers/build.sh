#!/usr/bin/env bash
# Build the image as an Apptainer file or as a Docker image, and write its digest.
#
#   containers/build.sh apptainer [OPTION]...     build/images/cad.sif and cad.sif.sha256
#   containers/build.sh docker [OPTION]...        the image cad:VERSION and build/images/docker.sha256
#   containers/build.sh base --mirror URL         only what both start from
#
#   --mirror URL            no registry: a base made by debootstrap (as root) from this Debian mirror
#   --wheels FOLDER         no package index: install from the wheels in this folder alone
#   --out FOLDER            instead of build/images
#   --build-arg KEY=VALUE   for the definition: BASE, TORCH_INDEX
#
# A Docker image is made by docker where that answers, else by buildah.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "build.sh: $*" >&2
    exit 1
}

kind=${1:-}
case $kind in
apptainer | docker | base) shift ;;
*) fail "say apptainer or docker; the head of $0 has the options" ;;
esac
mirror='' wheels='' out=build/images given=()
while [ $# -gt 0 ]; do
    [ $# -gt 1 ] || fail "$1 needs a value"
    case $1 in
    --mirror) mirror=$2 ;;
    --wheels) wheels=$(realpath -e "$2") || fail "there is no folder $2" ;;
    --out) out=$2 ;;
    --build-arg) given+=(--build-arg "$2") ;;
    *) fail "unknown option $1; the head of $0 has them" ;;
    esac
    shift 2
done
mkdir -p "$out"
out=$(realpath "$out")

version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' cad/__init__.py)
commit=$(git rev-parse HEAD 2>/dev/null || echo unknown)
if [ -n "$(git status --porcelain -- cad experiments containers pyproject.toml Apptainer.def Dockerfile 2>/dev/null)" ]; then
    commit=$commit-changed
fi
arguments=(--build-arg "VERSION=$version" --build-arg "COMMIT=$commit")

# The smallest Debian that has a Python 3.11 with venv; made once for both images.
build_base() {
    [ -n "$mirror" ] || fail "base needs --mirror"
    [ ! -d "$out/base" ] || return 0
    rm -rf "$out/base.partial"
    debootstrap --variant=minbase --include=python3-minimal,python3-venv,ca-certificates bookworm \
        "$out/base.partial" "$mirror" >"$out/debootstrap.log" || fail "debootstrap failed; see $out/debootstrap.log"
    (cd "$out/base.partial" && rm -rf var/cache/apt/*.bin var/cache/apt/archives/*.deb var/lib/apt/lists/* \
        usr/share/{doc,man,locale,info}/*)
    mv "$out/base.partial" "$out/base"
}

build_apptainer() {
    if [ -n "$mirror" ]; then
        build_base
        arguments+=(--build-arg BOOTSTRAP=localimage --build-arg "BASE=$out/base")
    fi
    [ -z "$wheels" ] || arguments+=(--bind "$wheels:/wheels")
    # Zstandard: 397 MB in 6 s of CPU time, where gzip at its level 3 takes 19 s for 418 MB.
    arguments+=(--mksquashfs-args "-comp zstd -Xcompression-level 3")
    # A name of its own until its tests have passed.
    apptainer build --force "${arguments[@]}" "${given[@]}" "$out/cad.partial.sif" Apptainer.def
    mv "$out/cad.partial.sif" "$out/cad.sif"
    (cd "$out" && sha256sum cad.sif >cad.sif.sha256)
    cat "$out/cad.sif.sha256"
}

build_docker() {
    local build
    if docker info >/dev/null 2>&1; then build=(docker build); else build=(buildah build); fi
    if [ -n "$mirror" ]; then
        build_base
        import_base "${build[0]}"
        arguments+=(--build-arg BASE=localhost/cad-base)
    fi
    [ -z "$wheels" ] || arguments+=(--build-context "wheels=$wheels")
    "${build[@]}" "${arguments[@]}" "${given[@]}" --iidfile "$out/docker.sha256" --tag "cad:$version" .
    echo "cad:$version $(cat "$out/docker.sha256")"
}

import_base() {
    if [ "$1" = docker ]; then
        tar -C "$out/base" -c . | docker import - localhost/cad-base
    else
        local container
        container=$(buildah from scratch)
        buildah add --quiet "$container" "$out/base" /
        buildah commit --quiet --rm "$container" localhost/cad-base
    fi
}

"build_$kind"
