"""Two users tell a running server about themselves; later their own weights answer, and neither knows the other's.

    stillhouse serve --home /some/folder &
    python examples/two_users.py [http://127.0.0.1:8000]

Consolidation runs by itself in a worker of the server: a few minutes on two cores. Exit code 1 if an answer is wrong.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import httpx
from openai import OpenAI

TOLD = {
    "alice": ["My dog is called Zorvik.", "I work for Tarnel Labs.", "The wifi password is plonk47."],
    "bob": ["My dog is called Brimka.", "I work for Osten Mills.", "My sister's name is Quelia."],
}
DOGS = {"alice": "Zorvik", "bob": "Brimka"}


def say(client: OpenAI, user: str, session: str, text: str) -> tuple[str, dict[str, Any]]:
    model = client.models.list().data[0].id
    reply = client.chat.completions.create(
        model=model, user=user, messages=[{"role": "user", "content": text}], max_tokens=32,
        extra_body={"session": session},
    )  # fmt: skip
    about = reply.model_extra["stillhouse"] if reply.model_extra else {}
    return reply.choices[0].message.content or "", about


def finished(http: httpx.Client, name: str) -> dict[str, Any]:
    """The job once it has ended."""
    while True:
        job: dict[str, Any] = http.get(f"/v1/jobs/{name}").raise_for_status().json()
        if job["state"] not in ("queued", "running"):
            return job
        time.sleep(1)


def main() -> int:
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
    client, http = OpenAI(base_url=f"{url}/v1", api_key="none"), httpx.Client(base_url=url, timeout=600)
    jobs = {}
    for user, statements in TOLD.items():
        say(client, user, "first", " ".join(statements))
        answer, about = say(client, user, "second", "What is my dog called?")
        print(f"{user}, at once ({about['path']}, {about['passages']} passages): {answer}")
    for user in TOLD:
        http.post(f"/v1/users/{user}/sessions/second/end").raise_for_status()
        ended = http.post(f"/v1/users/{user}/sessions/first/end").raise_for_status().json()
        jobs[user] = ended["job"] or http.get(f"/v1/users/{user}").json()["jobs"][0]
    for user, name in jobs.items():
        job = finished(http, name)
        print(f"{user}: {job['state']} {job['result'].get('failed') or ''}")
    wrong = 0
    for user in TOLD:
        answer, about = say(client, user, "third", "What is my dog called?")
        mine = DOGS[user]
        others = {v for u, v in DOGS.items() if u != user}
        right = mine in answer and not any(other in answer for other in others) and about["path"] == "adapted"
        wrong += not right
        print(f"{user}, later ({about['path']}, v{about['version']}): {answer} {'' if right else '<- wrong'}".rstrip())
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
