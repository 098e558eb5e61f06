"""The schema of request bodies: what they may hold, checked before anything is done. Only this file knows pydantic.

In: JSON. Out: checked bodies, with OpenAI's field names where OpenAI has one. Unknown fields are errors. A field for
something that this server does not do is accepted at its neutral value alone. It does not know models or users.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from ...generate.sampling import MAX_TOP

MAX_CHOICES = 16


def _unicode(text: str) -> str:
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("not Unicode text: half of a surrogate pair")
    return text


Text = Annotated[str, AfterValidator(_unicode)]
Name = Annotated[Text, StringConstraints(min_length=1, max_length=512)]
Note = Annotated[Text, StringConstraints(max_length=65_536)]
Stop = Annotated[Text, StringConstraints(min_length=1, max_length=256)]
Token = Annotated[int, Field(ge=0, le=2**31 - 1)]


class Body(BaseModel):
    """Any body: unknown fields, NaN and numbers written as text are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


class TextPart(Body):
    """A part of a message's content; only text is read."""

    type: Literal["text"]
    text: Text


class MessageBody(Body):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]
    name: Text | None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(Body):
    """`include_usage`: a last chunk with the tokens used."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class TextFormat(Body):
    """The only format of answers there is."""

    type: Literal["text"] = "text"


class GenerationBody(Body):
    """What both ways of asking share. `top_k` (-1 or 0: off), `min_p` and `repetition_penalty` are vLLM's."""

    model: Name
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Name | None = None
    session: Name | None = None
    metadata: dict[str, Any] | None = None
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatBody(GenerationBody):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[MessageBody], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP)] | None = None
    response_format: TextFormat | None = None
    store: bool | None = None
    service_tier: Literal["auto", "default"] | None = None
    prompt_cache_key: Name | None = None
    safety_identifier: Text | None = None
    parallel_tool_calls: bool | None = None

    @property
    def wanted_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @model_validator(mode="after")
    def _consistent(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs = true")
        return self


class CompletionBody(GenerationBody):
    """`POST /v1/completions`."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=128)]
        | Annotated[list[Token], Field(min_length=1)]
        | Annotated[list[list[Token]], Field(min_length=1, max_length=128)]
    )
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP)] | None = None
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        return _one_or_many(self.prompt)


class EmbeddingsBody(Body):
    """`POST /v1/embeddings`. `pooling` is ours: the mean over a text's hidden states, or its last one."""

    model: Name
    input: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=2048)]
        | Annotated[list[Token], Field(min_length=1)]
        | Annotated[list[list[Token]], Field(min_length=1, max_length=2048)]
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    pooling: Literal["mean", "last"] = "mean"
    user: Name | None = None

    @property
    def inputs(self) -> list[str | list[int]]:
        return _one_or_many(self.input)


class FeedbackBody(Body):
    """`POST /v1/feedback`: `score`, or `key` with `value`; `id` makes sending it twice harmless."""

    response_id: Name
    score: Annotated[float, Field(ge=-1, le=1)] | None = None
    key: Name | None = None
    value: bool | float | Note | None = None
    comment: Note = ""
    correction: Note = ""
    source: Literal["human", "model", "code"] = "human"
    id: Name | None = None
    user: Name | None = None

    @model_validator(mode="after")
    def _says_something(self) -> FeedbackBody:
        if self.score is None and self.value is None and not self.comment and not self.correction:
            raise ValueError("says nothing: give score, key and value, comment or correction")
        if self.score is not None and (self.key is not None or self.value is not None):
            raise ValueError("score is short for key = 'score' with a value: give one or the other")
        return self


class MemoryBody(Body):
    """`POST /v1/users/{user}/memory`: a text to remember; `consolidate`: now, whatever the policy says."""

    text: Annotated[Text, StringConstraints(min_length=1)]
    replace: bool = False
    consolidate: bool = False
    id: Name | None = None


class RollbackBody(Body):
    """`POST /v1/users/{user}/rollback`: to a version, or to the champion before."""

    version: Annotated[int, Field(ge=1)] | None = None


class ConsolidateBody(Body):
    """`POST /v1/users/{user}/consolidate`: `settings` as for `stillhouse consolidate --set`."""

    settings: Annotated[list[Name], Field(max_length=64)] = []


class KeyBody(Body):
    """`POST /v1/keys`."""

    scope: Literal["user", "tenant", "admin"] = "user"
    tenant: Annotated[Text, StringConstraints(max_length=64)] = ""
    user: Annotated[Text, StringConstraints(max_length=512)] = ""
    days: Annotated[float, Field(gt=0)] | None = None
    note: Note = ""


def _one_or_many(given: Any) -> list[str | list[int]]:
    single = isinstance(given, str) or isinstance(given[0], int)
    return [given] if single else given
