"""The lab: runs tests in a VM with real KVM, DAX and NUMA nodes. See docs/lab.md."""

import argparse
import collections
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "qemu"))

import harness  # noqa: E402  pylint: disable=wrong-import-position
import outer_vm  # noqa: E402  pylint: disable=wrong-import-position
import power_cut  # noqa: E402  pylint: disable=wrong-import-position
import root_image  # noqa: E402  pylint: disable=wrong-import-position
import suites  # noqa: E402  pylint: disable=wrong-import-position
import terminal  # noqa: E402  pylint: disable=wrong-import-position

vm = harness.vm
# People may take their time.
SHELL_SECONDS = 30 * 24 * 3600
SHELL_END_SECONDS = 10
# Only a hang takes so long, also where other work runs beside the lab.
LIMIT_SECONDS = 2400
# The NVDIMMs, and what the power-cut test keeps of them until the next boot has checked them.
SCRATCH_MIB = 4 * outer_vm.NVDIMM_MIB
# The counts at the end of what GoogleTest or unittest prints, colours or not.
SKIPPED = re.compile(r"^\S*\[  SKIPPED \]\D*(\d+) tests?\b|^OK \(skipped=(\d+)")
NO_TESTS = re.compile(r"^\S*\[=+\]\D*0 tests\b|^Ran 0 tests\b")


class UsageError(Exception):
    """What was typed cannot be done."""


def say(text, more=""):
    """One call is one piece of the output, whoever else prints."""
    sys.stdout.write(f"lab: {text}\n" + (f"{more}\n" if more else ""))
    sys.stdout.flush()


def scratch():
    """A directory for the NVDIMMs and logs; in memory, unless PCOW_TEST_DIR says otherwise."""
    parent = os.environ.get("PCOW_TEST_DIR", "/dev/shm")
    try:
        free_mib = shutil.disk_usage(parent).free >> 20
        if free_mib < SCRATCH_MIB:
            raise vm.VmError(f"{parent} has {free_mib} MiB free, a lab takes up to {SCRATCH_MIB}: "
                             "name another directory in PCOW_TEST_DIR")
        return tempfile.TemporaryDirectory(prefix="pcow-lab.", dir=parent)
    except OSError as error:
        raise vm.VmError(f"no place for the lab's NVDIMMs: {error}: name another directory in "
                         "PCOW_TEST_DIR") from error


def boot(directory, serials=()):
    outer = outer_vm.OuterVm(directory, outer_vm.make_nvdimms(directory), serials)
    try:
        begin = time.monotonic()
        outer.boot()
    except vm.VmError as error:
        outer.machine.__exit__()
        raise vm.VmError(f"{error}\nconsole: {outer.keep_console('boot')}") from error
    except BaseException:
        outer.machine.__exit__()
        raise
    say(f"the lab VM booted in {outer.boot_seconds:.0f} s and mounted its media after "
        f"{time.monotonic() - begin:.0f} s")
    return outer


def skipped_in(output):
    """How many of a suite's tests say that they cannot run there."""
    found = [match for match in map(SKIPPED.match, output) if match]
    return sum(int(match[1] or match[2]) for match in found)


@dataclass(frozen=True)
class Outcome:
    """What became of a test."""

    passed: bool
    skipped: int = 0

    def __str__(self):
        return f"({self.skipped} skipped)" if self.skipped else ""


def run_test(outer, test, limit_seconds):
    """Its outcome; all output of one that did not pass is printed."""
    begin = time.monotonic()
    status, output = outer.run(test.medium, test.suite.command, limit_seconds)
    outcome = Outcome(status == 0 and not any(map(NO_TESTS.match, output)), skipped_in(output))
    say(f"{test.name}: {'ok' if outcome.passed else 'FAILED'} ({time.monotonic() - begin:.0f} s"
        + (f", {outcome.skipped} skipped)" if outcome.skipped else ")"),
        "" if outcome.passed else "\n".join(output))
    return outcome


def side_by_side(functions):
    """Calls each in a thread of its own; what one raises is raised here, when all have ended."""
    errors = []

    def call(function):
        try:
            function()
        except BaseException as error:  # pylint: disable=broad-except
            errors.append(error)

    # When this one is interrupted the others end with the program, and their VMs with them.
    threads = [threading.Thread(target=call, args=[function], daemon=True)
               for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def run_tests(tests, jobs, limit_seconds, cut_power):
    """Returns {test: Outcome}; a lab that hangs or dies fails its test and is started again.

    jobs: so many lab VMs take tests at a time. cut_power is called as well, by one of them.
    """
    results = {}
    pending = collections.deque(tests)

    def work():
        try:
            while pending:
                run_until_it_hangs(pending, results, limit_seconds)
        except vm.VmError as error:
            say(f"the lab does not start: {error}")

    def cut_and_work():
        cut_power()
        work()

    if jobs == 1:
        work()
        cut_power()
    else:
        side_by_side([cut_and_work, *[work] * (jobs - 1)])
    return {test: results.get(test, Outcome(False)) for test in tests}


def run_until_it_hangs(pending, results, limit_seconds):
    """Takes tests from `pending` until all are done, or one hangs or kills the lab."""
    with scratch() as directory, boot(directory) as outer:
        while pending:
            try:
                test = pending.popleft()
            except IndexError:  # another lab VM took the last
                return
            try:
                results[test] = run_test(outer, test, limit_seconds)
            except vm.VmError as error:
                results[test] = Outcome(False)
                say(f"{test.name}: FAILED: the lab does not answer; console: "
                    f"{outer.keep_console(test.name)}", str(error))
                return


def print_table(results):
    """Medium against accelerator, with what ran in each cell. results: {test: Outcome}."""
    print()
    print("| medium | accelerator | passed | failed |")
    print("| --- | --- | --- | --- |")
    for medium in outer_vm.MEDIA:
        for accelerator in (suites.HOST, suites.GUEST):
            cell = {test: outcome for test, outcome in results.items()
                    if test.medium == medium and test.suite.accelerator == accelerator}
            words = [[f"{test.suite.name}{outcome}" for test, outcome in cell.items()
                      if outcome.passed is wanted] for wanted in (True, False)]
            print(f"| {medium} | {accelerator} | {' '.join(words[0]) or '-'} "
                  f"| {' '.join(words[1]) or '-'} |")


def selected_tests(options):
    """(tests of the suites, whether the power-cut test is among them)"""
    if not options.test:
        raise UsageError("name a test, or 'all'; 'lab list' lists them")
    names = [name for name in options.test if name != "power-cut"]
    cuts = bool({"power-cut", "all", "ci"} & set(options.test))
    if not cuts and power_cut.options_given(options):
        raise UsageError(f"{power_cut.options_given(options)} goes with power-cut, all or ci")
    try:
        return suites.select(names) if names else [], cuts
    except ValueError as error:
        raise UsageError(error) from error


def command_run(options):
    if options.list_breaks:
        power_cut.list_breaks()
        return 0
    begin = time.monotonic()
    tests, with_cuts = selected_tests(options)
    cuts, cut_results = {}, {}

    def cut_power():
        if not with_cuts:
            return
        fields, passed = power_cut.run(options, say, scratch)
        cuts.update(fields)
        for medium, ok in passed.items():
            cut_results[suites.Test(suites.POWER_CUT, medium)] = Outcome(ok)

    results = run_tests(tests, options.jobs, options.limit, cut_power) | cut_results
    print_table(results)
    passed = sum(outcome.passed for outcome in results.values())
    failed = len(results) - passed
    fields = {"tests": len(results), "passed": passed, "failed": failed, **cuts,
              "seconds": round(time.monotonic() - begin), "mode": "lab"}
    print(f"RESULT {'failed' if failed else 'ok'} "
          + " ".join(f"{name}={value}" for name, value in fields.items()), flush=True)
    return 1 if failed else 0


def command_list(_options):
    for suite in (*suites.SUITES, suites.POWER_CUT):
        print(f"{suite.name:16} {suite.accelerator:16} {' '.join(suite.media):40} {suite.about}")
    return 0


def command_shell(_options):
    """Gives the terminal to a shell inside the lab until that ends."""
    if sys.stdin is None:
        raise UsageError("the shell has nothing to read: standard input is closed")
    with scratch() as directory, boot(directory, serials=["terminal"]) as outer:
        say("a shell of the lab follows, in a directory on tmpfs; exit, or Ctrl-], ends the lab")
        ended, left = [], threading.Event()
        shell = threading.Thread(target=lambda: ended.append(run_shell(outer, left)), daemon=True)
        shell.start()
        if terminal.attach(outer.machine.serial("terminal"), lambda: not shell.is_alive()):
            left.set()
            return 0
        shell.join(SHELL_END_SECONDS)
        return ended[0] if ended else 1


def run_shell(outer, left):
    try:
        return outer.run("tmpfs", ["sh", "-c", "cd $TMPDIR; stty -F /dev/ttyS2 sane; TERM=linux "
                                   "setsid -c bash -i </dev/ttyS2 >/dev/ttyS2 2>&1"],
                         SHELL_SECONDS)[0]
    except vm.VmError as error:
        if not left.is_set():  # or the lab ends because it was asked to
            print(f"\r\nlab: failed: {error}", file=sys.stderr)
        return 1


def parse_arguments():
    # Without abbreviations: scripts/lab looks for some of the options itself.
    parser = argparse.ArgumentParser(prog="scripts/lab", description=__doc__, allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="run tests; the exit status tells whether all passed",
                           allow_abbrev=False)
    run.add_argument("test", nargs="*", metavar="TEST", help="all, ci, host, guest, "
                     "ci-host, ci-guest, power-cut, a suite, @MEDIUM or SUITE@MEDIUM")
    run.add_argument("--jobs", type=power_cut.positive(int), default=1, metavar="N",
                     help="run so many lab VMs at a time, of 2 CPUs and 6 GiB each (default 1)")
    run.add_argument("--limit", type=power_cut.positive(int), default=LIMIT_SECONDS,
                     metavar="SECONDS", help="a test that takes longer hangs (default "
                     f"{LIMIT_SECONDS}); not of power-cut")
    power_cut.add_arguments(run)
    verbs.add_parser("list", help="list the suites and their media")
    verbs.add_parser("shell", help="an interactive shell in the lab")
    verbs.add_parser("image", help="make the lab's root file system and print its path")
    return parser.parse_args()


def check_arguments(options):
    """What scripts/lab asks before it builds: 0 to go on, 2 for what cannot be."""
    try:
        if options.verb == "run" and not options.list_breaks:
            selected_tests(options)
        return 0
    except UsageError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 2


def main():
    vm.exit_on_signals()
    options = parse_arguments()
    if options.check:
        return check_arguments(options)
    commands = {"run": command_run, "list": command_list, "shell": command_shell,
                "image": lambda _: print(root_image.root_image()) or 0}
    try:
        return commands[options.verb](options)
    except UsageError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 2
    except (vm.VmError, AssertionError, OSError, subprocess.SubprocessError) as error:
        print(f"lab: failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
