"""States after beginnings of prompts: a prompt that begins as an earlier one did goes on from there, bit for bit."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

from causalrn.runtimes.snapshot import IntArray, Snapshot
from causalrn.serving.state_cost import snapshot_bytes


class PrefixCache:
    """Snapshots by the tokens that led to them; what has not been used longest goes first.

    A key is the SHA-256 of client and tokens: whether a prompt was in the cache can be seen by its time, so clients
    share nothing. An entry serves a prompt that begins with its tokens and whose own calls come to an end there: then
    the same calls have made the state, and what follows is bit-equal to a run without a cache on every runtime.

    Args:
        most_bytes: of all snapshots together; 0 keeps nothing.

    Attributes:
        hits, misses: of :meth:`find`.
        size_bytes: of what is kept.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.hits = self.misses = self.size_bytes = 0
        self._entries: OrderedDict[bytes, Snapshot] = OrderedDict()

    def __len__(self) -> int:
        """How many states are kept."""
        return len(self._entries)

    def find(self, client: str, tokens: IntArray, ends: Sequence[int]) -> Snapshot | None:
        """The state after the longest beginning of a prompt.

        Args:
            ends: positions at which the prompt's own calls end, upwards.
        """
        if not self.most_bytes:
            return None
        for key in reversed(_keys(client, tokens, ends)):
            if key in self._entries:
                self._entries.move_to_end(key)
                self.hits += 1
                return self._entries[key]
        self.misses += 1
        return None

    def keep(self, client: str, tokens: IntArray, snapshot: Snapshot) -> None:
        """Keep the state after `tokens`, if it is not larger than the cache."""
        size = snapshot_bytes(snapshot)
        (key,) = _keys(client, tokens, (len(tokens),))
        if size > self.most_bytes or key in self._entries:
            return
        while self.size_bytes + size > self.most_bytes:
            self.size_bytes -= snapshot_bytes(self._entries.popitem(last=False)[1])
        self._entries[key] = snapshot
        self.size_bytes += size


def _keys(client: str, tokens: IntArray, ends: Sequence[int]) -> list[bytes]:
    """Of the beginnings of a prompt that end at `ends`: every token is hashed once."""
    digest = hashlib.sha256(len(client.encode()).to_bytes(8, "little") + client.encode())
    keys, start = [], 0
    for end in ends:
        digest.update(tokens[start:end].astype("<i8").tobytes())
        keys.append(digest.digest())
        start = end
    return keys
