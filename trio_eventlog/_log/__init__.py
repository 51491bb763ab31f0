"""The event log: a nursery, a memory channel, and the one task that writes to the store. Floor 4: Trio.

Theory of operation
===================

``ingest`` gives an event its number and sends it into a memory channel (``_ingress``); with the core in C, a
list there takes the place of the channel. The flush task does not wait for it, since then every event would
wake it. It sleeps in a cancel scope, the *alarm*, and whatever has reason to wake it earlier brings the
deadline of that scope forward: the first event after a batch, the event that fills a batch, a flush, a task
that waits for room, the end of the body. So an idle log has no timer at all, and a busy one has two wake-ups
per batch at most (``_timing``).

Between the channel and the store stands the ``RetryBuffer``, which knows order, limits and losses, and next
to it the ``Scheduler``, which knows when to append. Both are pure. ``Backlog.take_in`` is the one place
where events leave the channel for the buffer. The flush task calls it, and so does everything else that is
about to ask the buffer. A burst calls it when it has filled the channel, or when channel and buffer
together are over the limits, so that the channel never refuses an event. All code that touches these books
is synchronous, so that they are right at every checkpoint, and runs with KeyboardInterrupt held back until
the next checkpoint of the main task.

The flush task has the store append one batch at a time. What became of it is entered in the books, and then
told to subscriptions (``_writer``), to tasks that wait for a flush or for room (``_backlog``) and to
``on_failure`` (``_reporter``). A second task reports losses in time even while an append takes long.

With a spill file there is a third, the spiller (``_spiller``, ``_spill_queue``). When many events wait
while the store is slow or down, it writes the oldest to the file, and at the end whatever is left. It alone
writes there, and the flush task alone reads. If what the store acknowledges does not survive a loss of
power, there is a fourth, the syncer (also in ``_spiller``), which has the store make sure of what was
delivered from the file before the file gives that up.

The tasks are shielded all their life, because events may still come while the body is being cancelled. None
of these shields has a deadline before the body ends, since how long that takes is up to the program. Then
``Writer.close`` gives the flush task one, the end of the grace period; a KeyboardInterrupt, or a task that
fails, cancels it at once. When the flush task ends, it ends the others. The reporter is cancelled and has
nothing to wait for. Spiller and syncer get ``DISK_TIMEOUT`` for what is left, and are then cancelled; a
thread that hangs in a disk is left to itself. Closing the file has a deadline of the same length. So
``Tasks.join``, whose own shield has none, waits for at most the grace period and a few of these. Only code
of the store can prolong that, if it does not let itself be cancelled: the contract of stores puts a bound on
it, and the log cannot (``_core``, ``_outcome``).

The exception of the body is kept in a local variable and raised once the nursery is gone (``_open``). So it
is never wrapped in a group, and no group has to be searched for it.
"""
