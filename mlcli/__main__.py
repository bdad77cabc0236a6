"""The command `mlcli`, and `python -m mlcli`.

Ctrl-C while modules are imported, or while Python ends, ends the program at once and without a word: nothing is begun.
"""

import os
import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as in the background
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))

from mlcli.cli import main

if __name__ == "__main__":
    main()
