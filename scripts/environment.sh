# Sourced by the other scripts: creates .venv on first use and updates it when the dependencies change.
# Needs nothing but Python 3.11 to 3.13 with venv. Call: ensure_environment EXTRAS (e.g. cpu,test)

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv="$root/.venv"
constraints="$root/scripts/constraints"

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
# Its dependencies come with the next install. Call: install_torch ENVIRONMENT
install_torch() {
    local pip=("$1/bin/python" -m pip install --quiet --no-deps --constraint "$constraints/cpu.txt")
    if [ -n "${INTERNVL_TORCH_INDEX:-}" ]; then
        "${pip[@]}" --index-url "$INTERNVL_TORCH_INDEX" torch
        return
    fi
    if [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then
        # A CPU build in one of pip's local folders (`find-links`).
        if "${pip[@]}" --no-index torch 2>/dev/null; then return; fi
    fi
    echo "Installing torch from pip's default index; on Linux that is a download of several GB." >&2
    "${pip[@]}" torch
}

# Whether an install had all of these extras, and nothing has changed since.
has_extras() {
    local stamp extra
    for stamp in "$venv"/.installed-*; do
        if ! [ "$stamp" -nt "$root/pyproject.toml" ] || ! [ "$stamp" -nt "$constraints/cpu.txt" ]; then continue; fi
        for extra in ${1//,/ }; do
            case ",${stamp##*/.installed-}," in *",$extra,"*) ;; *) continue 2 ;; esac
        done
        return
    done
    return 1
}

ensure_environment() {
    local extras="$1" python
    if has_extras "$extras"; then return; fi
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        python=$(find_python) || exit 1
        rm -rf "$venv" # an interrupted first run may have left a part of one
        "$python" -m venv "$venv"
    fi
    echo "Installing internvl-server[$extras] into .venv ..." >&2
    "$venv/bin/python" -c 'import torch' 2>/dev/null || install_torch "$venv"
    "$venv/bin/python" -m pip install --quiet --constraint "$constraints/cpu.txt" --editable "$root[$extras]"
    touch "$venv/.installed-$extras"
}

# A TCP port that is free now.
free_port() {
    "$venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
