#!/bin/sh
# Builds the image, from the root of a checkout: build.sh [check]
#
# `check` also runs the launcher's tests in it, without those that start ranks or Slurm, on the installed package.
# Docker or Podman makes the image gemfit:VERSION, Apptainer dist/gemfit.sif; BUILDER names one of them. The first that
# is installed and answers is taken. Exit status 2: there is none.
set -eu

version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' src/gemfit/__init__.py)
tests='python -m venv --system-site-packages /tmp/dev &&
  /tmp/dev/bin/pip install --quiet --upgrade "pip>=25.1" &&
  /tmp/dev/bin/pip install --quiet --constraint constraints.txt --group dev &&
  HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis /tmp/dev/bin/python -m pytest -p no:cacheprovider -m "not slow and not dist and not slurm" tests/launch'

is_there() {
  case $1 in
    docker | podman) "$1" info >/dev/null 2>&1 ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

builder=
for name in ${BUILDER:-docker podman apptainer}; do
  if is_there "$name"; then
    builder=$name
    break
  fi
done

case $builder in
  docker | podman)
    "$builder" build --file examples/containers/Dockerfile --tag "gemfit:$version" .
    echo "image: gemfit:$version; for Apptainer: \`apptainer build dist/gemfit.sif docker-daemon://gemfit:$version\`"
    [ "${1:-}" != check ] || exec "$builder" run --rm --shm-size 1g --volume "$PWD:/checkout:ro" --workdir /checkout \
      --entrypoint sh "gemfit:$version" -c "$tests"
    ;;
  apptainer)
    mkdir -p dist
    apptainer build --force dist/gemfit.sif examples/containers/apptainer.def
    echo "image: dist/gemfit.sif"
    [ "${1:-}" != check ] || exec apptainer exec --containall --bind "$PWD:/checkout:ro" --bind /tmp --pwd /checkout \
      dist/gemfit.sif sh -c "$tests"
    ;;
  *)
    echo "error: ${BUILDER:-docker, podman, apptainer}: none is installed here and answers; build the image where one" \
      "does, or install gemfit into an environment (docs/slurm.md)" >&2
    exit 2
    ;;
esac
