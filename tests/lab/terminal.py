"""Connects the terminal with a serial port of a VM."""

import os
import select
import sys
import termios
import tty

ESCAPE = b"\x1d"  # Ctrl-]
END_OF_INPUT = b"\x04"


def attach(connection, is_over):
    """Copies both ways until is_over() says so. Whether it was Ctrl-] that ended it."""
    keyboard = sys.stdin.fileno()
    raw = os.isatty(keyboard)
    before = termios.tcgetattr(keyboard) if raw else None
    sources = [connection, keyboard]
    try:
        if raw:
            tty.setraw(keyboard)
        while True:
            over = is_over()  # what came before is still to be shown
            ready = select.select([connection] if over else sources, [], [], 0 if over else 0.2)[0]
            if over and not ready:
                return False
            for source in ready:
                if source is connection:
                    data = connection.recv(4096)
                    if not data:
                        return False
                    os.write(sys.stdout.fileno(), data)
                else:
                    data = os.read(keyboard, 4096)
                    if raw and ESCAPE in data:
                        return True
                    connection.sendall(data or END_OF_INPUT)
                    if not data:
                        sources.remove(keyboard)
    finally:
        if raw:
            termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
