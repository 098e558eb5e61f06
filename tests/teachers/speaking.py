"""A real HTTP server over a real model that speaks as vLLM, SGLang or OpenAI's own completions do, and can misbehave.

In: a model, a dialect, `amiss`: what becomes of each honest reply. Out: a base URL; `asked` counts the requests that
were answered. It is the other side of the wire, not a copy of ours: logits come from one plain forward per request.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from stillhouse.models import Model

Reply = tuple[int, dict[str, str], bytes]
Amiss = Callable[[int, str, dict[str, Any]], Reply | dict[str, Any] | None]
OWNERS = {"vllm": "vllm", "sglang": "sglang", "openai": "somebody"}


class Speaking:
    """What the server says. `amiss(number, path, reply)` may give another reply, or None for the honest one."""

    def __init__(self, model: Model, dialect: str, amiss: Amiss = lambda number, path, reply: None):
        self.model, self.dialect, self.amiss = model, dialect, amiss
        self.asked = self.longer = 0  # tokens more than were asked for
        self.lock = threading.Lock()

    def reply(self, path: str, body: dict[str, Any]) -> Reply:
        with self.lock:
            self.asked += path != "/v1/models"
            made = self._made(path, body)
            found = self.amiss(self.asked, path, made)
        if isinstance(found, tuple):
            return found
        return 200, {"Content-Type": "application/json"}, json.dumps(found or made).encode()

    def _made(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path == "/v1/models":
            return {"object": "list", "data": [{"id": "big", "owned_by": OWNERS[self.dialect], "max_model_len": 512}]}
        if path == "/generate":
            return self._sglang(body)
        prompts = body["prompt"] if isinstance(body["prompt"][0], list) else [body["prompt"]]
        return {"choices": [self._choice(i, p, body) for i, p in enumerate(prompts)]}

    @torch.no_grad()
    def _logprobs(self, ids: list[int]) -> torch.Tensor:
        return torch.log_softmax(self.model.network(input_ids=torch.tensor([ids])).logits[0].float(), -1)

    def _written(self, ids: list[int], most: int) -> list[tuple[int, torch.Tensor]]:
        found: list[tuple[int, torch.Tensor]] = []
        for _ in range(most):
            logprobs_V = self._logprobs([*ids, *(t for t, _ in found)])[-1]
            found.append((int(logprobs_V.argmax()), logprobs_V))
            if found[-1][0] in self.model.stop_ids:
                break
        return found

    def _choice(self, index: int, ids: list[int], body: dict[str, Any]) -> dict[str, Any]:
        written = self._written(ids, body["max_tokens"] + self.longer)
        name = (lambda t: f"token_id:{t}") if body.get("return_tokens_as_token_ids") else self._text
        tops = [logprobs_V.topk(body.get("logprobs") or 1) for _, logprobs_V in written]
        told = {
            "tokens": [name(t) for t, _ in written],
            "token_logprobs": [float(lp[t]) for t, lp in written],
            "top_logprobs": [{name(int(i)): float(p) for p, i in zip(*top, strict=True)} for top in tops],
        }
        stopped = bool(written) and written[-1][0] in self.model.stop_ids
        said = b"".join(self.model.token_bytes[t] for t, _ in written if t not in self.model.stop_ids)
        choice = {"index": index, "text": said.decode(errors="replace"), "logprobs": told}
        if k := body.get("prompt_logprobs"):
            choice["prompt_logprobs"] = [None, *self._prompt(ids, k)]
        return choice | {"finish_reason": "stop" if stopped else "length"}

    def _prompt(self, ids: list[int], k: int) -> Iterator[dict[str, Any]]:
        for logprobs_V, token in zip(self._logprobs(ids), ids[1:], strict=False):
            found = {int(i): float(p) for p, i in zip(*logprobs_V.topk(k), strict=True)} | {
                token: float(logprobs_V[token])
            }
            yield {str(i): {"logprob": p, "rank": 1, "decoded_token": self._text(i)} for i, p in found.items()}

    def _sglang(self, body: dict[str, Any]) -> dict[str, Any]:
        ids, k = body["input_ids"], body["top_logprobs_num"]
        written = self._written(ids, body["sampling_params"]["max_new_tokens"])

        def top(logprobs_V: torch.Tensor) -> list[list[Any]]:
            return [[float(p), int(i), None] for p, i in zip(*logprobs_V.topk(k), strict=True)]

        own_TV = self._logprobs(ids)
        own = [[float(lp[t]), t, None] for lp, t in zip(own_TV, ids[1:], strict=False)]
        return {"text": "", "meta_info": {
            "finish_reason": {"type": "stop" if written[-1][0] in self.model.stop_ids else "length"},
            "output_token_logprobs": [[float(lp[t]), t, None] for t, lp in written],
            "output_top_logprobs": [top(lp) for _, lp in written],
            "input_token_logprobs": [[None, ids[0], None], *own],
            "input_top_logprobs": [None, *(top(lp) for lp in own_TV[:-1])],
        }}  # fmt: skip

    def _text(self, token: int) -> str:
        return self.model.token_bytes[token].decode(errors="replace")


@contextmanager
def serving(speaking: Speaking) -> Iterator[str]:
    """The server on a free port; its base URL."""

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(speaking.reply(self.path, {}))

        def do_POST(self) -> None:
            self._send(speaking.reply(self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

        def _send(self, reply: Reply) -> None:
            status, headers, data = reply
            if not status:  # the connection breaks
                self.connection.close()
                return
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(data))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
