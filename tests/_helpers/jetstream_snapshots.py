"""Snapshots of a JetStream stream, taken and restored as ``nats stream backup`` and ``restore`` do."""

import json

from trio_eventlog.stores.jetstream._protocol import Publish

_CHUNK = 64 * 1024
_SECONDS = 10.0


async def take_snapshot(store):
    """The configuration, the state and the data of the stream of a JetStreamStore."""
    connection, name = store._stream.connection, store._stream.name
    inbox = connection.subscribe()
    request = {"deliver_subject": inbox.reply, "chunk_size": _CHUNK}
    answer = await _request(connection, f"$JS.API.STREAM.SNAPSHOT.{name}", request)
    chunks = []
    while True:
        for message in await inbox.wait(_SECONDS):
            if not message.data:
                connection.unsubscribe(inbox)
                return answer["config"], answer["state"], chunks
            chunks.append(message.data)
            if message.reply:
                # The server sends more once it has this.
                connection.send([Publish(message.reply, b"", None, "")])


async def restore_snapshot(store, snapshot):
    """Replace the stream of a JetStreamStore by what it was when a snapshot was taken."""
    connection, name = store._stream.connection, store._stream.name
    config, state, chunks = snapshot
    await store._stream.ask("STREAM.DELETE", {})
    request = {"config": config, "state": state}
    answer = await _request(connection, f"$JS.API.STREAM.RESTORE.{name}", request)
    for chunk in chunks:
        await connection.request(answer["deliver_subject"], chunk)
    # An empty one is the end.
    await _request(connection, answer["deliver_subject"], None)


async def _request(connection, subject, request):
    data = b"" if request is None else json.dumps(request).encode()
    answer = json.loads((await connection.request(subject, data)).data)
    assert "error" not in answer, answer
    return answer
