"""Inside the lab VM: the two halves of the power-cut test. The host's half is ../power_cut.py.

write   An inner guest fills its pages on the image again and again, each time with the next seed,
        and commits; each step is announced, so that the host knows what it may insist on
        when the power is cut. Goes on until that happens.
verify  After a cut: looks at the image as it was left, recovers it, and looks again.

Lines for the host:
    EPOCH N                    the image's last committed epoch as the writer starts
    RUNNING                    cut from now on: the guest is up and has, mostly, committed once
    FILLING SEED               the guest may store pages of SEED from now on
    COMMITTING SEED            a commit begins; all pages are of SEED (0: in the middle of a fill)
    ACKED SEED EPOCH DEMOTED   that commit has succeeded, and demoted so many pages
"""

import argparse
import contextlib
import os
import random
import re
import subprocess
import sys
import tempfile
import termios

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "qemu"))

import harness  # noqa: E402  pylint: disable=wrong-import-position
import held_memfill  # noqa: E402  pylint: disable=wrong-import-position

vm = harness.vm

NODE_MIB = 1024
# Less than is filled, so that every commit demotes.
DRAM_MIB = 2
IMAGE = "power-cut.pcow"


def image_path():
    return os.path.join(os.environ["TMPDIR"], IMAGE)


def say(text):
    """It is with the host when this returns: what follows may be cut off."""
    print(text, flush=True)
    with contextlib.suppress(termios.error):
        termios.tcdrain(sys.stdout.fileno())


def qemu():
    return harness.built("bin", "qemu-system-x86_64")


def node_arguments():
    return vm.node_arguments(image_path(), NODE_MIB, DRAM_MIB)


def write(options):
    randomness = random.Random(options.random)
    if not os.path.exists(image_path()):
        subprocess.run([harness.built("bin", "pcow-img"), "create", "-q", image_path(),
                        f"{NODE_MIB}M"], check=True)
    # What QEMU needs besides is not part of the test: keep it out of the image's file system.
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        initramfs = os.path.join(directory, "initramfs.gz")
        vm.make_initramfs(initramfs, [harness.built("guest", "memfill")])
        if options.library:
            os.environ["LD_LIBRARY_PATH"] = options.library
        with harness.boot(qemu(), directory, node_arguments(), vm.guest_kernel(),
                          initramfs) as machine:
            say(f"EPOCH {machine.qmp.execute('query-pcow')[0]['epoch']}")
            fill_for_ever(machine, options, randomness)


def fill_for_ever(machine, options, randomness):
    seed = options.seed
    memory = held_memfill.HeldMemfill(machine, options.pages)
    say(f"FILLING {seed}")
    memory.start(seed)
    finish_fill(memory, options)
    # Now and then the first commit is cut, which stores most; the others leave something to check.
    early = randomness.random() < 0.2
    if early:
        say("RUNNING")
    while True:
        # Most commits find a complete fill, the others the guest in the middle of one.
        commit(machine, seed)
        if not early:
            say("RUNNING")
            early = True
        seed += 1
        say(f"FILLING {seed}")
        memory.begin(f"fill {seed}")
        if randomness.random() < 0.3:
            commit(machine, 0)
        finish_fill(memory, options)


def finish_fill(memory, options):
    if memory.finish() != options.pages:
        raise vm.VmError("the guest has lost a store")


def commit(machine, seed):
    say(f"COMMITTING {seed}")
    done = machine.qmp.execute("pcow-commit")[0]
    say(f"ACKED {seed} {done['epoch']} {done['demoted-pages']}")


def read_pattern(seed, options, *more):
    """What pattern_check says of fill `seed` and those up to the last that was stored:

    (all pages are of these, the image's last committed epoch, how many pages are of later ones)
    """
    done = subprocess.run(
        [harness.built("bin", "pattern_check"), "--seed", str(seed), "--last-seed",
         str(max(seed, options.stored_seed)), "--begun-seed", str(options.begun_seed), "--pages",
         str(options.pages), *more, image_path()],
        capture_output=True, text=True, check=False)
    say(done.stdout.strip() + done.stderr.strip())
    found = re.search(r" too_early=(\d+).* epoch=(\d+)", done.stdout)
    if found is None:
        raise vm.VmError("pattern_check cannot read the image")
    return done.returncode == 0, int(found[2]), int(found[1])


def pattern(seed, options):
    """The same, as the checker's reader finds it; the engine has to agree."""
    found = read_pattern(seed, options, "--independent")
    if read_pattern(seed, options) != found:
        raise vm.VmError("VIOLATION: the engine reads something else than the checker")
    return found


def judge(options, recovered):
    """True if the image holds what had been acknowledged, or what its own record promises."""
    whole, epoch, too_early = pattern(options.acked_seed or options.stored_seed, options)
    say(f"epoch {epoch}, acknowledged {options.acked_epoch}")
    if epoch < options.acked_epoch:
        say("VIOLATION: an acknowledged epoch is gone")
        return False
    # Opening and closing may make one of their own.
    if epoch > options.acked_epoch and not options.committing and not recovered:
        say("VIOLATION: an epoch is there that no commit had been asked for")
        return False
    if too_early > 0:
        say("VIOLATION: pages are there that no commit had been asked to store")
        return False
    if options.acked_seed and not whole:
        say("VIOLATION: acknowledged pages are gone or older than acknowledged")
        return False
    if options.committing_seed and epoch > options.acked_epoch:
        if not pattern(options.committing_seed, options)[0]:
            say("VIOLATION: the record of the epoch is there, its pages are not")
            return False
    return True


def verify(options):
    """The same has to be found before and after the recovery."""
    ok = judge(options, recovered=False)
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        with vm.Vm(qemu(), directory, ["-S", *node_arguments()]) as machine:
            if machine.quit() != 0:
                raise vm.VmError("QEMU cannot close the image: " + machine.stderr())
    done = subprocess.run([harness.built("bin", "pcow-img"), "check", image_path()],
                          capture_output=True, text=True, check=False)
    say(done.stdout.strip() + done.stderr.strip())
    if done.returncode != 0:
        say("VIOLATION: the recovered image is not sound")
    return 0 if judge(options, recovered=True) and ok and done.returncode == 0 else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=["write", "verify"])
    parser.add_argument("--seed", type=int, default=0, help="write: of the first fill")
    parser.add_argument("--random", type=int, default=0, help="write: of what it does")
    parser.add_argument("--pages", type=int, required=True)
    parser.add_argument("--committing", action="store_true", help="a commit was under way")
    for name, about in [("begun-seed", "the last fill that began"),
                        ("stored-seed", "the last fill that a commit may have seen"),
                        ("acked-seed", "the fill of the last acknowledged commit; 0: none"),
                        ("acked-epoch", "the last acknowledged epoch"),
                        ("committing-seed", "its fill; 0: in the middle of one")]:
        parser.add_argument("--" + name, type=int, default=0, help=about)
    parser.add_argument("--library", help="directory of the libtiering to use instead of the build's")
    options = parser.parse_args()
    try:
        return write(options) if options.verb == "write" else verify(options)
    except vm.VmError as error:
        say(f"power-cut: failed: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
