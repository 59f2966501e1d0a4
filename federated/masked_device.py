"""A device's four steps of a masked sum; what it must know from step to step is in its memory until the last.

It refuses what would undo the masks: a roster without itself, too low a threshold, too few survivors, or a second question
about the same round.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from covey.errors import DataError
from federated import masking
from federated.memory import recall, remember
from federated.moments import to_words
from federated.records import answer, arrays_of, config_of

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from numpy.typing import NDArray

    from federated.gate import Arrays
    from federated.learning import Task

FEWEST = 3  # devices in a sum: of two, each knows the other's part


def make_keys(message: Message, context: Context) -> Message:
    """Step 1: a fresh secret; its two public keys."""
    secret = os.urandom(masking.SECRET)
    remember(context, {"secret": _bytes(secret), "tag": _bytes(tag_of(message))})
    mine = masking.derive(secret)
    told = {"cipher": masking.public(mine.cipher), "pair": masking.public(masking.pair_key(mine.pair_seed))}
    return answer({name: _bytes(key) for name, key in told.items()}, message)


def make_shares(message: Message, context: Context) -> Message:
    """Step 2: shares of both seeds, each pair sealed for its peer.

    Raises:
        DataError: a roster that this device should not take part in.
    """
    memory, roster = _memory(message, context, "cipher_keys"), arrays_of(message)
    own, threshold = int(roster["position"][0]), int(config_of(message)["threshold"])
    ciphers, pairs = _keys(roster, "cipher"), _keys(roster, "pair")
    mine = masking.derive(memory["secret"].tobytes())
    count = len(ciphers)
    if count < FEWEST or threshold < masking.threshold_of(count) or threshold > count:
        raise DataError(
            f"masks: {FEWEST} devices or more expected of whom more than two thirds stay, {threshold} of {count} came"
        )
    if len(set(pairs)) != count or len(pairs) != count or not 0 <= own < count:
        raise DataError("masks: a roster of different devices expected, others came")
    if (ciphers[own], pairs[own]) != (masking.public(mine.cipher), masking.public(masking.pair_key(mine.pair_seed))):
        raise DataError("masks: a roster with this device's keys expected, others came")
    tag = memory["tag"].tobytes()
    shares = masking.split(mine, threshold, count)
    sealed = np.zeros((count, masking.SEALED), np.uint8)
    for peer in range(count):
        if peer != own:
            sealed[peer] = _bytes(masking.seal(shares[peer], mine.cipher, ciphers[peer], (own, peer), tag))
    place = np.array([own, threshold], np.int64)
    remember(
        context,
        {
            **memory,
            "cipher_keys": roster["cipher"],
            "pair_keys": roster["pair"],
            "own": _bytes(shares[own]),
            "place": place,
        },
    )
    return answer({"sealed": sealed}, message)


def mask(task: Task, update: Arrays) -> Message:
    """Step 3: the device's moments under its masks.

    Raises:
        DataError: too few peers, or a step left out or asked twice.
    """
    message, context = task.message, task.context
    memory, told = _memory(message, context, "sealed"), task.state
    own, threshold = (int(number) for number in memory["place"])
    pairs = _keys({"pair": memory["pair_keys"]}, "pair")
    present = _members(told, "present", len(pairs), threshold)
    if own not in present or told["sealed"].shape != (len(pairs), masking.SEALED):
        raise DataError("masks: this device's shares among those present expected, they are not")
    mine, tag = masking.derive(memory["secret"].tobytes()), memory["tag"].tobytes()
    words = to_words(update, task.center, task.scale, len(task.lesson.z))
    words = words + masking.own_mask(mine.own_seed, len(words), tag)
    key = masking.pair_key(mine.pair_seed)
    for peer in present:
        if peer != own:
            words = words + masking.pair_mask(key, pairs[peer], (own, peer), len(words), tag)
    remember(context, {**memory, "sealed": told["sealed"], "present": told["present"]})
    return answer({"masked": words}, message)


def open_masks(message: Message, context: Context) -> Message:
    """Step 4, once: for a survivor its share of the own seed, for a device that dropped out that of the pair seed.

    Raises:
        DataError: too few survivors; or the round was opened already.
    """
    memory, told = _memory(message, context, "opened"), arrays_of(message)
    if "sealed" not in memory:
        raise DataError("masks: the steps of one round in their order expected, a step was left out")
    own, threshold = (int(number) for number in memory["place"])
    ciphers = _keys({"cipher": memory["cipher_keys"]}, "cipher")
    present = np.flatnonzero(memory["present"]).tolist()
    survivors = _members(told, "survivors", len(ciphers), threshold)
    if not set(survivors) <= set(present):
        raise DataError("masks: survivors among those present expected, others came")
    mine, tag = masking.derive(memory["secret"].tobytes()), memory["tag"].tobytes()
    shares = np.zeros((len(ciphers), masking.SEED), np.uint8)
    for peer in present:
        if peer == own:
            both = memory["own"].tobytes()
        else:
            both = masking.unseal(memory["sealed"][peer].tobytes(), mine.cipher, ciphers[peer], (peer, own), tag)
        shares[peer] = _bytes(both[: masking.SEED] if peer in survivors else both[masking.SEED :])
    remember(context, {"tag": memory["tag"], "opened": np.ones(1, np.uint8)})  # seeds and shares are gone
    return answer({"shares": shares}, message)


def tag_of(message: Message) -> bytes:
    """Names run and round."""
    config = config_of(message)
    return f"{config['run']}/{config['round']}".encode()


def _memory(message: Message, context: Context, after: str) -> Arrays:
    """What this device remembers of this round, unless it did the step that leaves `after` already."""
    memory = recall(context)
    if "tag" not in memory or memory["tag"].tobytes() != tag_of(message):
        raise DataError("masks: a round whose keys this device made expected, another came")
    if after in memory:
        raise DataError("masks: each step of a round once expected, it was asked again")
    return memory


def _keys(roster: Arrays, name: str) -> list[bytes]:
    keys = roster.get(name)
    if keys is None or keys.ndim != 2 or keys.shape[1] != masking.KEY or keys.dtype != np.uint8:
        raise DataError(f"masks: {name} keys of {masking.KEY} bytes expected, others came")
    return [key.tobytes() for key in keys]


def _members(told: Arrays, name: str, count: int, threshold: int) -> list[int]:
    members = told.get(name)
    if members is None or members.shape != (count,):
        raise DataError(f"masks: {name} of {count} devices expected, others came")
    found: list[int] = np.flatnonzero(members).tolist()
    if len(found) < threshold:
        raise DataError(f"masks: at least {threshold} devices {name} expected, {len(found)} are")
    return found


def _bytes(content: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(content, np.uint8)
