"""Drives a memfill that keeps its memory inside a guest (guest-numa/memfill.c, --hold)."""

import harness

COMMANDS = "/tmp/memfill.commands"
OUTPUT = "/tmp/memfill.output"


class HeldMemfill:
    """Pages of the guest's node 1, filled and held on to for later fills and checks.

    A caller may do other things between begin() and finish(); start() begins the first fill.
    """

    def __init__(self, machine, pages):
        self._machine = machine
        self._pages = pages

    def start(self, seed):
        # Something has to hold the pipe open between two commands.
        self._machine.run(f"mkfifo {COMMANDS}; sleep 100000 >{COMMANDS} & memfill --node 1 --size "
                          f"{self._pages * harness.PAGE} --seed {seed} --hold <{COMMANDS} "
                          f">{OUTPUT} 2>&1 &")

    def begin(self, command):
        """command: "verify" or "fill SEED", which verifies too."""
        self._machine.run(f"echo >{OUTPUT}; echo {command} >{COMMANDS}")

    def finish(self):
        """How many pages are intact; all have to be on the node."""
        _, output = self._machine.run(f"until grep RESULT {OUTPUT}; do usleep 50000; done")
        fields = dict(word.split("=") for word in output[-1].split() if "=" in word)
        if int(fields["on_node"]) != self._pages:
            raise harness.vm.VmError("memfill has pages elsewhere: " + output[-1])
        return int(fields["intact"])

    def do(self, command):
        self.begin(command)
        return self.finish()
