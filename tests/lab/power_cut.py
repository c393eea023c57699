"""The power-cut test: the lab VM is killed while an inner guest stores and commits.

What was on the NVDIMMs stays in their files, as in a machine that loses power behind flushed caches
(cache lines are not lost here). The next boot recovers the image, and a checker that knows only
what the guest's commits had acknowledged compares. inside/power_cut.py is the other half.
"""

import argparse
import collections
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field

import harness
import outer_vm
import root_image

vm = harness.vm

DEFAULT_CUTS = 4
DEFAULT_WINDOW_SECONDS = 8.0
PAGES = 2048
WRITE_SECONDS = 540
VERIFY_SECONDS = 180
# So many cuts of a medium say something of it alone.
CUTS_OF_A_MEDIUM = 6
INSIDE = "tests/lab/inside/power_cut.py"
# Deliberately broken variants: name -> (library of the broken commit, description, what is found).
BREAKS = {
    "data-after-record": (root_image.BUILD + "/lib/data-after-record",
                          "the record of an epoch becomes durable before its data",
                          "VIOLATION: the record of the epoch is there, its pages are not"),
}


def list_breaks():
    for name, (_, about, _) in BREAKS.items():
        print(f"{name}  {about}")


def positive(kind):
    def parse(text):
        value = kind(text)
        if value <= 0:
            raise argparse.ArgumentTypeError(f"{text} is not more than 0")
        return value
    parse.__name__ = kind.__name__
    return parse


def window_seconds(text):
    value = positive(float)(text)
    if not value <= WRITE_SECONDS / 2:  # nor nan
        raise argparse.ArgumentTypeError(f"{text} is more than {WRITE_SECONDS // 2}, or no number")
    return value


def add_arguments(parser):
    parser.add_argument("--cuts", type=positive(int),
                        help=f"power cuts (default {DEFAULT_CUTS})")
    parser.add_argument("--seed", type=int, help="of the moments of the cuts, and of what the guest "
                        "does (default: random)")
    parser.add_argument("--window", type=window_seconds, metavar="SECONDS", help="cut within so many "
                        f"seconds after the guest is up (default {DEFAULT_WINDOW_SECONDS:g})")
    parser.add_argument("--break", dest="break_name", choices=sorted(BREAKS),
                        help="use a deliberately broken commit: passes if it is found")
    parser.add_argument("--list-breaks", action="store_true", help="list what --break takes")


def options_given(options):
    """Those of add_arguments(), for a message."""
    values = {"--cuts": options.cuts, "--seed": options.seed, "--window": options.window,
              "--break": options.break_name}
    return ", ".join(name for name, value in values.items() if value is not None)


@dataclass
class History:
    """What a writer announced before it was cut off."""

    medium: str
    stored_seed: int     # the last fill that a commit may have seen
    begun_seed: int = 0  # the last fill
    running: bool = False
    acked_seed: int = 0
    acked_epoch: int = 0
    committing: bool = False
    committing_seed: int = 0
    commits: int = 0
    demoted_pages: int = 0

    def note(self, line):
        words = line.split()
        kind, numbers = words[0] if words else "", words[1:]
        if kind == "RUNNING":
            self.running = True
        elif kind == "EPOCH":
            self.acked_epoch = int(numbers[0])
        elif kind == "FILLING":
            self.begun_seed = int(numbers[0])
        elif kind == "COMMITTING":
            self.stored_seed = self.begun_seed
            self.committing, self.committing_seed = True, int(numbers[0])
        elif kind == "ACKED":
            self.committing = False
            self.commits += 1
            self.acked_epoch = int(numbers[1])
            self.demoted_pages += int(numbers[2])
            # A commit in the middle of a fill vouches for the fill before it all the same.
            self.acked_seed = int(numbers[0]) or self.acked_seed


@dataclass
class Tally:
    """What has been found so far."""

    cuts: int = 0
    violations: dict = field(default_factory=dict)  # by medium, of those that were cut
    found: set = field(default_factory=set)  # the kinds of violations
    cuts_on: collections.Counter = field(default_factory=collections.Counter)
    # Cuts after which there were acknowledged pages to compare; both by medium.
    checked_on: collections.Counter = field(default_factory=collections.Counter)
    commits: int = 0
    cut_in_commit: int = 0
    demoted_pages: int = 0

    @property
    def cuts_with_content(self):
        return self.checked_on.total()

    def fields(self):
        return {"cuts": self.cuts, "violations": sum(self.violations.values()),
                "cuts_with_content": self.cuts_with_content, "commits": self.commits,
                "cut_in_commit": self.cut_in_commit, "demoted_pages": self.demoted_pages}


def write_until_cut(outer, history, arguments, delay):
    """Starts a writer and kills the lab `delay` seconds after it is ready to be."""
    cut = threading.Event()

    def cut_power():
        time.sleep(delay)
        cut.set()
        outer.machine.process.kill()

    def on_line(line):
        was_running = history.running
        history.note(line)
        if history.running and not was_running:
            threading.Thread(target=cut_power, daemon=True).start()

    try:
        _, output = outer.run(history.medium, ["python3", INSIDE, "write", *arguments],
                              WRITE_SECONDS, on_line)
    except vm.VmError as error:
        if cut.is_set():
            outer.machine.wait()
            return
        raise vm.VmError(f"the writer was not cut but hangs: {error}") from error
    raise vm.VmError("the writer ended before the power was cut:\n" + "\n".join(output))


def verify(outer, history):
    """(no violation, what the checker printed)"""
    committing = (["--committing", "--committing-seed", str(history.committing_seed)]
                  if history.committing else [])
    status, output = outer.run(
        history.medium,
        ["python3", INSIDE, "verify", "--pages", str(PAGES),
         "--begun-seed", str(history.begun_seed), "--stored-seed", str(history.stored_seed),
         "--acked-seed", str(history.acked_seed),
         "--acked-epoch", str(history.acked_epoch), *committing],
        VERIFY_SECONDS)
    return status == 0, output


class PowerCuts:
    """One run. A cut and the check of the cut before share one boot."""

    def __init__(self, options, say):
        self._say = say
        self._directory = None
        self.seed = random.randrange(1 << 31) if options.seed is None else options.seed
        self._cuts = options.cuts or DEFAULT_CUTS
        self._window = options.window or DEFAULT_WINDOW_SECONDS
        self._break = options.break_name
        self._random = random.Random(self.seed)
        self.tally = Tally()

    def command(self):
        return (f"scripts/lab run power-cut --cuts {self._cuts} --seed {self.seed} "
                f"--window {self._window:g}" + (f" --break {self._break}" if self._break else ""))

    def run(self, directory):
        self._directory = directory
        self._say(f"power-cut: {self.command()}")
        nvdimms = outer_vm.make_nvdimms(self._directory)
        pending = None
        for boot in range(1, self._cuts + 2):
            # As the cut left them: the check recovers the image.
            copies = self._copy(nvdimms) if pending and not self._break else []
            with outer_vm.OuterVm(self._directory, nvdimms) as outer:
                try:
                    self._recover(outer, boot, pending, copies)
                    if boot > self._cuts or (self._break and self.tally.found):
                        return
                    pending = self._cut(outer, boot)
                except vm.VmError as error:
                    raise vm.VmError(f"boot {boot}: {error}\nconsole: "
                                     f"{outer.keep_console('power-cut')}") from error

    def _recover(self, outer, boot, pending, copies):
        """Boots and checks what the cut before has left; that is kept if either goes wrong."""
        try:
            outer.boot(wipe=boot == 1)
            sound = pending is None or self._check(outer, pending)
        except vm.VmError:
            self._keep(pending, copies)
            raise
        if not sound:
            self._keep(pending, copies)

    def _cut(self, outer, boot):
        first_seed = boot * 1000000
        history = History(outer_vm.DAX_MEDIA[boot % len(outer_vm.DAX_MEDIA)], first_seed - 1)
        delay = self._random.uniform(0, self._window)
        arguments = ["--seed", str(first_seed), "--pages", str(PAGES),
                     "--random", str(self._random.randrange(1 << 31))]
        if self._break:
            arguments += ["--library", BREAKS[self._break][0]]
        write_until_cut(outer, history, arguments, delay)
        self.tally.commits += history.commits
        self.tally.cut_in_commit += history.committing
        self.tally.demoted_pages += history.demoted_pages
        self._say(f"power-cut: cut {boot} on {history.medium} after {delay:.1f} s: "
                  f"{history.commits} commits acknowledged, "
                  f"{'one' if history.committing else 'none'} under way")
        return history

    def _copy(self, nvdimms):
        folder = os.path.join(self._directory, "as-cut")
        os.makedirs(folder, exist_ok=True)
        subprocess.run(["cp", "--sparse=always", *nvdimms, folder], check=True)
        return [os.path.join(folder, os.path.basename(path)) for path in nvdimms]

    def _check(self, outer, history):
        """Whether there is no violation."""
        ok, output = verify(outer, history)
        last = output[-1] if output else "the checker said nothing"
        self.tally.cuts += 1
        self.tally.violations.setdefault(history.medium, 0)
        self.tally.cuts_on[history.medium] += 1
        self.tally.checked_on[history.medium] += history.acked_seed != 0
        self._say(f"power-cut: cut {self.tally.cuts} checked: {last}")
        if ok:
            return True
        self.tally.violations[history.medium] += 1
        # A checker that fails otherwise has found something too, and not what a broken commit does.
        self.tally.found |= {line for line in output if line.startswith("VIOLATION")} or {last}
        self._say("power-cut: what was found:", "\n".join(output))
        return False

    def _keep(self, history, copies):
        if not copies:
            return
        kept = tempfile.mkdtemp(prefix="pcow-violation.", dir=os.path.dirname(self._directory))
        for path in copies:
            shutil.move(path, kept)
        self._say(f"power-cut: something is wrong after this cut of: {self.command()}\n"
                  f"{history}\nthe NVDIMMs, as the cut left them: {kept}")

    def failures(self):
        """What is wrong with a run that has ended, apart from violations."""
        tally = self.tally
        if tally.cuts < self._cuts and not self._break:
            yield f"only {tally.cuts} of {self._cuts} cuts were checked"
        if self._break:
            expected = {BREAKS[self._break][2]}
            if tally.found != expected:
                yield f"{self._break} was not found as it should be: {tally.found or 'no violation'}"
            return
        if tally.cuts >= 20 and tally.cut_in_commit == 0:
            yield "no cut came while a commit was under way"
        # One in five sessions may be cut before it has committed once.
        if 3 * tally.cuts_with_content < tally.cuts:
            yield "most cuts came before anything was acknowledged: use a longer --window"
        for medium, cuts in tally.cuts_on.items():
            if cuts >= CUTS_OF_A_MEDIUM and 3 * tally.checked_on[medium] < cuts:
                yield f"most cuts on {medium} came before anything was acknowledged"
        if tally.demoted_pages == 0:
            yield "no page was demoted: the cuts say nothing of pages mapped from the image"


def run(options, say, scratch):
    """(what happened, by name; {medium: passed})"""
    cuts = PowerCuts(options, say)
    try:
        with scratch() as directory:
            cuts.run(directory)
        failures = list(cuts.failures())
    except (vm.VmError, OSError, subprocess.SubprocessError) as error:
        failures = [str(error)]
    for failure in failures:
        say(f"power-cut: FAILED: {failure}")
    violations = cuts.tally.violations
    if failures:
        passed = dict.fromkeys(outer_vm.DAX_MEDIA, False)
    elif options.break_name:
        passed = {medium: True for medium, count in violations.items() if count > 0}
    else:
        passed = {medium: count == 0 for medium, count in violations.items()}
    return {**cuts.tally.fields(), "seed": cuts.seed}, passed
