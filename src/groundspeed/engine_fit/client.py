"""Send requests to an OpenAI-compatible server and note when each part of the answers arrives.

Prompts are random token ids: of exact length, and never in the prefix cache. The answer is streamed
and has exactly the length that was asked for (``ignore_eos``); how many tokens it has is what the
server's ``usage`` says, not the number of chunks, because engines send several tokens in one.

    TTFT = first chunk - request,     TPOT = (last chunk - first chunk) / (tokens - 1)

A request that fails is a result too: its reason is kept, in one line.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import numpy as np

from groundspeed.profiles.errors import InputError

CONNECT_S = 10.0
"""[s] Longest wait for a connection."""

LEAST_FAILURES = 3
"""Failures in a row, or as many as there are clients, after which nothing more is sent."""

RESERVED_IDS = 1000
"""Token ids below this are left out of prompts: the first ones are often special."""


@dataclass(frozen=True)
class Asked:
    """One request to send."""

    prompt_tokens: int
    output_tokens: int
    seed: int


@dataclass(frozen=True)
class Answered:
    """What came of a request; times in seconds since the load began."""

    prompt_tokens: int
    output_tokens: int
    sent_s: float
    first_s: float = 0.0
    last_s: float = 0.0
    tokens: int = 0
    """Number of tokens by the server's usage field."""
    chunks: int = 0
    gaps_s: tuple[float, ...] = ()
    """[s] Time between chunks."""
    error: str = ""

    @property
    def ttft_s(self) -> float:
        """[s] Time to the first chunk."""
        return self.first_s - self.sent_s

    @property
    def tpot_s(self) -> float | None:
        """[s] Mean time per token after the first; None for an answer of one token."""
        return (self.last_s - self.first_s) / (self.tokens - 1) if self.tokens > 1 else None


@dataclass
class ServerClient:
    """A connection to one server for one model.

    Parameters
    ----------
    url : str
        Root of the server, such as ``http://127.0.0.1:8000``.
    model : str
        Name that the server gives the model.
    vocabulary : int
        Number of token ids.
    timeout_s : float
        Longest time between two chunks.
    key : str or None
        Key that is sent as a bearer token.
    """

    url: str
    model: str
    vocabulary: int
    timeout_s: float = 120.0
    key: str | None = None

    def body(self, asked: Asked) -> dict[str, object]:
        """Return the JSON of a request."""
        low = min(RESERVED_IDS, self.vocabulary // 2)
        ids = np.random.default_rng(asked.seed).integers(low, self.vocabulary, asked.prompt_tokens)
        return {
            "model": self.model,
            "prompt": ids.tolist(),
            "max_tokens": asked.output_tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def connection(self, connections: int) -> httpx.AsyncClient:
        """Return a client that holds this many connections open."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return httpx.AsyncClient(
            base_url=self.url,
            headers=headers,
            timeout=httpx.Timeout(self.timeout_s, connect=CONNECT_S),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            trust_env=False,
        )

    async def ask(self, http: httpx.AsyncClient, asked: Asked, began: float) -> Answered:
        """Send one request and read its answer to the end."""
        body = self.body(asked)
        sent = time.perf_counter() - began
        none = Answered(asked.prompt_tokens, asked.output_tokens, sent)
        first = last = 0.0
        arrivals: list[float] = []
        tokens = 0
        finished = False
        try:
            async with http.stream("POST", "/v1/completions", json=body) as answer:
                if answer.status_code != 200:
                    return _failed(none, status_error(answer.status_code, await answer.aread()))
                async for line in answer.aiter_lines():
                    if not line.startswith("data:"):
                        continue
                    now = time.perf_counter() - began
                    data = line[5:].strip()
                    if data == "[DONE]":
                        finished = True
                        break
                    event = json.loads(data)
                    if not isinstance(event, dict):
                        raise ValueError(f"an event is {data[:40]}")
                    if "error" in event:
                        return _failed(none, f"the server stopped: {_short(event['error'])}")
                    if event.get("choices"):
                        arrivals.append(now)
                    usage = event.get("usage")
                    if isinstance(usage, dict):
                        tokens = int(usage.get("completion_tokens") or tokens)
        except httpx.TimeoutException:
            return _failed(none, f"no answer for {self.timeout_s:g} s")
        except (httpx.HTTPError, OSError) as error:
            return _failed(none, f"the connection broke: {_short(error) or type(error).__name__}")
        except (ValueError, TypeError) as error:
            return _failed(none, f"the answer is not a stream of events: {_short(error)}")
        if not finished or not arrivals:
            return _failed(none, "the stream ended before the answer did")
        if not tokens:
            return _failed(none, "the server's answer has no usage: tokens cannot be counted")
        first, last = arrivals[0], arrivals[-1]
        gaps = tuple(np.round(np.diff(arrivals), 6).tolist())
        return Answered(
            asked.prompt_tokens, asked.output_tokens, sent, first, last, tokens, len(arrivals), gaps
        )


def _failed(none: Answered, reason: str) -> Answered:
    return Answered(none.prompt_tokens, none.output_tokens, none.sent_s, error=reason)


def status_error(status: int, content: bytes) -> str:
    """Say in one line what an HTTP status means."""
    known = {
        401: "refused: it needs a key (set GROUNDSPEED_API_KEY)",
        403: "refused: the key is not allowed",
        404: "not found: is it the root of an OpenAI-compatible server, and the model's name?",
        429: "busy: it limits the rate of requests",
    }
    said = known.get(status, "failed" if status >= 500 else "refused")
    try:
        found = json.loads(content)
        detail = found.get("error", found) if isinstance(found, dict) else found
        text = detail.get("message", detail) if isinstance(detail, dict) else detail
    except ValueError:
        text = content.decode("utf-8", "replace")
    return f"{said} (HTTP {status}: {_short(text)})"


def _short(value: object) -> str:
    return " ".join(str(value).split())[:160]


def run_load(
    client: ServerClient,
    asked: Sequence[Asked],
    concurrency: int,
    done: Callable[[Answered], None],
) -> list[Answered]:
    """Send requests from a number of clients, each after the answer to its last one.

    Parameters
    ----------
    client : ServerClient
    asked : sequence of Asked
    concurrency : int
        Number of clients.
    done : callable
        Called with each answer as it ends.

    Raises
    ------
    InputError
        If the first answers all fail: nothing more is sent.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_run(client, asked, concurrency, done))
    # A notebook has an event loop of its own: the load gets one in another thread.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(_run(client, asked, concurrency, done))).result()


async def _run(
    client: ServerClient,
    asked: Sequence[Asked],
    concurrency: int,
    done: Callable[[Answered], None],
) -> list[Answered]:
    answers: list[Answered] = []
    left = iter(asked)
    stop = False

    async def one_client(http: httpx.AsyncClient, began: float) -> None:
        nonlocal stop
        for each in left:
            if stop:
                return
            answer = await client.ask(http, each, began)
            answers.append(answer)
            done(answer)
            # Nothing is gained by sending the rest to a server that refuses or is gone.
            latest = answers[-max(concurrency, LEAST_FAILURES) :]
            enough = len(latest) >= max(concurrency, LEAST_FAILURES)
            stop = stop or (enough and all(a.error for a in latest))

    async with client.connection(concurrency) as http:
        began = time.perf_counter()
        await asyncio.gather(*(one_client(http, began) for _ in range(concurrency)))
    if answers and all(a.error for a in answers):
        raise InputError(answers[0].error, where=client.url)
    return answers
