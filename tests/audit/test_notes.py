"""Signed notes, and the keys that they are signed with."""

import base64
import hashlib
import os
import pickle
import re
import stat
import sys

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.audit import a_signer
from trio_eventlog.audit import AuditError, Checkpoint, CommitmentKey, Signer, Verifier

ROOT = bytes(range(32))
CHECKPOINT = Checkpoint("example.com/log", 1234, ROOT)
ORIGINS = st.text(
    st.characters(min_codepoint=33, exclude_categories=["Z", "C"]), min_size=1, max_size=50
).filter(lambda text: "+" not in text)


def test_a_note_is_one_of_c2sp():
    """Built here from its specification, byte by byte."""
    signer = a_signer()
    public = signer.verifier._public
    assert isinstance(public, Ed25519PublicKey)
    text, signature = signer.sign(CHECKPOINT).split("\n\n")

    assert text == f"example.com/log\n1234\n{base64.b64encode(ROOT).decode()}"
    dash, name, value = signature.removesuffix("\n").split(" ")
    assert (dash, name) == ("\u2014", "example.com/log")
    raw = base64.b64decode(value)
    expected = hashlib.sha256(b"example.com/log\n\x01" + public.public_bytes_raw()).digest()[:4]
    assert raw[:4] == expected
    public.verify(raw[4:], text.encode() + b"\n")


def test_the_note_of_the_specification():
    """An example of C2SP's signed-note, whose key is PeterNeumann's."""
    key = Ed25519PublicKey.from_public_bytes(
        base64.b64decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")[1:]
    )
    verifier = Verifier(key)

    assert verifier.key_hash("PeterNeumann").hex() == "c74f20a3"


@given(ORIGINS, st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))
def test_a_note_says_what_was_signed(origin, size, root):
    checkpoint = Checkpoint(origin, size, root)
    note = a_signer().sign(checkpoint)

    assert a_signer().verifier.verify(note) == checkpoint
    assert a_signer().verifier.verify(note, origin=origin) == checkpoint


@given(st.data())
def test_no_character_of_a_note_can_be_changed(data):
    note = a_signer().sign(CHECKPOINT)
    place = data.draw(st.integers(0, len(note) - 1))
    other = data.draw(st.characters(exclude_categories=["Cs"]).filter(lambda char: char != note[place]))
    changed = data.draw(
        st.sampled_from([note[:place] + other + note[place + 1 :], note[:place], note[place + 1 :]])
    )

    with pytest.raises(AuditError):
        a_signer().verifier.verify(changed)


@given(st.text())
def test_what_is_no_note(text):
    with pytest.raises(AuditError):
        a_signer().verifier.verify(text)


def test_signatures_of_others_are_passed_over():
    """Of a witness, before and after ours, and with our name."""
    note = a_signer().sign(CHECKPOINT)
    text, ours = note.split("\n\n")
    witness = Signer.generate().sign(CHECKPOINT).split("\n\n")[1]
    named = witness.replace("example.com/log", "witness.example")

    assert a_signer().verifier.verify(f"{text}\n\n{witness}{ours}{named}") == CHECKPOINT
    with pytest.raises(AuditError, match="not signed by this key"):
        a_signer().verifier.verify(f"{text}\n\n{witness}{named}")


def test_a_note_may_have_extensions():
    signer = a_signer()
    text = CHECKPOINT.text() + "an extension\n"
    signature = base64.b64encode(
        signer.verifier.key_hash(CHECKPOINT.origin) + signer._private.sign(text.encode())
    )
    note = f"{text}\n\u2014 {CHECKPOINT.origin} {signature.decode()}\n"

    assert signer.verifier.verify(note) == CHECKPOINT
    with pytest.raises(AuditError, match="changed or forged"):
        signer.verifier.verify(note.replace("an extension", "no extension"))


def test_a_note_of_another_log_or_key():
    note = a_signer().sign(CHECKPOINT)

    with pytest.raises(AuditError, match=r"about the log 'example\.com/log', not 'other'"):
        a_signer().verifier.verify(note, origin="other")
    with pytest.raises(AuditError, match="not signed by this key"):
        Signer.generate().verifier.verify(note)


@pytest.mark.parametrize("origin", ["", "a b", "a+b", "a\nb", "a\u2028b", "a\0b", "a" * 201])
def test_an_origin_that_would_break_a_note(origin):
    with pytest.raises(ValueError, match="origin"):
        a_signer().sign(attrs.evolve(CHECKPOINT, origin=origin))


# --- keys -----------------------------------------------------------------------------------------


def test_keys_are_saved_and_loaded(tmp_path):
    signer = Signer.generate()
    signer.save(tmp_path / "key")
    loaded, verifier = Signer.load(tmp_path / "key"), Verifier.load(tmp_path / "key.pub")

    assert verifier.verify(loaded.sign(CHECKPOINT)) == CHECKPOINT
    assert verifier.verify(signer.sign(CHECKPOINT)) == CHECKPOINT
    assert loaded.commitment_key.secret == signer.commitment_key.secret
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) & 0o077 for path in tmp_path.iterdir()}
    assert modes["key"] == modes["key.commitment"] == 0
    assert set(modes) == {"key", "key.pub", "key.commitment"}


@pytest.mark.parametrize("name", ["key", "key.pub", "key.commitment"])
def test_no_key_is_overwritten(tmp_path, name):
    """And nothing is left of the others."""
    (tmp_path / name).write_text("precious")

    with pytest.raises(AuditError, match=rf"{re.escape(name)}: File exists"):
        a_signer().save(tmp_path / "key")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"


def test_a_full_disk_is_named_and_nothing_is_left(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AuditError, match="key: No space left"):
        a_signer().save(tmp_path / "key")
    assert not list(tmp_path.iterdir())


def test_secrets_are_in_no_repr():
    signer = a_signer()
    private = signer._private.private_bytes_raw()
    for value in (signer, signer.commitment_key, signer.verifier, [signer], (signer.commitment_key,)):
        for secret in (private, signer.commitment_key.secret):
            assert secret.hex() not in repr(value)
            assert repr(secret)[2:-1] not in repr(value)
    with pytest.raises(TypeError):
        pickle.dumps(signer)


def pem(key):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def test_files_that_have_no_such_key(tmp_path):
    path = tmp_path / "key"
    secret = base64.b64encode(b"secret" * 4).decode()
    broken = f"-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n".encode()
    for content, why in (
        (b"", "PEM"),
        (b"\xff" * 99, "PEM"),
        (broken, "PEM"),
        (pem(X25519PrivateKey.generate()), "Ed25519"),
    ):
        path.write_bytes(content)
        with pytest.raises(AuditError, match=f"key: not a.*{why}") as caught:
            Signer.load(path)
        assert caught.value.__cause__ is None
        assert secret not in str(caught.value)
    public = (
        X25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    for content in (b"", pem(Ed25519PrivateKey.generate()), public):
        path.write_bytes(content)
        with pytest.raises(AuditError, match="key: not a"):
            Verifier.load(path)
    for content in (b"", b"\xff", b"-----BEGIN TRIO-EVENTLOG COMMITMENT KEY-----"):
        path.write_bytes(content)
        with pytest.raises(AuditError, match="key: not a commitment key"):
            CommitmentKey.load(path)
    a_signer().save(tmp_path / "good")
    text = (tmp_path / "good.commitment").read_text()
    path.write_text(re.sub(r"=\n", "\n", text))
    with pytest.raises(AuditError, match="malformed"):
        CommitmentKey.load(path)
    (tmp_path / "good.commitment").unlink()
    with pytest.raises(AuditError, match=r"good\.commitment: No such file"):
        Signer.load(tmp_path / "good")


@pytest.mark.parametrize(("secret", "error"), [("x" * 32, TypeError), (b"x" * 31, ValueError)])
def test_a_secret_that_is_none(secret, error):
    with pytest.raises(error, match="secret: expected"):
        CommitmentKey(secret)


def test_without_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cryptography", None)

    for make in (Signer.generate, lambda: Signer.load(tmp_path), lambda: Verifier.load(tmp_path)):
        with pytest.raises(AuditError, match="need the package cryptography: pip install"):
            make()
