"""Keys: to sign, to verify, and to commit to payloads. In PEM files, made once.

Needs the package ``cryptography``, which is imported on first use.
"""

from __future__ import annotations

import base64
import os
import secrets
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from trio_eventlog._util import how_to_install
from trio_eventlog.audit._errors import AuditError
from trio_eventlog.audit._notes import (
    KEY_HASH_BYTES,
    Checkpoint,
    check_origin,
    decode_base64,
    parse_note,
    signature_line,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_ED25519: Final = b"\x01"
"""The algorithm, as signed notes number them."""

_SECRET_BYTES: Final = 32
_MAX_FILE: Final = 65_536

_BEGIN: Final = "-----BEGIN TRIO-EVENTLOG COMMITMENT KEY-----"
_END: Final = "-----END TRIO-EVENTLOG COMMITMENT KEY-----"

PUBLIC_SUFFIX: Final = ".pub"
COMMITMENT_SUFFIX: Final = ".commitment"


class CommitmentKey:
    """The secret that the commitments to payloads are made with.

    Whoever has it can verify a log against its checkpoints, and can also guess: whether an erased payload was
    this or that. It cannot sign. Its repr does not show it.

    Args:
      secret: 32 random bytes.

    Raises:
      TypeError, ValueError: ``secret`` is something else.
    """

    __slots__ = ("secret",)

    def __init__(self, secret: bytes) -> None:
        if not isinstance(secret, bytes):
            raise TypeError(f"secret: expected bytes, got {type(secret).__name__}")
        if len(secret) != _SECRET_BYTES:
            raise ValueError(f"secret: expected {_SECRET_BYTES} bytes, got {len(secret)}")
        self.secret: Final = secret

    @classmethod
    def generate(cls) -> CommitmentKey:
        """A new key."""
        return cls(secrets.token_bytes(_SECRET_BYTES))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CommitmentKey:
        """Read a key that ``trio-eventlog keygen`` has written.

        Raises:
          AuditError: the file cannot be read, or there is no commitment key in it.
        """
        lines = _read(path).decode(errors="replace").split()
        text = " ".join(lines)
        if not (text.startswith(_BEGIN) and text.endswith(_END)):
            raise AuditError(f"{os.fspath(path)}: not a commitment key")
        secret = decode_base64(text.removeprefix(_BEGIN).removesuffix(_END).replace(" ", ""))
        if secret is None or len(secret) != _SECRET_BYTES:
            raise AuditError(f"{os.fspath(path)}: the commitment key is malformed")
        return cls(secret)

    def _pem(self) -> bytes:
        return f"{_BEGIN}\n{base64.b64encode(self.secret).decode()}\n{_END}\n".encode()

    def __repr__(self) -> str:
        return "<CommitmentKey>"


class Verifier:
    """A public key, which verifies notes.

    Args:
      public_key: an Ed25519 key of the package ``cryptography``.
    """

    __slots__ = ("_public", "_raw")

    def __init__(self, public_key: Ed25519PublicKey) -> None:
        self._public = public_key
        self._raw = public_key.public_bytes_raw()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Verifier:
        """Read the public key in a PEM file.

        Raises:
          AuditError: the file cannot be read, or has no Ed25519 public key; or ``cryptography`` is missing.
        """
        _require_cryptography()
        from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415 - as above
            Ed25519PublicKey,
        )
        from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415 - as above

        try:
            key = load_pem_public_key(_read(path))
        except (ValueError, UnsupportedAlgorithm):
            raise AuditError(f"{os.fspath(path)}: not a public key in PEM") from None
        if not isinstance(key, Ed25519PublicKey):
            raise AuditError(f"{os.fspath(path)}: not an Ed25519 key")
        return cls(key)

    def key_hash(self, origin: str) -> bytes:
        """How the signatures of this key for a log are marked, 4 bytes."""
        return sha256(origin.encode() + b"\n" + _ED25519 + self._raw).digest()[:KEY_HASH_BYTES]

    def verify(self, note: str, *, origin: str | None = None) -> Checkpoint:
        """The checkpoint in a note.

        Signatures of others, such as witnesses, are ignored.

        Args:
          note: the text of the note.
          origin: the id of the log that it must be about; by default any.

        Raises:
          AuditError: it is not a note, it is about another log, or this key has not signed it.
        """
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - an extra

        parsed = parse_note(note)
        found = parsed.checkpoint
        if origin is not None and found.origin != origin:
            raise AuditError(f"the note is about the log {found.origin!a:.100}, not {origin!a:.100}")
        key_hash = self.key_hash(found.origin)
        for signature in parsed.signatures:
            if signature.name == found.origin and signature.key_hash == key_hash:
                try:
                    self._public.verify(signature.value, parsed.text.encode())
                except InvalidSignature:
                    raise AuditError("the signature of the note is wrong: it was changed or forged") from None
                return found
        raise AuditError("the note is not signed by this key")

    def __repr__(self) -> str:
        return f"<Verifier {self._raw.hex()}>"


class Signer:
    """A private key, which signs notes, and the commitment key beside it.

    Its repr shows the public key.

    Args:
      private_key: an Ed25519 key of the package ``cryptography``.
      commitment_key: what commitments to payloads are made with.

    Attributes:
      commitment_key: the same.
      verifier: the public key.
    """

    __slots__ = ("_private", "commitment_key", "verifier")

    def __init__(self, private_key: Ed25519PrivateKey, commitment_key: CommitmentKey) -> None:
        self._private = private_key
        self.commitment_key: Final = commitment_key
        self.verifier: Final = Verifier(private_key.public_key())

    @classmethod
    def generate(cls) -> Signer:
        """A new pair of keys.

        Raises:
          AuditError: the package ``cryptography`` is missing.
        """
        _require_cryptography()
        from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415 - an extra
            Ed25519PrivateKey,
        )

        return cls(Ed25519PrivateKey.generate(), CommitmentKey.generate())

    @classmethod
    def load(cls, path: str | os.PathLike[str], commitment_key: CommitmentKey | None = None) -> Signer:
        """Read the private key in a PEM file without a passphrase.

        Args:
          path: the file that ``trio-eventlog keygen`` has written.
          commitment_key: by default that in the file of the same name with ``.commitment`` behind it.

        Raises:
          AuditError: a file cannot be read, or has no such key; or ``cryptography`` is missing.
        """
        _require_cryptography()
        from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415 - as above
            Ed25519PrivateKey,
        )
        from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415 - as above

        try:
            key = load_pem_private_key(_read(path), None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            # Not from it: what a parser says of a secret may have some of it.
            raise AuditError(f"{os.fspath(path)}: not a private key in PEM without a passphrase") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise AuditError(f"{os.fspath(path)}: not an Ed25519 key")
        if commitment_key is None:
            commitment_key = CommitmentKey.load(os.fspath(path) + COMMITMENT_SUFFIX)
        return cls(key, commitment_key)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the keys to new files, synced: ``path``, ``path.pub`` and ``path.commitment``. Blocks.

        All but the public key get mode 0600.

        Raises:
          AuditError: one of the files exists already, or cannot be written. What was written before it is
            removed again.
        """
        from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - an extra
            Encoding,
            NoEncryption,
            PrivateFormat,
            PublicFormat,
        )

        private = self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        public = self.verifier._public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        base = os.fspath(path)
        contents = (
            (base, private, 0o600),
            (base + PUBLIC_SUFFIX, public, 0o644),
            (base + COMMITMENT_SUFFIX, self.commitment_key._pem(), 0o600),
        )
        written: list[str] = []
        try:
            for name, content, mode in contents:
                _write_new(name, content, mode, written)
        except OSError as exc:
            for name in written:
                Path(name).unlink()
            # Only what cannot be opened has a name.
            raise AuditError(f"{exc.filename or written[-1]}: {exc.strerror}") from exc

    def sign(self, checkpoint: Checkpoint) -> str:
        """The note of a checkpoint.

        Raises:
          TypeError, ValueError: its origin cannot be in a note.
        """
        origin = check_origin(checkpoint.origin)
        text = checkpoint.text()
        signature = self._private.sign(text.encode())
        return text + "\n" + signature_line(origin, self.verifier.key_hash(origin), signature)

    def __repr__(self) -> str:
        return f"<Signer {self.verifier._raw.hex()}>"


def _require_cryptography() -> None:
    try:
        import cryptography as _  # noqa: F401, PLC0415 - whether the extra is there
    except ModuleNotFoundError as exc:
        raise AuditError(f"checkpoints need the package cryptography: {how_to_install('audit')}") from exc


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(_MAX_FILE)
    except OSError as exc:
        raise AuditError(f"{os.fspath(path)}: {exc.strerror}") from exc


def _write_new(name: str, content: bytes, mode: int, written: list[str]) -> None:
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    written.append(name)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
