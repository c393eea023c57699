# The Debian packages that building and testing need. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2154

packages=(
  # the project
  g++ cmake ninja-build make pkgconf git
  libnuma-dev libpmem2-dev libtbb-dev libspdlog-dev libcli11-dev nlohmann-json3-dev
  libexpected-dev libisal-dev uuid-dev libgtest-dev libgmock-dev
  # what pcow-img convert runs for qcow2 and the like
  qemu-utils
  # its checks
  clang-format clang-tidy shellcheck man-db
  # its fuzz targets
  clang libclang-rt-dev
  # the QEMU build
  dpkg-dev xz-utils patch flex bison python3 python3-venv python3-setuptools
  libglib2.0-dev zlib1g-dev libfdt-dev libslirp-dev libaio-dev liburing-dev
  libcap-ng-dev libattr1-dev
  # what QEMU loads, and what its guest is made of
  seabios ipxe-qemu busybox-static cpio kmod
  # what the lab VM is made of, with the kernel
  bash gzip util-linux ndctl daxctl e2fsprogs xfsprogs numactl fio binutils
  # fetching from the Debian archive
  ca-certificates debian-archive-keyring
)

missing_packages() {
  local package
  for package in "${packages[@]}"; do
    if ! dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed; then
      printf '%s\n' "$package"
    fi
  done
}

install_packages() {
  local missing
  mapfile -t missing < <(missing_packages)
  if [ "${#missing[@]}" = 0 ]; then return; fi
  say "installing ${#missing[@]} Debian packages"
  local log
  log=$(mktemp)
  logged "$log" as_root apt-get update ||
    die "apt-get update failed; check the network and /etc/apt"
  logged "$log" as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y \
    --no-install-recommends -o DPkg::Lock::Timeout=300 "${missing[@]}" ||
    die "installing packages failed; the log is $log"
  rm -f "$log"
}
