"""How long a program keeps Trio's loop to itself."""

import gc
import time
from contextlib import contextmanager

import trio


class LongestStep(trio.abc.Instrument):
    """Processor time of the longest step of a task, seconds: other programs do not count."""

    def __init__(self):
        self.seconds = 0.0
        self.start = time.thread_time()

    def before_task_step(self, task):
        self.start = time.thread_time()

    def after_task_step(self, task):
        self.seconds = max(self.seconds, time.thread_time() - self.start)


@contextmanager
def measured_steps():
    longest = LongestStep()
    trio.lowlevel.add_instrument(longest)
    # A full collection takes time for everything that all the tests before have left, in whose step it
    # happens to fall.
    gc.disable()
    try:
        yield longest
    finally:
        gc.enable()
        trio.lowlevel.remove_instrument(longest)
