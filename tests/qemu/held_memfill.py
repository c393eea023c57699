"""Drives a memfill that keeps its memory inside a guest (guest-numa/memfill.c, --hold)."""

import harness


class HeldMemfill:
    """Pages of a node of the guest, filled and held on to for later fills and checks.

    A caller may do other things between begin() and finish(); start() begins the first fill.
    """

    def __init__(self, machine, pages, node=1):
        self._machine = machine
        self._pages = pages
        self._node = node
        self.commands = f"/tmp/memfill{node}.commands"
        self.output = f"/tmp/memfill{node}.output"

    def start(self, seed, delay_seconds=0):
        """The guest answers commands until the delay is over, whatever becomes of it then."""
        # Something has to hold the pipe open between two commands.
        self._machine.run(f"mkfifo {self.commands}; sleep 100000 >{self.commands} & "
                          f"{{ sleep {delay_seconds}; memfill --node {self._node} "
                          f"--size {self._pages * harness.PAGE} --seed {seed} --hold; }} "
                          f"<{self.commands} >{self.output} 2>&1 &")

    def begin(self, command):
        """command: "verify" or "fill SEED", which verifies too."""
        self._machine.run(f"echo >{self.output}; echo {command} >{self.commands}")

    def finish(self):
        """How many pages are intact; all have to be on the node."""
        _, output = self._machine.run(f"until grep RESULT {self.output}; do usleep 50000; done")
        fields = dict(word.split("=") for word in output[-1].split() if "=" in word)
        if int(fields["on_node"]) != self._pages:
            raise harness.vm.VmError("memfill has pages elsewhere: " + output[-1])
        return int(fields["intact"])

    def do(self, command):
        self.begin(command)
        return self.finish()
