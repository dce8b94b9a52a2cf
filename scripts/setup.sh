#!/bin/sh
# Sets up .venv: `scripts/setup.sh [dev] [gpu] [notebook] [ray]`. Does nothing when it is already as asked for.
#
# Needs Python 3.11 or 3.12 with its venv module; no compiler, no Docker, no root.
# What was installed once (dev, gpu, ...) stays: `make train` after `make test` removes nothing.
set -eu
cd "$(dirname "$0")/.."

fail() {
    printf 'error: %s\n' "$1" >&2
    exit 1
}

is_supported() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null
}

find_python() {
    for candidate in ${PYTHON:-python3 python3.12 python3.11}; do
        if is_supported "$candidate"; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    if [ -n "${PYTHON:-}" ]; then
        fail "PYTHON must be Python 3.11 or 3.12, got $PYTHON ($("$PYTHON" --version 2>&1 | tail -n 1))"
    fi
    fail "Python 3.11 or 3.12 is needed, found $(python3 --version 2>&1 | tail -n 1); set PYTHON=/path/to/python3.12"
}

# uv reads no pip configuration: hand on the machine's mirror and certificates.
adopt_pip_settings() {
    settings=$("$bootstrap/bin/python" -m pip config list 2>/dev/null || true)
    export_setting UV_DEFAULT_INDEX index-url
    export_setting UV_INDEX extra-index-url
    export_setting UV_FIND_LINKS find-links
    export_setting UV_INSECURE_HOST trusted-host
    export_setting SSL_CERT_FILE cert
}

export_setting() {
    eval "present=\${$1:-}"
    value=$(printf '%s\n' "$settings" | sed -n "s/^[:a-z]*\.$2='\(.*\)'\$/\1/p" | tail -n 1)
    if [ -z "$present" ] && [ -n "$value" ]; then
        export "$1=$value"
    fi
}

bootstrap=.venv/.bootstrap

install_uv() {
    if [ "$("$bootstrap/bin/uv" --version 2>/dev/null | cut -d' ' -f1,2)" = "uv $uv_version" ]; then
        return
    fi
    echo "Setting up .venv with $("$python" --version)"
    if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        fail "$python cannot make virtual environments; on Debian and Ubuntu: sudo apt install python$version-venv"
    fi
    rm -rf "$bootstrap"
    "$python" -m venv "$bootstrap"
    "$bootstrap/bin/python" -m pip install --quiet --disable-pip-version-check \
        --require-hashes --only-binary :all: -r requirements/bootstrap.lock
}

uv_version=$(sed -n 's/^uv==\([0-9.]*\).*/\1/p' requirements/bootstrap.lock)
hash=$({ pwd && cat pyproject.toml requirements/*.lock scripts/setup.sh; } | cksum | tr ' ' -)
# A stamp lists what is installed; one that is out of date still says what to install again.
installed=$(cat .venv/.ready-* 2>/dev/null || true)
wanted=$(printf '%s\n' runtime $installed "$@" | sort -u | xargs)
stamp=.venv/.ready-$hash
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && is_supported .venv/bin/python; then
    exit 0
fi

if [ -f .venv/.path ] && [ "$(cat .venv/.path)" != "$(pwd)" ]; then
    # Copied or moved with the folder: its programs still point to the old place.
    rm -rf .venv
fi
if is_supported .venv/bin/python; then
    python=.venv/bin/python
else
    python=$(find_python)
fi
start=$(date +%s)
install_uv
adopt_pip_settings
uv="$bootstrap/bin/uv"
export UV_PYTHON_DOWNLOADS=never
if ! is_supported .venv/bin/python; then
    # The folder is there already: it holds the bootstrap.
    "$uv" venv --quiet --allow-existing --python "$python" .venv
fi

set --
for part in $wanted; do
    set -- "$@" "requirements/$part.lock"
done
if [ -n "$installed" ]; then
    echo "Bringing .venv up to date: $wanted"
else
    echo "Installing the packages (about 2.5 GB, mostly TensorFlow)"
fi
rm -f .venv/.ready-*
"$uv" pip sync --quiet --python .venv/bin/python --require-hashes --strict --compile-bytecode \
    --build-constraint requirements/build.lock "$@"
"$uv" pip install --quiet --python .venv/bin/python --no-deps \
    --build-constraint requirements/build.lock --editable .
echo "Compiling the simulator"
.venv/bin/python scripts/warm_up.py
pwd >.venv/.path
printf '%s\n' "$wanted" >"$stamp"
echo "Ready after $(($(date +%s) - start)) s"
