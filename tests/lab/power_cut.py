"""The power-cut test: the lab VM is killed while an inner guest stores and commits.

What was on the NVDIMMs stays in their files, as in a machine that loses power behind flushed caches
(cache lines are not lost here). The next boot recovers the image, and a checker that knows only
what the guest's commits had acknowledged compares. inside/power_cut.py is the other half.
"""

import random
import threading
import time
from dataclasses import dataclass

import harness
import outer_vm
import root_image

vm = harness.vm

ABOUT = "the lab is killed while a guest commits; the next boot checks what had been acknowledged"
PAGES = 2048
WRITE_SECONDS = 540
VERIFY_SECONDS = 180
INSIDE = "tests/lab/inside/power_cut.py"
# Deliberately broken variants: name -> (library of the broken commit, description).
BREAKS = {
    "data-after-record": (root_image.BUILD + "/lib/data-after-record",
                          "the record of an epoch becomes durable before its data"),
}


def list_breaks():
    for name, (_, about) in BREAKS.items():
        print(f"{name}  {about}")


def add_arguments(parser):
    parser.add_argument("--cuts", type=int, default=4, help="power cuts (default 4)")
    parser.add_argument("--seed", type=int, help="of the moments of the cuts (default: random)")
    parser.add_argument("--window", type=float, default=8.0, metavar="SECONDS",
                        help="cut within so many seconds after the guest is up (default 8)")
    parser.add_argument("--break", dest="break_name", choices=sorted(BREAKS),
                        help="use a deliberately broken commit; the test has to fail")
    parser.add_argument("--list-breaks", action="store_true", help="list what --break takes")


@dataclass
class History:
    """What a writer announced before it was cut off."""

    running: bool = False
    last_seed: int = 0
    acked_seed: int = 0
    acked_epoch: int = 0
    committing: bool = False
    committing_seed: int = 0
    commits: int = 0

    def note(self, line):
        words = line.split()
        kind, numbers = words[0] if words else "", words[1:]
        if kind == "RUNNING":
            self.running = True
        elif kind == "EPOCH":
            self.acked_epoch = int(numbers[0])
        elif kind == "FILLING":
            self.last_seed = int(numbers[0])
        elif kind == "COMMITTING":
            self.committing, self.committing_seed = True, int(numbers[0])
        elif kind == "ACKED":
            self.committing = False
            self.commits += 1
            self.acked_epoch = int(numbers[1])
            # A commit in the middle of a fill vouches for the fill before it all the same.
            self.acked_seed = int(numbers[0]) or self.acked_seed


def write_until_cut(outer, medium, seed, delay, library):
    """Starts a writer and kills the lab `delay` seconds after its guest is up."""
    history = History()
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

    command = ["python3", INSIDE, "write", "--seed", str(seed), "--pages", str(PAGES)]
    if library:
        command += ["--library", library]
    try:
        _, output = outer.run(medium, command, WRITE_SECONDS, on_line)
    except vm.VmError as error:
        if cut.is_set():
            outer.machine.wait()
            return history
        raise vm.VmError(f"the writer was not cut but hangs: {error}\n"
                         f"{outer.machine.console_tail(100)}") from error
    raise vm.VmError("the writer ended before the power was cut:\n" + "\n".join(output))


def verify(outer, medium, history):
    """(no violation, what the checker printed)"""
    committing = history.committing_seed if history.committing else 0
    status, output = outer.run(
        medium, ["python3", INSIDE, "verify", "--pages", str(PAGES),
                 "--last-seed", str(history.last_seed), "--acked-seed", str(history.acked_seed),
                 "--acked-epoch", str(history.acked_epoch), "--committing-seed", str(committing)],
        VERIFY_SECONDS)
    return status == 0, output


def run(options, say, scratch):
    """What happened, by name. A cut and the check of the cut before share one boot."""
    seed = random.randrange(1 << 31) if options.seed is None else options.seed
    library = BREAKS[options.break_name][0] if options.break_name else None
    randomness = random.Random(seed)
    say(f"power-cut: seed {seed}, {options.cuts} cuts" +
        (f", broken on purpose: {options.break_name}" if library else ""))
    violations = commits = done = during = 0
    pending = None
    with scratch() as directory:
        nvdimms = outer_vm.make_nvdimms(directory)
        boots = 0
        while True:
            with outer_vm.OuterVm(directory, nvdimms) as outer:
                outer.boot(wipe=boots == 0)
                if pending:
                    ok, output = verify(outer, *pending)
                    done += 1
                    violations += not ok
                    say(f"power-cut: cut {done} checked: {output[-1]}")
                    if not ok:
                        say(f"power-cut: violation at cut {done}, --seed {seed}: {pending}")
                        print("\n".join(output), flush=True)
                if done == options.cuts or (violations and library):
                    break
                medium = outer_vm.DAX_MEDIA[boots % len(outer_vm.DAX_MEDIA)]
                delay = randomness.uniform(0, options.window)
                boots += 1
                history = write_until_cut(outer, medium, boots * 1000000, delay, library)
                pending = (medium, history)
                commits += history.commits
                during += history.committing
                say(f"power-cut: cut {done + 1} on {medium} after {delay:.1f} s: "
                    f"{history.commits} commits acknowledged, "
                    f"{'one' if history.committing else 'none'} under way")
    return {"cuts": done, "violations": violations, "commits": commits,
            "cut_in_commit": during, "seed": seed}
