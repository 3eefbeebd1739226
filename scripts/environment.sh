# Sourced by the scripts beside it: makes .venv on first use and after a change of pyproject.toml.
# Needs nothing but Python 3.11 to 3.13 with venv. Call: ensure_environment EXTRAS (e.g. cpu,test)

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv="$root/.venv"

find_python() {
    local name
    for name in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
            2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "Python 3.11, 3.12 or 3.13 with venv is needed (on Debian: python3-venv); set PYTHON to one." >&2
    return 1
}

# Plain `torch` is a CUDA build of several GB on Linux; without an NVIDIA GPU a CPU build does the same.
install_torch() {
    local pip=("$venv/bin/python" -m pip install --quiet)
    if [ -n "${INTERNVL_TORCH_INDEX:-}" ]; then
        "${pip[@]}" --index-url "$INTERNVL_TORCH_INDEX" 'torch>=2.9,<3'
        return
    fi
    if [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then
        # A CPU build that lies where pip looks first; its needs come with the next install.
        if "${pip[@]}" --no-index --no-deps torch==2.13.0 2>/dev/null; then return; fi
    fi
    echo "Installing torch from pip's own index; on Linux that is a download of several GB." >&2
    "${pip[@]}" 'torch>=2.9,<3'
}

ensure_environment() {
    local extras="$1" python stamp
    stamp="$venv/.installed-$extras"
    if [ "$stamp" -nt "$root/pyproject.toml" ]; then return; fi
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        python=$(find_python) || exit 1
        rm -rf "$venv" # what an interrupted first run may have left
        "$python" -m venv "$venv"
    fi
    echo "Installing internvl-server[$extras] into .venv ..." >&2
    "$venv/bin/python" -c 'import torch' 2>/dev/null || install_torch
    "$venv/bin/python" -m pip install --quiet --editable "$root[$extras]"
    touch "$stamp"
}
