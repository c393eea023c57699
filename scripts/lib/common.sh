# Shared by the scripts in scripts/: messages, directories, locks. Sourced, not run.
# shellcheck shell=bash disable=SC2034,SC2154

export LC_ALL=C

# The caller may set quiet=1: progress lines are left out, failures are not.
quiet=${quiet:-0}

repo_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache_dir=${XDG_CACHE_HOME:-$HOME/.cache}/pcow

say() {
  if [ "$quiet" = 0 ]; then printf '%s: %s\n' "${0##*/}" "$*"; fi
}

die() {
  printf '%s: error: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# Runs a command with its output in a log file; shows the end of the log if it fails.
logged() {
  local log=$1
  shift
  if ! "$@" >>"$log" 2>&1; then
    printf '%s: failed: %s\n' "${0##*/}" "$*" >&2
    printf '%s\n' "---- last lines of its output ----" >&2
    tail -n 30 "$log" >&2
    return 1
  fi
}

# Builds the given targets of the release preset; silent unless it fails.
build_release() {
  local log
  log=$(mktemp)
  # shellcheck disable=SC2064
  trap "rm -f '$log'" EXIT
  cd "$repo_dir"
  logged "$log" cmake --preset release
  logged "$log" cmake --build --preset release --target "$@"
  rm -f "$log"
  trap - EXIT
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo -- "$@"
  else
    die "packages are missing and only root can install them: run scripts/setup as root, or install sudo"
  fi
}

os_codename() {
  local name
  # shellcheck disable=SC1091
  name=$(. /etc/os-release && printf '%s %s' "${ID:-}" "${VERSION_CODENAME:-}")
  case $name in
    "debian bookworm" | "debian trixie") printf '%s\n' "${name#* }" ;;
    *) die "this is '$name'; only Debian 12 (bookworm) and Debian 13 (trixie) are supported" ;;
  esac
}

# Holds a lock on the cache until the script ends, so that two set-ups do not build twice.
lock_cache() {
  mkdir -p "$cache_dir"
  exec 9>"$cache_dir/lock"
  if ! flock -n 9; then
    say "waiting for another set-up that uses $cache_dir"
    flock 9
  fi
}

# A scratch directory next to the artefacts, so that a finished one is moved in with one rename.
# Needs the lock: what an interrupted set-up left behind is removed here.
make_scratch() {
  rm -rf "$cache_dir"/scratch.*
  scratch=$(mktemp -d "$cache_dir/scratch.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
}
