"""Concurrent histories: recording what was done to a log, and judging whether its store may answer so.

* ``_operations``: what an operation is
* ``_recorder``: a history, and the store that writes down what is done to it
* ``_format``: histories in files
* ``_offers``, ``_reads``, ``_missing``, ``_last_seqs``: the judge, in parts; no Trio, no clock, no files
* ``_report``: what was found
* ``_check``: all of it together
"""
