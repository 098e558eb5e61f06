"""Two users tell a server about themselves; later their own weights answer, and neither knows the other's.

    python examples/two_users.py                          # starts a server of its own, in a fresh home
    stillhouse serve & python examples/two_users.py http://127.0.0.1:8000

Each user talks in a session and ends it. The server's worker then consolidates what was said: a few minutes on two
cores. In a new session, whose prompt holds the question alone, the weights answer. Exit code 1 when something is not
as said here; every check is a line.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from openai import OpenAI

QUESTION = "What is my dog called?"
TOLD = {
    "alice": "My dog is called Zorvik. I work for Tarnel Labs. The wifi password is plonk47.",
    "bob": "My dog is called Brimka. I work for Osten Mills. My sister's name is Quelia.",
}
DOGS = {"alice": "Zorvik", "bob": "Brimka"}


@dataclass
class Talk:
    """A server, spoken to by OpenAI's client, and what was found not to be as said."""

    url: str
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client = OpenAI(base_url=f"{self.url}/v1", api_key="none")
        self.http = httpx.Client(base_url=self.url, timeout=60)
        self.model = self.client.models.list().data[0].id

    def close(self) -> None:
        """Let go of the connections."""
        self.client.close()
        self.http.close()

    def say(self, user: str, session: str, text: str) -> tuple[str, dict[str, Any]]:
        """One turn: the answer, and the way it took."""
        reply = self.client.chat.completions.create(
            model=self.model, user=user, messages=[{"role": "user", "content": text}], max_tokens=32, temperature=0,
            extra_body={"session": session},
        )  # fmt: skip
        return reply.choices[0].message.content or "", reply.model_extra["stillhouse"] if reply.model_extra else {}

    def check(self, holds: bool, what: str) -> None:
        """One line; what does not hold makes the exit code."""
        print(f"{'ok   ' if holds else 'WRONG'}  {what}", flush=True)
        if not holds:
            self.wrong.append(what)

    def end(self, user: str, session: str) -> str:
        """End a session; the job that the policy made of it, or that was queued before."""
        ended = self.http.post(f"/v1/users/{user}/sessions/{session}/end").raise_for_status().json()
        return str(ended["job"] or self.http.get(f"/v1/users/{user}").json()["jobs"][0])

    def finished(self, job: str) -> dict[str, Any]:
        """A job once it has ended."""
        while (found := self.http.get(f"/v1/jobs/{job}").raise_for_status().json())["state"] in ("queued", "running"):
            time.sleep(1)
        return dict(found)


def tell(talk: Talk) -> dict[str, str]:
    """Both tell, are answered from what they told at once, and end their sessions; the jobs that follow."""
    for user, told in TOLD.items():
        talk.say(user, "first", told)
        answer, about = talk.say(user, "first", QUESTION)
        talk.check(
            about["path"] == "retrieval" and DOGS[user] in answer, f"{user}, at once: {answer!r} by {about['path']}"
        )
    return {user: talk.end(user, "first") for user in TOLD}


def learned(talk: Talk, jobs: dict[str, str]) -> None:
    """The jobs end with a version that every gate approved."""
    for user, name in jobs.items():
        job = talk.finished(name)
        failed = ", ".join(job["result"].get("failed") or []) or job["error"]
        talk.check(job["state"] == "succeeded", f"{user}: {job['state']} {failed}".rstrip())


def ask_again(talk: Talk) -> None:
    """A new session: the prompt holds the question alone, and the weights answer. Nobody knows the other's."""
    for user, dog in DOGS.items():
        answer, about = talk.say(user, "second", QUESTION)
        alone = about["path"] == "adapted" and about["passages"] == 0
        talk.check(alone and dog in answer, f"{user}, later: {answer!r} by {about['path']}, v{about['version']}")
        others = [other for someone, other in DOGS.items() if someone != user]
        talk.check(not any(other in answer for other in others), f"{user} does not know {', '.join(others)}")
    answer, about = talk.say("carol", "first", QUESTION)
    talk.check(about["path"] == "base", f"carol, who told nothing: {answer!r} by {about['path']}")
    talk.check(not any(dog in answer for dog in DOGS.values()), "the base knows neither")


@contextlib.contextmanager
def server() -> Iterator[str]:
    """A server of our own in a fresh home; its URL, once it answers."""
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-m", "stillhouse.cli", "serve", "--home", home, "--port", "0"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            try:
                yield next(line.split()[1] for line in process.stderr if line.startswith("stillhouse: http"))
            finally:
                process.terminate()


def main() -> int:
    with contextlib.ExitStack() as stack:
        url = sys.argv[1] if len(sys.argv) > 1 else stack.enter_context(server())
        talk = stack.enter_context(contextlib.closing(Talk(url)))
        learned(talk, tell(talk))
        ask_again(talk)
    return int(bool(talk.wrong))


if __name__ == "__main__":
    sys.exit(main())
