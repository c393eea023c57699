# Fetches from Debian 13, whatever release this machine runs and without touching its apt
# configuration: a private sources list and private index files on top of the machine's own
# options (proxy, credentials). Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2154

archive_suite=trixie
archive_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# Prints the address of the archive that this machine has configured for the given suite.
configured_archive() {
  local suite=$1
  apt-get -o Dir::State::lists="$archive_dir/none" --print-uris update 2>/dev/null |
    sed -n "s|^'\(.*\)/dists/$suite/\(In\)\?Release' .*|\1|p" | head -n 1
}

write_source() {
  local uri=$1
  shift
  printf 'Types: deb deb-src\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n\n' \
    "$uri" "$*" "$archive_keyring"
}

private_apt() {
  local tool=$1
  shift
  "$tool" -o Dir::State::lists="$archive_dir/lists" -o Dir::State::status="$archive_dir/status" \
    -o Dir::Cache="$archive_dir/cache" -o Dir::Etc::sourcelist="$archive_dir/debian.sources" \
    -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferences=/dev/null \
    -o Dir::Etc::preferencesparts=/dev/null -o APT::Sandbox::User=root \
    -o Acquire::Languages=none -o Acquire::Retries=3 "$@"
}

# Fetches the index files into a directory below $1 (once per set-up).
open_archive() {
  if [ -n "${archive_dir:-}" ]; then return; fi
  archive_dir=$1/apt
  mkdir -p "$archive_dir"/{none,lists,cache/archives}/partial
  : >"$archive_dir/status"
  local codename main security
  codename=$(os_codename)
  for suite in "$codename" stable oldstable; do
    main=${main:-$(configured_archive "$suite")}
    security=${security:-$(configured_archive "$suite-security")}
  done
  if [ -z "$main" ]; then
    die "no Debian archive for '$codename' in the apt sources of this machine (apt-get --print-uris update lists what it has)"
  fi
  say "reading the index of Debian 13 ($archive_suite) from the archive this machine uses"
  {
    write_source "$main" "$archive_suite" "$archive_suite-updates"
    if [ -n "$security" ]; then write_source "$security" "$archive_suite-security"; fi
  } >"$archive_dir/debian.sources"
  if ! private_apt apt-get -qq update >"$archive_dir/log" 2>&1; then
    # A partial mirror need not have the update suites.
    write_source "$main" "$archive_suite" >"$archive_dir/debian.sources"
    logged "$archive_dir/log" private_apt apt-get -qq update ||
      die "cannot read Debian 13 from the archive that this machine uses; if a key is missing, update the package debian-archive-keyring"
  fi
}

# Prints the greatest of the Debian versions on standard input.
newest_version() {
  local best="" version
  while read -r version; do
    if [ -z "$best" ] || dpkg --compare-versions "$version" gt "$best"; then best=$version; fi
  done
  printf '%s\n' "$best"
}

# fetch_package DIR PACKAGE: unpacks the newest version of a binary package into DIR.
fetch_package() {
  local dir=$1 package=$2
  mkdir -p "$archive_dir/debs" "$dir"
  rm -f "$archive_dir/debs/$package"_*.deb
  (cd "$archive_dir/debs" && logged "$archive_dir/log" private_apt apt-get -qq download "$package") ||
    die "cannot download the package $package of Debian 13"
  dpkg-deb -x "$archive_dir/debs/$package"_*.deb "$dir"
}
