# The patched QEMU: the newest 10.0.x source package of Debian 13 plus qemu-patches/, built into
# the cache. Sourced, not run.
#
# What a build was made from is its name: the version of the source package, the Debian release it
# was built on, and a digest of everything in this repository that goes into it. QEMU is linked
# against a stand-in for libtiering that is made from tiering.h, so changes in the library's code
# need no new QEMU.
# shellcheck shell=bash disable=SC2034,SC2154

patches_dir=$repo_dir/qemu-patches
tiering_header=$repo_dir/tiering/include/tiering/tiering.h
# shellcheck source=/dev/null
. "$patches_dir/QEMU_VERSION"

# Comments in tiering.h do not count.
qemu_recipe() {
  {
    (cd "$patches_dir" && cat series ./*.patch QEMU_VERSION FEATURES)
    gcc -fpreprocessed -dD -E -P "$tiering_header" 2>/dev/null
  } | sha256sum | cut -c 1-12
}

qemu_current() {
  printf '%s/qemu/current-%s-%s\n' "$cache_dir" "$(os_codename)" "$(qemu_recipe)"
}

newest_qemu_source() {
  private_apt apt-cache --only-source showsrc qemu | sed -n 's/^Version: //p' |
    grep -E "^([0-9]+:)?${QEMU_SERIES//./\\.}\.[0-9]+" | newest_version
}

# Makes an interface-only libtiering (header, pkg-config file, empty functions) in $1. The library
# goes to the linker as a file: for -L and -l meson would put its directory into QEMU's run path.
make_tiering_interface() {
  local dir=$1 abi
  abi=$(sed -n 's/^#define TIERING_ABI_VERSION \([0-9]*\)$/\1/p' "$tiering_header")
  mkdir -p "$dir/include/tiering" "$dir/lib/pkgconfig"
  cp "$tiering_header" "$dir/include/tiering/"
  gcc -E -P "$tiering_header" | grep -oE '\btiering_[a-z_]+ *\(' | sort -u |
    sed 's/ *($/;/; s/^/void /; s/;$/(void) { __builtin_trap(); }/' >"$dir/interface.c"
  gcc -shared -fPIC -w -Wl,-soname,"libtiering.so.$abi" -o "$dir/lib/libtiering.so" \
    "$dir/interface.c"
  printf '%s\n' "Name: tiering" "Description: guest memory on pcow images" "Version: $abi" \
    "Cflags: -I$dir/include" "Libs: -Wl,$dir/lib/libtiering.so" >"$dir/lib/pkgconfig/tiering.pc"
}

apply_patches() {
  local source=$1 version=$2 log=$3
  if ! "$patches_dir/apply" "$source" >>"$log" 2>&1; then
    tail -n 20 "$log" >&2
    die "qemu-patches/ does not apply to QEMU $version, the newest in the archive (last tested: $QEMU_TESTED); see qemu-patches/README.md for how to refresh the series"
  fi
}

configure_qemu() {
  local source=$1 build=$2 log=$3
  local features
  mapfile -t features < <(grep '^--' "$patches_dir/FEATURES")
  mkdir -p "$build"
  # Found next to the binary: ../share/qemu for firmware, ../lib for libtiering.
  # shellcheck disable=SC2016
  (cd "$build" && logged "$log" "$source/configure" --prefix=/usr --target-list=x86_64-softmmu \
    --without-default-features --disable-download --disable-install-blobs --disable-docs \
    --disable-debug-info --extra-ldflags='-Wl,-rpath,$ORIGIN/../lib' "${features[@]}") ||
    die "configuring QEMU failed"
}

# The firmware that the source package leaves out comes from Debian's packages; the option ROMs
# (direct kernel boot, KVM) belong to the QEMU version and are built from its source.
install_qemu_data() {
  local source=$1 dest=$2 log=$3
  mkdir -p "$dest" "$scratch/optionrom"
  cp "$source/pc-bios/optionrom/Makefile" "$scratch/optionrom/"
  printf '%s\n' "TOPSRC_DIR=$source" CC=gcc OBJCOPY=objcopy PYTHON=python3 TARGET_DIR= \
    >"$scratch/optionrom/config.mak"
  logged "$log" make -C "$scratch/optionrom" || die "building QEMU's option ROMs failed"
  cp "$scratch"/optionrom/*.bin "$dest/"
  # Debian 12 and 13 keep these files in different directories.
  local file
  for file in $(dpkg -L seabios ipxe-qemu | grep -E '\.(bin|rom)$'); do
    cp -Lf "$file" "$dest/"
  done
  for file in bios-256k.bin vgabios-stdvga.bin efi-virtio.rom; do
    if [ ! -e "$dest/$file" ]; then die "no $file in the packages seabios and ipxe-qemu"; fi
  done
  cp -r "$source/pc-bios/keymaps" "$dest/"
}

build_qemu() {
  local version=$1 dir=$2
  local source=$scratch/qemu build=$scratch/qemu-build log=$scratch/qemu.log
  local out=$scratch/qemu-dir jobs
  jobs=${PCOW_JOBS:-$(nproc)}
  if command -v ccache >/dev/null; then
    export CC="ccache gcc" CCACHE_BASEDIR=$scratch
  fi

  say "fetching the source of QEMU $version"
  mkdir -p "$scratch/source"
  (cd "$scratch/source" && logged "$log" private_apt apt-get -qq source --download-only \
    "qemu=$version") || die "cannot download the source package qemu $version of Debian 13"
  logged "$log" dpkg-source --no-check -x "$scratch"/source/qemu_*.dsc "$source" ||
    die "cannot unpack the QEMU source"
  apply_patches "$source" "$version" "$log"

  # Debian 12's meson is too old, so take the one that goes with the source.
  fetch_package "$scratch/meson" meson
  export PYTHONPATH=$scratch/meson/usr/lib/python3/dist-packages
  make_tiering_interface "$scratch/interface"
  export PKG_CONFIG_PATH=$scratch/interface/lib/pkgconfig

  say "building QEMU $version with $(grep -c . "$patches_dir/series") patches (takes some minutes)"
  configure_qemu "$source" "$build" "$log"
  install_qemu_data "$source" "$out/share/qemu" "$log"
  logged "$log" ninja -C "$build" -j "$jobs" qemu-system-x86_64 qemu-img qemu-io ||
    die "building QEMU failed"
  mkdir -p "$out/bin"
  cp "$build/qemu-system-x86_64" "$build/qemu-img" "$build/qemu-io" "$out/bin/"
  printf '%s\n' "${dir##*/}" >"$out/share/qemu/pcow-build"
  unset PYTHONPATH PKG_CONFIG_PATH CC CCACHE_BASEDIR

  mkdir -p "$cache_dir/qemu"
  rm -rf "$dir"
  mv "$out" "$dir"
}

setup_qemu() {
  local update=$1 current version dir
  current=$(qemu_current)
  if [ -e "$current/bin/qemu-system-x86_64" ] && [ "$update" = 0 ]; then return; fi
  open_archive "$scratch"
  version=$(newest_qemu_source)
  if [ -z "$version" ]; then
    die "Debian 13 has no QEMU $QEMU_SERIES.x source any more; see qemu-patches/README.md"
  fi
  dir=$cache_dir/qemu/${version#*:}-${current##*/current-}
  if [ ! -e "$dir/bin/qemu-system-x86_64" ]; then build_qemu "$version" "$dir"; fi
  ln -sfn "${dir##*/}" "$current"
}
