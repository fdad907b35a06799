"""Importing this module lets its process end without tidying up, which takes a second where torch is loaded.

It is for the process from which side processes are forked: it holds nothing that could be lost.
"""

import atexit
import os
import signal

atexit.register(os.kill, os.getpid(), signal.SIGKILL)
