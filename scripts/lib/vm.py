"""Runs the patched QEMU with a small Linux guest; for scripts/demo and tests/qemu.

Python's standard library only. A Vm is a context manager: whatever happens, no process and no file
remains. The guest runs an initramfs made by make-initramfs, which reads commands on its second
serial port.
"""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))

# Emulation on a busy machine is slow; these are limits for "it hangs", not expectations.
BOOT_SECONDS = 240
COMMAND_SECONDS = 240


class VmError(Exception):
    """Something did not happen as it should; the message is for people."""


def cache_dir():
    """Where scripts/setup keeps what it makes (see common.sh)."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "pcow")


def guest_kernel():
    """The directory with vmlinuz and lib/modules."""
    path = os.path.realpath(os.path.join(cache_dir(), "kernel", "current"))
    if not os.path.exists(os.path.join(path, "vmlinuz")):
        raise VmError("there is no guest kernel: run scripts/setup")
    return path


def exit_on_signals():
    """Turns what ends a program from outside into an exit that cleans up."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))


def make_initramfs(output, files=(), modules=()):
    command = [os.path.join(HERE, "make-initramfs"), "--output", output]
    for name in files:
        command += ["--file", name]
    for name in modules:
        command += ["--module", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise VmError("make-initramfs failed: " + done.stderr.strip())


class LineSocket:
    """A connected stream socket, read line by line with a deadline."""

    def __init__(self, connection, alive):
        self._connection = connection
        self._alive = alive
        self._buffer = b""

    def send(self, text):
        try:
            self._connection.sendall(text.encode())
        except OSError as error:
            raise VmError("QEMU has closed the connection") from error

    def read_line(self, seconds):
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise VmError(f"no answer within {seconds} s")
            if not select.select([self._connection], [], [], min(remaining, 1.0))[0]:
                if not self._alive():
                    raise VmError("QEMU has ended")
                continue
            try:
                data = self._connection.recv(65536)
            except OSError:
                data = b""
            if not data:
                raise VmError("QEMU has closed the connection")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line.decode(errors="replace").rstrip("\r")

    def close(self):
        self._connection.close()


class Qmp:
    """The machine protocol. Events are collected in `events`."""

    def __init__(self, lines):
        self._lines = lines
        self.events = []
        self._lines.read_line(60)
        self.execute("qmp_capabilities")

    def request(self, command, **arguments):
        """The whole reply, with "return" or "error"."""
        message = {"execute": command}
        if arguments:
            message["arguments"] = {k.replace("_", "-"): v for k, v in arguments.items()}
        self._lines.send(json.dumps(message) + "\n")
        while True:
            reply = json.loads(self._lines.read_line(COMMAND_SECONDS))
            if "event" in reply:
                self._note(reply)
            else:
                return reply

    def drain(self):
        """Collects the events that are waiting, also those of a QEMU that has ended."""
        try:
            while True:
                reply = json.loads(self._lines.read_line(0.2))
                if "event" in reply:
                    self._note(reply)
        except VmError:
            pass

    def _note(self, reply):
        self.events.append(f"{reply['event']} {reply.get('data', '')}".strip())

    def execute(self, command, **arguments):
        reply = self.request(command, **arguments)
        if "error" in reply:
            raise VmError(f"{command}: {reply['error']['desc']}")
        return reply["return"]


class Vm:
    """One QEMU process with a QMP connection, and a guest shell if it has a kernel.

    directory: for sockets and logs, removed by the caller. serials: names of further serial ports,
    see serial().
    """

    def __init__(self, qemu, directory, arguments, kernel=None, initramfs=None, serials=()):
        self._directory = directory
        self._listeners = {}
        self._shell = None
        self._serials = {}
        self.console_log = os.path.join(directory, "console.log")
        self.stderr_log = os.path.join(directory, "qemu.log")
        accel = os.environ.get("PCOW_ACCEL", "tcg,thread=multi")
        command = [qemu, "-accel", accel, "-machine", "q35", "-cpu", "max", "-nodefaults"]
        command += ["-display", "none", "-no-reboot"]
        self._add_channel(command, "qmp")
        command += ["-mon", "chardev=qmp,mode=control"]
        if kernel:
            self._add_channel(command, "shell")
            command += ["-serial", "file:" + self.console_log, "-serial", "chardev:shell"]
            command += ["-kernel", os.path.join(kernel, "vmlinuz"), "-initrd", initramfs]
            command += ["-append", "console=ttyS0 panic=-1 quiet"]
        for name in serials:
            self._add_channel(command, name)
            command += ["-serial", "chardev:" + name]
        command += arguments
        self.command = command
        with open(self.stderr_log, "wb") as log:
            # Does not outlive us, however we end.
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command], stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True)
        try:
            self.qmp = Qmp(LineSocket(self._accept("qmp"), self._alive))
            if kernel:
                self._shell = LineSocket(self._accept("shell"), self._alive)
            self._serials = {name: self._accept(name) for name in serials}
        except BaseException as error:
            self._cleanup()
            if isinstance(error, (VmError, OSError)):
                raise VmError(f"QEMU did not start: {error}\n{self.stderr()}") from error
            raise

    def _add_channel(self, command, name):
        """QEMU connects to us, so there is nothing to wait for or to retry."""
        path = os.path.join(self._directory, name + ".private")
        if os.path.exists(path):
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(1)
        self._listeners[name] = listener
        command += ["-chardev", f"socket,id={name},path={path}"]

    def _accept(self, name):
        listener = self._listeners[name]
        deadline = time.monotonic() + 60
        while not select.select([listener], [], [], 0.2)[0]:
            if self.process.poll() is not None:
                raise VmError(f"exit status {self.process.returncode}")
            if time.monotonic() > deadline:
                raise VmError(f"no connection for {name}")
        return listener.accept()[0]

    def _alive(self):
        return self.process.poll() is None

    def serial(self, name):
        """The socket behind a serial port."""
        return self._serials[name]

    def stderr(self):
        with open(self.stderr_log, encoding="utf-8", errors="replace") as log:
            return log.read()

    def console_tail(self, count=15):
        try:
            with open(self.console_log, encoding="utf-8", errors="replace") as log:
                return "".join(log.readlines()[-count:])
        except FileNotFoundError:
            return ""

    def wait_for_guest(self, seconds=BOOT_SECONDS):
        """Returns how long the guest took to boot, in seconds."""
        begin = time.monotonic()
        try:
            while "READY" not in self._shell.read_line(seconds):
                pass
        except VmError as error:
            raise VmError(f"the guest did not boot: {error}\n{self.console_tail()}"
                          f"{self.stderr()}{self._state()}") from error
        return time.monotonic() - begin

    def _state(self):
        """What has become of a guest that does not answer, for people to read."""
        self.qmp.drain()
        lines = [f"events: {self.qmp.events}"]
        try:
            lines.append(f"status: {self.qmp.execute('query-status')['status']}")
            for _ in range(3):
                registers = self.qmp.execute("human-monitor-command",
                                             command_line="info registers -a")
                lines += [line for line in registers.splitlines()
                          if line.startswith(("CPU#", "RIP", "RSP", "CR0"))]
        except (VmError, OSError) as error:
            lines.append(f"QMP: {error}")
        lines.append(f"QEMU's exit status: {self.process.poll()}")
        return "\n".join(lines)

    def run(self, command, seconds=COMMAND_SECONDS, on_line=None):
        """Runs one line of shell in the guest; returns (exit status, output lines).

        seconds: how long all of it may take. on_line: gets each line as it comes.
        """
        output = []
        try:
            return self._run(command, seconds, on_line, output), output
        except VmError as error:
            raise VmError(f"{error}: {command} (limit {seconds} s)\n" + "\n".join(output)
                          + "\n---- console ----\n"
                          + f"{self.console_tail(200)}{self.stderr()}") from error

    def _run(self, command, seconds, on_line, output):
        self._shell.send(command + "\n")
        deadline = time.monotonic() + seconds
        while True:
            line = self._shell.read_line(deadline - time.monotonic())
            match = re.search(r"^(.*)@@EXIT (\d+)$", line)
            if match:
                if match.group(1):  # the last line had no end of its own
                    output.append(match.group(1))
                return int(match.group(2))
            output.append(line)
            if on_line:
                on_line(line)

    def quit(self):
        """A clean exit by QMP; returns QEMU's exit status."""
        self.qmp.request("quit")
        return self.wait()

    def wait(self, seconds=120):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise VmError(f"QEMU does not end within {seconds} s") from error

    def kill(self):
        """The host crash of a test: nothing is saved."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def _cleanup(self):
        if self.process.poll() is None:
            self.kill()
        for listener in self._listeners.values():
            listener.close()
        if self._shell:
            self._shell.close()
        for connection in self._serials.values():
            connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._cleanup()


def node_arguments(image, size_mib, dram_mib=None, node0_mib=512, options=""):
    """A guest with node 0 in ordinary DRAM and node 1 in the image."""
    dram = f",dram-size={dram_mib}M" if dram_mib else ""
    return [
        "-smp", "2", "-m", f"{node0_mib + size_mib}M",
        "-object", f"memory-backend-ram,id=m0,size={node0_mib}M",
        "-numa", "node,nodeid=0,memdev=m0,cpus=0-1",
        "-object", f"memory-backend-pcow,id=pm0,mem-path={image},size={size_mib}M{dram}{options}",
        "-numa", "node,nodeid=1,memdev=pm0",
    ]
