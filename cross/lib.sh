# What building and running for another processor needs. Sourced by cross/build, cross/run and
# cross/test, after deploy/setup.sh.

CROSS=$ECOSIGHT_CACHE/cross
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}

# choose_target NAME: sets RUST_TARGET, DEB_ARCH, GNU and QEMU.
choose_target() {
    case $1 in
        aarch64) RUST_TARGET=aarch64-unknown-linux-gnu DEB_ARCH=arm64 GNU=aarch64-linux-gnu QEMU=qemu-aarch64 ;;
        armv7) RUST_TARGET=armv7-unknown-linux-gnueabihf DEB_ARCH=armhf GNU=arm-linux-gnueabihf QEMU=qemu-arm ;;
        amd64) RUST_TARGET=x86_64-unknown-linux-gnu DEB_ARCH=amd64 GNU=x86_64-linux-gnu QEMU= ;;
        *) die "no such target: $1" "there are aarch64, armv7 and amd64" ;;
    esac
    BUILT=$CARGO_TARGET_DIR/$RUST_TARGET/dist
    SYSROOT=$CROSS/sysroot-$DEB_ARCH
}

is_this_machine() { [ "$DEB_ARCH" = "$(dpkg --print-architecture 2>/dev/null)" ]; }

# foreign_apt COMMAND...: apt for DEB_ARCH alone, with a state of its own: needs no root, installs
# nothing, and does not touch what this machine has.
foreign_apt() {
    local state=$CROSS/apt-$DEB_ARCH
    mkdir -p "$state/lists/partial" "$state/archives/partial"
    touch "$state/status"
    "$1" -o "APT::Architecture=$DEB_ARCH" -o "APT::Architectures::=$DEB_ARCH" -o "Dir::State=$state" \
        -o "Dir::State::status=$state/status" -o "Dir::Cache=$state" -o "APT::Sandbox::User=$(id -un)" \
        -o "Acquire::Languages=none" "${@:2}"
}

# The target's ALSA, to link with, and its glibc, to run with in the emulator.
need_sysroot() {
    [ -e "$SYSROOT/.complete" ] && return 0
    command -v apt-get >/dev/null || die "no apt-get" "unpack libasound2-dev, libasound2, libc6 and libgcc-s1 of $DEB_ARCH into $SYSROOT, and make the file .complete in it"
    say "Unpacking ALSA and glibc for $DEB_ARCH into $SYSROOT…"
    rm -rf "$SYSROOT" "$CROSS/debs-$DEB_ARCH"
    mkdir -p "$SYSROOT" "$CROSS/debs-$DEB_ARCH"
    foreign_apt apt-get -qq update >&2 || say "some package lists did not load; going on"
    # libasound2 has another name since Debian 13.
    local alsa
    alsa=$(foreign_apt apt-cache depends --no-recommends --no-suggests libasound2-dev | sed -n 's/^ *Depends: \(libasound2[^-]*\)$/\1/p' | head -n 1)
    (cd "$CROSS/debs-$DEB_ARCH" && foreign_apt apt-get -qq download libasound2-dev "${alsa:-libasound2}" libc6 libgcc-s1) >&2 ||
        die "cannot download the packages of $DEB_ARCH" "is the Debian mirror reachable, and does it have $DEB_ARCH?"
    local package
    for package in "$CROSS/debs-$DEB_ARCH"/*.deb; do dpkg-deb -x "$package" "$SYSROOT"; done
    rm -rf "$CROSS/debs-$DEB_ARCH"
    touch "$SYSROOT/.complete"
}

# Rust's own library for the target.
need_target_std() {
    local lib
    lib=$("${RUSTC:-rustc}" --print sysroot)/lib/rustlib/$RUST_TARGET/lib
    [ -d "$lib" ] && return 0
    command -v rustup >/dev/null && rustup target add "$RUST_TARGET" >&2 && return 0
    die "no Rust library for $RUST_TARGET" "install it with rustup, or set RUSTC to a compiler that has it"
}

# Compiler, ALSA and Rust's library of the target, told to cargo.
need_cross_tools() {
    need_rust
    need_target_std
    if is_this_machine; then
        need_compiler
        have_alsa || die "libasound2-dev is missing" "ask an administrator for: apt-get install libasound2-dev"
        return 0
    fi
    command -v "$GNU-gcc" >/dev/null || install_packages "gcc-$GNU" "libc6-dev-$DEB_ARCH-cross" ||
        die "no $GNU-gcc" "ask an administrator for: apt-get install gcc-$GNU libc6-dev-$DEB_ARCH-cross"
    need_sysroot
    local name=${RUST_TARGET//-/_}
    export "CARGO_TARGET_${name^^}_LINKER=$GNU-gcc" PKG_CONFIG_ALLOW_CROSS=1
    export "PKG_CONFIG_SYSROOT_DIR_$name=$SYSROOT"
    export "PKG_CONFIG_LIBDIR_$name=$SYSROOT/usr/lib/$GNU/pkgconfig:$SYSROOT/usr/share/pkgconfig"
}

# Sets EMULATOR, the words before a program of the target that run it on the processor of a Raspberry Pi.
#
# Left alone qemu offers every extension that it knows and shows this machine's /proc/cpuinfo, and what
# chooses its arithmetic by these would choose what no Pi has. qemu -L looks below the sysroot first.
need_emulator() {
    is_this_machine && { EMULATOR=(); return 0; }
    command -v "$QEMU" >/dev/null || install_packages qemu-user || die "no $QEMU" "ask an administrator for: apt-get install qemu-user"
    need_sysroot
    local cpu=cortex-a53 part=0xd03 features='fp asimd evtstrm crc32 cpuid'
    if [ "$DEB_ARCH" = armhf ]; then
        cpu=cortex-a7 part=0xc07 features='half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm'
    fi
    mkdir -p "$SYSROOT/proc"
    printf 'processor\t: 0\nFeatures\t: %s\nCPU implementer\t: 0x41\nCPU part\t: %s\n' "$features" "$part" >"$SYSROOT/proc/cpuinfo"
    EMULATOR=(env "QEMU_CPU=$cpu" "$QEMU" -L "$SYSROOT")
}
