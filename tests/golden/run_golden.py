#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Runs transcripts of command lines and compares what they print with what is written there.

A case is a text file. '$ ' begins a command (bash; '> ' continues it), and what it does follows:
'|' standard output, '!' standard error, '[N]' an exit code other than 0. Other lines are comments.
Every case runs in a directory of its own; what differs from run to run is replaced by a name (see
NORMALISE). --update writes what was seen into the cases: read the difference before committing it.
"""

import argparse
import difflib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMMAND_SECONDS_MAX = 120
NORMALISE = [
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UUID"),
    (r"\(process \d+\)", "(process PID)"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "YYYY-MM-DD HH:MM:SS"),
    (r'("date-n?sec": )\d+', r"\1TIME"),
    (r"(disk size: ).*", r"\1DISK"),
    (r'("actual-size": )\d+', r"\1DISK"),
    (r"(medium: ).*", r"\1MEDIUM"),
    (r'("medium": ")(byte|cache-line|page)', r"\1MEDIUM"),
]


def normalise(text, folder):
    text = text.replace(str(folder), "DIR")
    for pattern, name in NORMALISE:
        text = re.sub(pattern, name, text)
    return text


def output_lines(mark, text):
    lines = text.split("\n")
    ended = lines[-1] == ""
    if ended:
        lines.pop()
    marked = [f"{mark} {line}".rstrip() for line in lines]
    return marked if ended or not lines else [*marked[:-1], marked[-1] + " (no newline)"]


def run_command(command, folder, environment):
    try:
        done = subprocess.run(["bash", "-c", command], cwd=folder, env=environment,
                              stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=COMMAND_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        return [f"! (did not end within {COMMAND_SECONDS_MAX} s)"]
    text = [normalise(raw.decode(errors="backslashreplace"), folder)
            for raw in (done.stdout, done.stderr)]
    seen = output_lines("|", text[0]) + output_lines("!", text[1])
    return seen + ([f"[{done.returncode}]"] if done.returncode != 0 else [])


def run_case(expected, folder, environment):
    """The lines of the case as they are when its commands run now."""
    seen = []
    lines = list(expected)
    while lines:
        line = lines.pop(0)
        if not line.startswith("$ "):
            seen.append(line)
            continue
        seen.append(line)
        command = line[2:]
        while lines and lines[0].startswith("> "):
            seen.append(lines[0])
            command += "\n" + lines.pop(0)[2:]
        while lines and re.match(r"[|!]|\[\d+\]$", lines[0]):
            lines.pop(0)
        seen += run_command(command, folder, environment)
    return seen


def place_for_images():
    """As test::TempDir: $PCOW_TEST_DIR, or a tmpfs."""
    shared_memory = "/dev/shm"
    fallback = shared_memory if os.access(shared_memory, os.W_OK) else None
    return os.environ.get("PCOW_TEST_DIR", fallback)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bin", required=True, action="append",
                        help="directory of the programs under test; may be repeated")
    parser.add_argument("--update", action="store_true")
    parser.add_argument("cases", nargs="+", type=Path)
    options = parser.parse_args()
    search = [str(HERE), *(str(Path(b).resolve()) for b in options.bin), os.environ["PATH"]]
    environment = {**os.environ, "PATH": ":".join(search), "LC_ALL": "C.UTF-8"}
    environment.pop("TIERCTL_QMP", None)
    failed = 0
    for case in options.cases:
        expected = case.read_text().splitlines()
        with tempfile.TemporaryDirectory(prefix="golden-", dir=place_for_images()) as folder:
            seen = run_case(expected, os.path.realpath(folder), environment)
        if options.update:
            case.write_text("\n".join(seen) + "\n")
        elif seen != expected:
            failed += 1
            print("\n".join(difflib.unified_diff(expected, seen, str(case), "seen", lineterm="")))
    print(f"RESULT {'failed' if failed else 'ok'} cases={len(options.cases)} failed={failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
