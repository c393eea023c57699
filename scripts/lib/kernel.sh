# The guest kernel: Debian 13's cloud kernel, unpacked into the cache. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2154

kernel_current=$cache_dir/kernel/current

setup_kernel() {
  local update=$1
  if [ -e "$kernel_current/vmlinuz" ] && [ "$update" = 0 ]; then return; fi
  open_archive "$scratch"
  local package dir release
  package=$(private_apt apt-cache show --no-all-versions linux-image-cloud-amd64 |
    sed -n 's/^Depends: \(linux-image-[^ ,]*\).*/\1/p')
  if [ -z "$package" ]; then die "Debian 13 has no package linux-image-cloud-amd64 any more"; fi
  dir=$cache_dir/kernel/$package
  if [ ! -e "$dir/vmlinuz" ]; then
    say "fetching the guest kernel $package"
    fetch_package "$scratch/kernel" "$package"
    release=${package#linux-image-}
    mkdir -p "$scratch/kernel-dir/lib"
    mv "$scratch/kernel/boot/vmlinuz-$release" "$scratch/kernel-dir/vmlinuz"
    if [ -d "$scratch/kernel/usr/lib/modules" ]; then
      mv "$scratch/kernel/usr/lib/modules" "$scratch/kernel-dir/lib/modules"
    else
      mv "$scratch/kernel/lib/modules" "$scratch/kernel-dir/lib/modules"
    fi
    logged "$archive_dir/log" /sbin/depmod -b "$scratch/kernel-dir" "$release" ||
      die "depmod failed on the modules of $package"
    mkdir -p "$cache_dir/kernel"
    rm -rf "$dir"
    mv "$scratch/kernel-dir" "$dir"
  fi
  ln -sfn "$package" "$kernel_current"
}
