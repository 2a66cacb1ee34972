# Shared by the scripts in scripts/: a Python that fits, a virtual environment, locked packages, Debian packages.
# Sourced from the project's root folder with `set -euo pipefail` on.

VENV=${KINWATCH_VENV:-.venv}
PYTHON=$VENV/bin/python

say() { printf '%s\n' "== $*" >&2; }
die() { printf '%s\n' "error: $*" >&2; exit 2; }

find_python() {
  local candidate
  for candidate in ${KINWATCH_PYTHON:-} python3 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  die "Python 3.11, 3.12 or 3.13 is needed; install it (Debian: apt-get install python3 python3-venv) or set KINWATCH_PYTHON"
}

ensure_venv() { # [FOLDER]
  local folder=${1:-$VENV}
  if [ ! -x "$folder/bin/python" ]; then
    local python
    python=$(find_python)
    say "making a virtual environment in $folder with $("$python" --version)"
    "$python" -m venv "$folder" ||
      die "'$python -m venv' failed; on Debian install python3-venv (apt-get install python3-venv) and run again"
  fi
}

ensure_packages() { # LOCK [FOLDER]: installs the locked packages and the project itself, once per content of the lock
  local lock=requirements/$1.lock folder=${2:-$VENV} stamp
  stamp=$folder/.kinwatch-$1
  ensure_venv "$folder"
  if ! cmp -s "$lock" "$stamp" 2>/dev/null; then
    say "installing the packages of $lock"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock"
    cp "$lock" "$stamp"
  fi
  # The editable project needs its build tool, which is among the locked packages of "dev"; others fetch it.
  if ! "$folder/bin/python" -c 'import importlib.metadata as m; m.version("kinwatch")' 2>/dev/null; then
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --editable .
  fi
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then sudo -n "$@"; else return 1; fi
}

ensure_debian() { # PACKAGE...: installs what is missing where apt and root or password-less sudo are there; else says so
  local missing=() package
  command -v apt-get >/dev/null 2>&1 || { say "no apt-get here: not installing $*"; return 0; }
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return 0
  say "installing Debian packages: ${missing[*]}"
  if ! { as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >/dev/null 2>&1; then
    say "could not install ${missing[*]} (no root, no password-less sudo, or no network): what needs them is skipped"
  fi
}
