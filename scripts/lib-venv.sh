# Sourced by scripts/quickstart, scripts/test and .ci/run: makes .venv, and builds what is out of date in it.
# Expects ROOT. Works on a fresh Debian 12 with python3 and gcc, installs what is missing when it may.

VENV="$ROOT/.venv"

say() { printf '%s\n' "$*" >&2; }

die() {
    say "$*"
    exit 1
}

# install_apt PACKAGE...: by apt when we are root, else say what to install and answer 1.
install_apt() {
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        say "missing; install it with: sudo apt-get install $*"
        return 1
    fi
    say "installing: $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -q --no-install-recommends "$@" >/dev/null 2>&1 </dev/null && return 0
    apt-get update -q >/dev/null 2>&1 </dev/null || true
    apt-get install -y -q --no-install-recommends "$@" >&2 </dev/null
}

# without_starting_services COMMAND...: maintainer scripts that ask whether they may start a service are told no
# (policy-rc.d, status 101).
without_starting_services() {
    local policy=/usr/sbin/policy-rc.d status=0
    if [ "$(id -u)" != 0 ] || [ -e "$policy" ]; then
        "$@"
        return
    fi
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    "$@" || status=$?
    rm -f "$policy"
    return "$status"
}

# The first interpreter of 3.11 or newer; PYTHON names another.
find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3.11 python3 python3.12 python3.13 python3.14 /usr/bin/python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

has_venv_module() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

has_headers() {
    "$1" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'
}

has_compiler() {
    command -v "${CC:-gcc}" >/dev/null && echo '#include <stdio.h>' | "${CC:-gcc}" -E - >/dev/null 2>&1
}

# Python, its venv module, its headers and a C compiler; answers with the interpreter in PYTHON_FOUND.
require_toolchain() {
    local missing=()
    PYTHON_FOUND=$(find_python) || { install_apt python3 && PYTHON_FOUND=$(find_python); } || die "needs Python 3.11"
    has_venv_module "$PYTHON_FOUND" || missing+=(python3-venv)
    has_headers "$PYTHON_FOUND" || missing+=(python3-dev)
    has_compiler || missing+=(gcc libc6-dev)
    if [ ${#missing[@]} -gt 0 ]; then
        install_apt "${missing[@]}" || die "cannot go on without: ${missing[*]}"
    fi
}

make_venv() {
    [ -x "$VENV/bin/python" ] && "$VENV/bin/python" -c 'import pip' 2>/dev/null && return 0
    require_toolchain
    say "making $VENV"
    "$PYTHON_FOUND" -m venv "$VENV"
}

# What an installation of the package depends on, and what the compiled modules depend on, each as one digest.
digest_install() {
    (cd "$ROOT" && { cat pyproject.toml setup.py MANIFEST.in; "$VENV/bin/python" -VV; echo "$1"; } | sha256sum)
}

digest_sources() {
    (cd "$ROOT" && {
        find doorman -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' -o -name '*.h' -o -name '*.lds' | LC_ALL=C sort | xargs -r sha256sum
        sed -n 's/^ *"\(doorman\/.*\.py\)",$/\1/p' setup.py | xargs -r sha256sum
        sha256sum setup.py
        "$VENV/bin/python" -VV
        find doorman -name '*.so' | LC_ALL=C sort
    } | sha256sum)
}

pip_install() { "$VENV/bin/python" -m pip install -q --disable-pip-version-check "$@" </dev/null; }

list_build_requirements() {
    "$VENV/bin/python" -c 'import tomllib, sys; print(*tomllib.load(sys.stdin.buffer)["build-system"]["requires"], sep="\n")' \
        <"$ROOT/pyproject.toml"
}

# build_package EXTRA[,EXTRA]: the package in development mode with these extras; only what is out of date. It is built
# with the Cython of .venv: in an environment that pip makes for a build, Cython is new, and takes all C for outdated.
build_package() {
    local extras=$1 stamp installed requirements
    make_venv
    stamp="$VENV/.installed-${extras//,/-}"
    installed=$(digest_install "$extras")
    if [ "$(cat "$stamp" 2>/dev/null)" != "$installed" ]; then
        require_toolchain
        say "installing pg_doorman with [$extras] into $VENV"
        mapfile -t requirements < <(list_build_requirements)
        pip_install "${requirements[@]}"
        (cd "$ROOT" && pip_install --no-build-isolation -e ".[$extras]")
        printf '%s\n' "$installed" >"$stamp"
        digest_sources >"$VENV/.built"
    fi
    build_extensions
}

build_extensions() {
    [ "$(cat "$VENV/.built" 2>/dev/null)" = "$(digest_sources)" ] && return 0
    require_toolchain
    say "building the compiled modules"
    find "$ROOT/doorman" -name '*.so' ! -name '_compiled.*' -delete # of a time when each module was a library
    local log="$VENV/build.log"
    if ! (cd "$ROOT" && "$VENV/bin/python" setup.py -q build_ext --inplace -j "$(nproc)" >"$log" 2>&1 </dev/null); then
        tail -n 60 "$log" >&2
        die "the build failed; the whole output is in $log"
    fi
    digest_sources >"$VENV/.built"
}
