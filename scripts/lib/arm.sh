# Shared by the scripts that run ARM programs under qemu-user: a folder `root` with Python 3.11 of Debian 12 for arm64, and
# wheels from the package index. Sourced inside the folder for downloads, with `set -euo pipefail` on and $python set.

make_root() {
  if [ ! -e root/usr/bin/python3.11 ]; then
    mkdir -p apt/lists/partial apt/cache/archives/partial debs root
    # A private state of apt: the host's architectures and packages stay as they are.
    local apt_options=(-o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::status=/dev/null
      -o Dir::State::lists="$PWD/apt/lists" -o Dir::Cache="$PWD/apt/cache" -o APT::Sandbox::User=)
    apt-get "${apt_options[@]}" update -q
    (cd debs && apt-get "${apt_options[@]}" download python3.11 python3.11-minimal libpython3.11-stdlib \
      libpython3.11-minimal libc6 libgcc-s1 libstdc++6 zlib1g libbz2-1.0 liblzma5 libffi8 libssl3 libexpat1 libsqlite3-0 \
      libuuid1 libreadline8 libncursesw6 libtinfo6 libcrypt1 libdb5.3 libnsl2 libtirpc3 media-types)
    for package in debs/*.deb; do dpkg -x "$package" root; done
  fi
  [ -e root/lib ] || ln -s usr/lib root/lib
}

wheels() { # FOLDER PLATFORM REQUIREMENT...: installed again when the requirements are others
  [ "$(cat "$1/.requirements" 2>/dev/null)" = "${*:3}" ] && return
  rm -rf "$1"
  "$python" -m pip install -q --target "$1" --platform "$2" --platform manylinux_2_17_aarch64 \
    --platform manylinux2014_aarch64 --python-version 3.11 --only-binary=:all: --no-deps "${@:3}"
  echo "${*:3}" >"$1/.requirements"
}
