"""A client that streams completions and costs little: it keeps bytes as they come and reads them afterwards."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answered:
    """One answer: which case, the token ids or what went wrong, and when its first and last bytes came."""

    case: int
    tokens: tuple[int, ...]
    error: str
    first_s: float
    whole_s: float


class Client:
    """One connection that is kept.

    Args:
        port: on this machine.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def complete(self, case: int, body: dict[str, Any]) -> Answered:
        """Ask once."""
        begun = time.perf_counter()
        try:
            reader, writer = self._streams or await asyncio.open_connection("127.0.0.1", self._port)
            self._streams = reader, writer
            content = json.dumps(body | {"stream": True}).encode()
            head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(content)}\r\n"
            writer.write(head.encode() + b"content-type: application/json\r\n\r\n" + content)
            await writer.drain()
            received, first = bytearray(), 0.0
            while not received.endswith(b"\r\n0\r\n\r\n"):
                part = await reader.read(1 << 16)
                if not part:
                    raise ConnectionError("the connection has ended")
                received += part
                if not first and b"data: " in received:
                    first = time.perf_counter() - begun
                if not received.startswith(b"HTTP/1.1 200") and b"error" in received:
                    raise ConnectionError(received[-200:].decode(errors="replace"))
            tokens = tokens_of(bytes(received))
            return Answered(case, tokens, "", first, time.perf_counter() - begun)
        except (OSError, ValueError) as error:
            self._streams = None
            return Answered(case, (), f"{type(error).__name__}: {error}", 0.0, time.perf_counter() - begun)

    def close(self) -> None:
        """Leave."""
        if self._streams is not None:
            self._streams[1].close()


def tokens_of(answer: bytes) -> tuple[int, ...]:
    """Token ids of a stream of a model without alphabet, whose text they are.

    Raises:
        ValueError: it holds an error, or does not end as it should.
    """
    events = [line[6:] for line in answer.split(b"\n") if line.startswith(b"data: ")]
    if not events or events[-1].strip() != b"[DONE]":
        raise ValueError(f"the stream ends with {events[-1:]}")
    parts = [json.loads(event) for event in events[:-1]]
    text = "".join(choice["text"] for part in parts for choice in part["choices"])
    return tuple(int(token) for token in text.split())


async def ask_all(port: int, bodies: list[dict[str, Any]], clients: int, seconds: float) -> list[Answered]:
    """So many clients at once, each asking one case after the other, until the time is up; what has begun ends.

    Args:
        bodies: the cases; clients begin at different ones.
    """
    end = time.perf_counter() + seconds
    answers: list[Answered] = []

    async def ask(client: int) -> None:
        connection, case = Client(port), client
        while time.perf_counter() < end:
            case = (case + 1) % len(bodies)
            answers.append(await connection.complete(case, bodies[case]))
        connection.close()

    await asyncio.gather(*(ask(client) for client in range(clients)))
    return answers
