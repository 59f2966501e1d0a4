"""Masks that cancel in a sum: fixed-point numbers, pairwise and own masks, shares of their seeds. No message, no file.

A device adds to its vector, modulo 2^64, a mask of its own and one per peer that the peer subtracts; what it sends is
uniform for whoever knows none of the seeds. Seeds are shared among the peers (t of n), so that the masks of a device that
dropped out, and the own masks of those that did not, can be taken off the sum, never both of one device.
The server is trusted to follow the protocol: it could otherwise hand out keys of its own. Fewer than t devices in league
with it learn nothing of another.

Source: Bonawitz et al., CCS 2017, protocol without signatures (honest but curious server).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from Crypto.Protocol.SecretSharing import Shamir
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from covey.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

SECRET = 32  # bytes from which a device derives everything of a round
SEED = 16  # bytes of a seed that is shared
KEY = 32  # bytes of a public key
SEALED = 2 * SEED + 16  # bytes of a sealed pair of shares, with its tag
FINE_BITS = 50  # fraction of a wide number, in its second word
COARSE_BITS = 20  # fraction of a number of one word
MOST = 2.0**42  # of one number of one word: 2^20 / 2 such devices sum up within 2^63
MOST_WIDE = 2.0**49


@dataclass(frozen=True)
class Secrets:
    """What a device derives from its secret of a round.

    Attributes:
        cipher: its key that opens what peers seal for it.
        pair_seed: seed of its key that pairwise masks come from.
        own_seed: seed of its own mask.
    """

    cipher: X25519PrivateKey
    pair_seed: bytes
    own_seed: bytes


def derive(secret: bytes) -> Secrets:
    """Everything from one secret."""
    return Secrets(
        X25519PrivateKey.from_private_bytes(_kdf(secret, b"cipher", 32)),
        _kdf(secret, b"pair", SEED),
        _kdf(secret, b"own", SEED),
    )


def pair_key(seed: bytes) -> X25519PrivateKey:
    """The key behind a pair seed."""
    return X25519PrivateKey.from_private_bytes(_kdf(seed, b"pair key", 32))


def public(key: X25519PrivateKey) -> bytes:
    """Its public half, 32 bytes."""
    return key.public_key().public_bytes_raw()


def threshold_of(count: int) -> int:
    """Devices that must stay to the end: more than two thirds, so that no two groups of them can be told different stories."""
    return 2 * count // 3 + 1


def split(secrets: Secrets, threshold: int, count: int) -> list[bytes]:
    """A pair of shares for each of `count` devices: of the own seed, and of the pair seed.

    Source: Shamir, CACM 22(11), 1979.
    """
    own = Shamir.split(threshold, count, secrets.own_seed, ssss=False)
    pair = Shamir.split(threshold, count, secrets.pair_seed, ssss=False)
    return [bytes(one) + bytes(other) for (_, one), (_, other) in zip(own, pair, strict=True)]


def join(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """A seed from at least `threshold` shares, by the positions (from 0) of the devices that hold them."""
    chosen = [(position + 1, shares[position]) for position in sorted(shares)[:threshold]]
    return bytes(Shamir.combine(chosen, ssss=False))


def seal(shares: bytes, key: X25519PrivateKey, to: bytes, route: tuple[int, int], tag: bytes) -> bytes:
    """Shares for one peer. `route` is (from, to), `tag` names run and round; a key is used once in each direction."""
    nonce = route[0].to_bytes(4, "big") + route[1].to_bytes(4, "big") + b"\0" * 4
    return ChaCha20Poly1305(_agreed(key, to, b"share" + tag)).encrypt(nonce, shares, tag)


def unseal(sealed: bytes, key: X25519PrivateKey, sender: bytes, route: tuple[int, int], tag: bytes) -> bytes:
    """The inverse of `seal`.

    Raises:
        DataError: it was sealed by somebody else, for somebody else, or changed.
    """
    nonce = route[0].to_bytes(4, "big") + route[1].to_bytes(4, "big") + b"\0" * 4
    try:
        return ChaCha20Poly1305(_agreed(key, sender, b"share" + tag)).decrypt(nonce, sealed, tag)
    except InvalidTag as error:
        raise DataError(f"masks: shares that device {route[0]} sealed for {route[1]} expected, others came") from error


def own_mask(seed: bytes, size: int, tag: bytes) -> NDArray[np.uint64]:
    """(size,) the mask of one device."""
    return _stream(_kdf(seed, b"own mask" + tag, 32), size)


def pair_mask(key: X25519PrivateKey, peer: bytes, route: tuple[int, int], size: int, tag: bytes) -> NDArray[np.uint64]:
    """(size,) what the device at `route[0]` adds for the one at `route[1]`: the opposite of what that one adds for it."""
    stream = _stream(_agreed(key, peer, b"mask" + tag), size)
    return stream if route[0] < route[1] else np.uint64(0) - stream


def narrow(values: NDArray[np.float64], what: str) -> NDArray[np.uint64]:
    """Fixed point, one word a value, two's complement.

    Raises:
        DataError: a value that does not fit.
    """
    _fits(values, MOST, what)
    return _words(np.rint(values * 2.0**COARSE_BITS))


def wide(values: NDArray[np.float64], what: str) -> NDArray[np.uint64]:
    """Whole part and fraction in a word each: any unit a sensor has, to 1e-15.

    Raises:
        DataError: a value that does not fit.
    """
    _fits(values, MOST_WIDE, what)
    whole = np.rint(values)
    rest = np.rint((values - whole) * 2.0**FINE_BITS)
    return _words(np.concatenate([whole, rest]))


def narrow_sum(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """The inverse of `narrow`, of a sum."""
    values: NDArray[np.float64] = words.view(np.int64) / 2.0**COARSE_BITS
    return values


def wide_sum(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """The inverse of `wide`, of a sum."""
    whole, rest = np.split(words.view(np.int64), 2)
    values: NDArray[np.float64] = whole + rest / 2.0**FINE_BITS
    return values


def _words(whole: NDArray[np.float64]) -> NDArray[np.uint64]:
    words: NDArray[np.uint64] = whole.astype(np.int64).view(np.uint64)
    return words


def _fits(values: NDArray[np.float64], most: float, what: str) -> None:
    if not (np.isfinite(values).all() and (np.abs(values) <= most).all()):
        raise DataError(f"masks: {what} of at most {most:.3g} expected, larger or not finite ones found")


def _stream(key: bytes, size: int) -> NDArray[np.uint64]:
    zeros = bytes(8 * size)
    content = Cipher(algorithms.ChaCha20(key, b"\0" * 16), mode=None).encryptor().update(zeros)
    return np.frombuffer(content, "<u8").astype(np.uint64)


def _agreed(key: X25519PrivateKey, peer: bytes, info: bytes) -> bytes:
    try:
        return _kdf(key.exchange(X25519PublicKey.from_public_bytes(peer)), info, 32)
    except ValueError as error:  # a key of low order
        raise DataError("masks: a key of a peer expected, something else came") from error


def _kdf(secret: bytes, info: bytes, size: int) -> bytes:
    return HKDF(SHA256(), size, None, b"covey masks " + info).derive(secret)
