"""What somebody does to a log who can write its file, and knows how the store keeps its events."""

import re

import apsw
import attrs
from hypothesis import strategies as st

from tests._helpers.audit import a_signer, sealed, verified, write
from trio_eventlog.audit import AuditError, Signer
from trio_eventlog.audit._file import read_lines
from trio_eventlog.stores.sqlite import _schema
from trio_eventlog.stores.sqlite._checksums import checksum, seed_of

EVENTS = 43
"""In five intervals: 10, 20, 30, 40, and 43."""

COLUMNS = ("seq", "id", "timestamp_ms", "kind", "actor", "event_type", "member_id", "payload")


class Sealed:
    """The bytes of a log and of its checkpoints, and the last note."""

    def __init__(self, place, note):
        self.log = (place / "log.db").read_bytes()
        self.checkpoints = (place / "checkpoints").read_bytes()
        self.note = note

    def put(self, place):
        for path in place.iterdir():
            path.unlink()
        (place / "log.db").write_bytes(self.log)
        (place / "checkpoints").write_bytes(self.checkpoints)


def sealed_log(place):
    """A log, and its checkpoints."""
    write(place / "log.db", 1, EVENTS)
    return Sealed(place, sealed(place / "log.db", place / "checkpoints"))


def verify(place, **options):
    """Compare the log of a directory with its checkpoints."""
    return verified(place / "log.db", place / "checkpoints", **options)


class Attacker:
    """Changes rows, and makes all their checksums right."""

    def __init__(self, path):
        self.db = apsw.Connection(str(path))
        self.seed = seed_of(_schema.find_log(self.db, "default").unique_id)

    def row(self, seq):
        sql = f"SELECT {', '.join(COLUMNS)} FROM events_1 WHERE seq = ?"  # noqa: S608 - our own names
        (row,) = self.db.execute(sql, (seq,))
        return dict(zip(COLUMNS, row, strict=True))

    def delete(self, seq):
        self.db.execute("DELETE FROM events_1 WHERE seq = ?", (seq,))

    def put(self, row):
        values = tuple(row[name] for name in COLUMNS)
        marks = ", ".join("?" for _ in range(len(COLUMNS) + 1))
        sql = f"INSERT INTO events_1 ({', '.join(COLUMNS)}, checksum) VALUES ({marks})"  # noqa: S608 - as above
        self.db.execute(sql, (*values, checksum(values, self.seed)))

    def change(self, seq, **changes):
        row = {**self.row(seq), **changes}
        self.delete(seq)
        self.put(row)

    def end_at(self, last_seq):
        log = _schema.find_log(self.db, "default")
        self.db.execute(
            "REPLACE INTO logs VALUES (?, ?, ?, ?, ?, ?)", attrs.evolve(log, last_seq=last_seq).row()
        )

    def close(self):
        self.db.close()


def exchange(attacker, one, other):
    """The events of two seqs change their places."""
    first, second = attacker.row(one), attacker.row(other)
    attacker.delete(one)
    attacker.delete(other)
    attacker.put({**first, "seq": other})
    attacker.put({**second, "seq": one})


def renumber(attacker, seq, by):
    """All from an event on get other seqs."""
    rows = [attacker.row(old) for old in range(seq, EVENTS + 1)]
    for row in rows:
        attacker.delete(row["seq"])
    for row in rows:
        attacker.put({**row, "seq": row["seq"] + by})
    attacker.end_at(EVENTS + by)


def cut(attacker, seq):
    for old in range(seq, EVENTS + 1):
        attacker.delete(old)
    attacker.end_at(seq - 1)


def insert(attacker, seq):
    """A new event comes between others, and the later ones move on."""
    renumber(attacker, seq, 1)
    attacker.put({**attacker.row(seq + 1), "seq": seq, "id": "forged"})


seqs = st.integers(1, EVENTS)
CHANGES = st.sampled_from(
    [
        ("payload", '{"number":0}'),
        ("payload", None),
        ("id", "forged"),
        ("timestamp_ms", 1),
        ("actor", "someone"),
        ("event_type", "nothing"),
        ("member_id", "someone"),
    ]
)
ATTACKS = st.one_of(
    st.tuples(st.just("change"), seqs, CHANGES),
    st.tuples(st.just("kind"), seqs),
    st.tuples(st.just("remove"), seqs),
    st.tuples(st.just("exchange"), st.lists(seqs, min_size=2, max_size=2, unique=True)),
    st.tuples(st.just("renumber"), seqs, st.integers(1, 3)),
    st.tuples(st.just("insert"), seqs),
    st.tuples(st.just("cut"), seqs),
)


def play(attack, path):
    """Play an attack; the seqs of which at least one is named, or None if the end is."""
    attacker = Attacker(path)
    match attack:
        case "change", seq, (column, value):
            attacker.change(seq, **{column: value})
            expected = {seq}
        case "kind", seq:
            attacker.change(seq, kind=1 - attacker.row(seq)["kind"])
            expected = {seq}
        case "remove", seq:
            attacker.delete(seq)
            attacker.end_at(EVENTS if seq < EVENTS else seq - 1)
            expected = {seq}
        case "exchange", (one, other):
            exchange(attacker, one, other)
            expected = {one, other}
        case "renumber", seq, by:
            renumber(attacker, seq, by)
            expected = {seq}
        case "insert", seq:
            insert(attacker, seq)
            expected = {seq}
        case "cut", seq:
            cut(attacker, seq)
            expected = {seq}
    attacker.close()
    return expected


def named(verification):
    """The seqs that the findings are about."""
    seqs = set()
    for finding in verification.findings:
        if finding.seq is not None:
            last = re.match(r"this and all up to seq (\d+) ", finding.problem)
            seqs.update(range(finding.seq, int(last[1]) + 1 if last else finding.seq + 1))
    return seqs


def assert_found(template, place, attack):
    """The attack is found, and its seqs are named."""
    template.put(place)
    expected = play(attack, place / "log.db")
    verification = verify(place)

    assert verification.problems
    assert expected <= named(verification), verification.findings
    # Of the intervals before, nothing is said.
    assert min(finding.seq for finding in verification.findings if finding.seq) == min(expected)


def assert_found_in_a_new_tree(template, place, attack, *, own_key):
    """The attack is found even if the checkpoints are made anew, by whoever has the commitment key alone.

    They are signed with another key, or have old signatures under the new roots. Where the end was cut off
    from both, these are the signatures of the part that is left; that takes a note that was kept elsewhere.
    """
    template.put(place)
    play(attack, place / "log.db")
    forge(place, Signer(Signer.generate()._private, a_signer().commitment_key), own_key=own_key)

    assert attack[0] == "cut" or verify(place).problems
    try:
        assert verify(place, notes=[template.note]).problems
    except AuditError:
        assert own_key


def forge(place, forger, *, own_key):
    """Write the file of checkpoints as it would be for what the log has now."""
    old = [line for line in read_lines(str(place / "checkpoints")) if line]
    (place / "checkpoints").unlink()
    sealed(place / "log.db", place / "checkpoints", signer=forger)
    if not own_key:
        # Each new text under an old signature.
        notes = [re.search(rb'"note":"(.*?)\\n\\n(.*?)"', line)[2] for line in old]
        lines = (place / "checkpoints").read_bytes().splitlines(keepends=True)
        lines = [
            re.sub(rb'\\n\\n.*?"', lambda _, note=note: b"\\n\\n" + note + b'"', line, count=1)
            for line, note in zip(lines, notes, strict=False)
        ]
        (place / "checkpoints").write_bytes(b"".join(lines))
